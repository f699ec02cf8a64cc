# SPDX-License-Identifier: Apache-2.0
"""What a kernel's configuration needs for a trial."""

from __future__ import annotations

from typing import Final

NEEDS: Final = {
    "BPF programs and their types": ("BPF_SYSCALL", "BPF_JIT", "DEBUG_INFO_BTF", "BPF_EVENTS"),
    "hooks": ("FTRACE", "FUNCTION_TRACER", "DYNAMIC_FTRACE", "KPROBES", "KPROBE_EVENTS"),
    "addresses of the kernel, and its memory": ("KALLSYMS", "KALLSYMS_ALL", "PROC_KCORE"),
    "an independent reading, and shrinkers": ("DEBUG_FS", "PTDUMP_DEBUGFS", "SHRINKER_DEBUG"),
    "secret memory, for the work": ("SECRETMEM",),
    "files of this machine in the guest": ("NET_9P", "NET_9P_VIRTIO", "9P_FS", "OVERLAY_FS", "TMPFS", "DEVTMPFS"),
    "its console and its ports": ("PCI", "VIRTIO_PCI", "VIRTIO_CONSOLE", "SERIAL_8250", "SERIAL_8250_CONSOLE"),
}
"""Options by what they are for."""


def kconfig_fragment() -> str:
    """A fragment for scripts/kconfig/merge_config.sh."""
    lines = []
    for what, options in NEEDS.items():
        lines += [f"# {what}", *(f"CONFIG_{option}=y" for option in options)]
    return "\n".join(lines) + "\n"
