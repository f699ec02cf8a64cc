# SPDX-License-Identifier: Apache-2.0
"""Counters of perf_event_open(2): one event on one CPU, in kernel mode of this host.

Numbers and layout are those of include/uapi/linux/perf_event.h.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from uaptrace.ebpf.perf_events import PerfEventAttr, perf_event_open

_HARDWARE, _SOFTWARE, _RAW = 0, 1, 4
_TIMES: Final = 1 | 2
"""PERF_FORMAT_TOTAL_TIME_ENABLED and PERF_FORMAT_TOTAL_TIME_RUNNING."""
_EXCLUDE_USER, _EXCLUDE_HV, _EXCLUDE_GUEST = 1 << 4, 1 << 6, 1 << 20
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
    return perf_event_open(PerfEventAttr(type=event.kind, config=event.config, read_format=_TIMES, flags=flags), cpu)


def read_counter(fd: int) -> tuple[int, int, int]:
    """Events counted, and for how long it was enabled and really counted, in nanoseconds. Raises OSError, also where the kernel no
    longer says."""
    data = os.read(fd, _READING.size)
    if len(data) != _READING.size:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    value, enabled_ns, running_ns = _READING.unpack(data)
    return value, enabled_ns, running_ns
