# SPDX-License-Identifier: Apache-2.0
"""Counters of perf_event_open(2): one event on one CPU, in kernel mode of this host.

Numbers and layout are those of include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from uaptrace.model.walks import Count

_SYS_PERF_EVENT_OPEN: Final = 298
"""On x86-64."""
_HARDWARE, _SOFTWARE, _RAW = 0, 1, 4
_TIMES: Final = 1 | 2
"""PERF_FORMAT_TOTAL_TIME_ENABLED and PERF_FORMAT_TOTAL_TIME_RUNNING."""
_EXCLUDE_USER, _EXCLUDE_HV, _EXCLUDE_GUEST = 1 << 4, 1 << 6, 1 << 20
_CLOSE_ON_EXEC: Final = 8
_ATTRIBUTES: Final = struct.Struct("=IIQQQQQIIQ")
"""The first published size of struct perf_event_attr, which each kernel takes."""
_READING: Final = struct.Struct("=QQQ")


@dataclass(frozen=True, slots=True)
class PerfEvent:
    """Type and number of an event."""

    kind: int
    config: int


HARDWARE_CYCLES: Final = PerfEvent(_HARDWARE, 0)
SOFTWARE_CPU_CLOCK: Final = PerfEvent(_SOFTWARE, 0)
SOFTWARE_CONTEXT_SWITCHES: Final = PerfEvent(_SOFTWARE, 3)


def raw_event(event: int, unit_mask: int, counter_mask: int = 0) -> PerfEvent:
    """As /sys/bus/event_source/devices/cpu/format has it for Intel and AMD."""
    return PerfEvent(_RAW, event | unit_mask << 8 | counter_mask << 24)


def open_counter(event: PerfEvent, cpu: int) -> int:
    """A descriptor for read_counter(). It counts from now on, whatever runs on that CPU. Raises OSError."""
    flags = _EXCLUDE_USER | _EXCLUDE_HV | _EXCLUDE_GUEST
    attributes = _ATTRIBUTES.pack(event.kind, _ATTRIBUTES.size, event.config, 0, 0, _TIMES, flags, 0, 0, 0)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    number = (ctypes.c_long(_SYS_PERF_EVENT_OPEN), attributes, ctypes.c_int(-1), ctypes.c_int(cpu), ctypes.c_int(-1))
    fd: int = call(*number, ctypes.c_ulong(_CLOSE_ON_EXEC))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd


def read_counter(fd: int) -> Count:
    """What it has counted. Raises OSError, also where the kernel no longer says."""
    data = os.read(fd, _READING.size)
    if len(data) != _READING.size:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return Count(*_READING.unpack(data))
