# SPDX-License-Identifier: Apache-2.0
"""perf_event_open(2), for which neither Python nor libbpf has a function (include/uapi/linux/perf_event.h)."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import Any, Final

_FD_CLOEXEC: Final = 8
"""PERF_FLAG_FD_CLOEXEC."""
_PERF_EVENT_OPEN: Final = {"x86_64": 298}


class PerfEventAttr(ctypes.Structure):
    """struct perf_event_attr as far as PERF_ATTR_SIZE_VER1; the kernel's names, those of kprobes for what has several."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("kprobe_func", ctypes.c_uint64),
        ("probe_offset", ctypes.c_uint64),
    )


def perf_event_open(attr: PerfEventAttr, cpu: int) -> int:
    """Descriptor of an event of no process, on one CPU. Sets ``attr.size``. Raises OSError."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(f"uaptrace does not know the number of perf_event_open() on {platform.machine()}")
    attr.size = ctypes.sizeof(attr)
    answer = int(_libc().syscall(number, ctypes.byref(attr), -1, cpu, -1, ctypes.c_ulong(_FD_CLOEXEC)))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
