# SPDX-License-Identifier: Apache-2.0
"""Kprobes as perf events (include/uapi/linux/perf_event.h, Documentation/trace/kprobes.rst): gone with their descriptors."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

from uaptrace.ebpf.perf_events import PerfEventAttr, perf_event_open

_PMU: Final = Path("/sys/bus/event_source/devices/kprobe")
_IOC_ENABLE: Final = 0x2400
_IOC_SET_BPF: Final = 0x40042408
"""PERF_EVENT_IOC_ENABLE and PERF_EVENT_IOC_SET_BPF."""


def attach_kprobe(program_fd: int, symbol: str, *, is_exit: bool, pmu: Path = _PMU) -> int:
    """Call a program of kind KPROBE where the function is entered, or where it returns: the perf event's descriptor.

    ``pmu``: the folder of the kernel's kprobe events. Raises OSError.
    """
    event_type = int((pmu / "type").read_text())
    # config:0 on every kernel so far.
    bit = int((pmu / "format/retprobe").read_text().strip().removeprefix("config:"))
    function = ctypes.create_string_buffer(symbol.encode())
    attr = PerfEventAttr(type=event_type, config=int(is_exit) << bit, kprobe_func=ctypes.addressof(function))
    # Of no process and on one CPU: where it is called does not follow from that, it is called everywhere.
    fd = perf_event_open(attr, 0)
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program_fd)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError:
        os.close(fd)
        raise
    return fd
