# SPDX-License-Identifier: Apache-2.0
"""Counts the kernel's walks of page tables with the processor's own counters, on every CPU."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from uaptrace.abi.errors import CannotTraceError
from uaptrace.cost.walk_events import WalkEvents, walk_events
from uaptrace.ebpf.perf_counters import PerfEvent, open_counter, read_counter
from uaptrace.kernel.processor import online_cpus
from uaptrace.kernel.tlb import this_cpuid
from uaptrace.model.walks import Count, ScaledCount, WalkCounts


class WalkCounters:
    """Open counters: one for each event and CPU that is online now. A CPU that comes later is not counted.

    Opening needs root or CAP_PERFMON; reading needs nothing. Raises OSError.
    """

    def __init__(self, events: WalkEvents, cpus: Iterable[int]) -> None:
        self._counters: dict[PerfEvent, list[tuple[int, ScaledCount]]] = {}
        self._events = events
        self._nr_cpus = 0
        try:
            for cpu in cpus:
                for event in (events.cycles, *events.walks, *events.walk_cycles):
                    self._counters.setdefault(event, []).append((open_counter(event, cpu), ScaledCount()))
                self._nr_cpus += 1
        except BaseException:
            self.close()
            raise

    def read(self) -> WalkCounts:
        """What they have counted since they were opened. One that the kernel says nothing of any more stays at what it had."""
        enabled_ns = running_ns = 0
        for counters in self._counters.values():
            for fd, scaled in counters:
                with contextlib.suppress(OSError):
                    count = Count(*read_counter(fd))
                    scaled.take(count)
                    enabled_ns += count.enabled_ns
                    running_ns += count.running_ns
        return WalkCounts(
            cycles=self._total([self._events.cycles]),
            walks=self._total(self._events.walks),
            walk_cycles=self._total(self._events.walk_cycles) if self._events.walk_cycles else None,
            nr_cpus=self._nr_cpus,
            counted_share=running_ns / enabled_ns if enabled_ns else 0.0,
        )

    def _total(self, events: Sequence[PerfEvent]) -> int:
        return sum(scaled.total for event in events for _, scaled in self._counters[event])

    def close(self) -> None:
        """May be called again."""
        for counters in self._counters.values():
            for fd, _ in counters:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._counters = {event: [] for event in self._counters}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_walk_counters() -> WalkCounters:
    """Of this host. Raises CannotTraceError with the reason where it has none."""
    cpuid = this_cpuid()
    if cpuid is None:
        raise CannotTraceError("page walks cannot be counted: uaptrace was built without a C compiler, so the processor is not known")
    events = walk_events(cpuid)
    if isinstance(events, str):
        raise CannotTraceError(f"page walks cannot be counted: the events of this processor are not known ({events})")
    try:
        return WalkCounters(events, online_cpus(Path("/")))
    except OSError as error:
        raise CannotTraceError(f"page walks cannot be counted: {_reason(error)}") from None


def count_walks(seconds: float) -> WalkCounts:
    """All that happens for so long. Raises CannotTraceError."""
    with open_walk_counters() as counters:
        time.sleep(seconds)
        return counters.read()


def walks_error() -> str | None:
    """Why walks cannot be counted here; None where they can."""
    try:
        open_walk_counters().close()
    except CannotTraceError as error:
        return str(error).removeprefix("page walks cannot be counted: ")
    return None


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
        return "the kernel has no performance counters of this processor (in a virtual machine the host must pass them on)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "it needs root or CAP_PERFMON"
    if error.errno == errno.EMFILE:
        return "too many open files: raise the limit (ulimit -n)"
    return error.strerror or str(error)
