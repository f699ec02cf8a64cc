# SPDX-License-Identifier: Apache-2.0
"""Files that the loader opens as root. Their descriptors serve a process without any privilege."""

from __future__ import annotations

from typing import Final

FILES: Final = {
    "kcore": "/proc/kcore",
    "kallsyms": "/proc/kallsyms",
    "modules": "/proc/modules",
    "unmapped_alloc": "/sys/kernel/debug/unmapped_alloc",
    "ptdump": "/sys/kernel/debug/page_tables/kernel",
    "kprobes_enabled": "/sys/kernel/debug/kprobes/enabled",
    "ftrace_enabled": "/proc/sys/kernel/ftrace_enabled",
}
"""Paths by the keys of attach.Loaded.files. What cannot be opened is left out there."""
