# SPDX-License-Identifier: Apache-2.0
"""Kprobes as perf events (include/uapi/linux/perf_event.h, Documentation/trace/kprobes.rst): gone with their descriptors."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import platform
from pathlib import Path
from typing import Any, Final

_PMU: Final = Path("/sys/bus/event_source/devices/kprobe")
_FD_CLOEXEC: Final = 8
_PERF_EVENT_OPEN: Final = {"x86_64": 298}
_IOC_ENABLE: Final = 0x2400
_IOC_SET_BPF: Final = 0x40042408
"""PERF_FLAG_FD_CLOEXEC, PERF_EVENT_IOC_ENABLE and PERF_EVENT_IOC_SET_BPF."""


class _Attr(ctypes.Structure):
    """struct perf_event_attr as far as PERF_ATTR_SIZE_VER1."""

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


def attach_kprobe(program_fd: int, symbol: str, *, is_exit: bool, pmu: Path = _PMU) -> int:
    """Call a program of kind KPROBE where the function is entered, or where it returns: the perf event's descriptor.

    ``pmu``: the folder of the kernel's kprobe events. Raises OSError.
    """
    event_type = int((pmu / "type").read_text())
    # config:0 on every kernel so far.
    bit = int((pmu / "format/retprobe").read_text().strip().removeprefix("config:"))
    function = ctypes.create_string_buffer(symbol.encode())
    attr = _Attr(
        type=event_type,
        size=ctypes.sizeof(_Attr),
        config=int(is_exit) << bit,
        kprobe_func=ctypes.addressof(function),
    )
    # Of no process and on one CPU: where it is called does not follow from that, it is called everywhere.
    fd = _perf_event_open(attr, -1, 0, -1, _FD_CLOEXEC)
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program_fd)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _perf_event_open(attr: ctypes.Structure, pid: int, cpu: int, group_fd: int, flags: int) -> int:
    """Descriptor of the event (man 2 perf_event_open), for which neither Python nor libbpf has a function. Raises OSError."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise OSError(f"uaptrace does not know the number of perf_event_open() on {platform.machine()}")
    answer = int(_libc().syscall(number, ctypes.byref(attr), pid, cpu, group_fd, ctypes.c_ulong(flags)))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
