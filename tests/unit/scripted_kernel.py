# SPDX-License-Identifier: Apache-2.0
"""A kernel of a few regions whose hooks can be silent, as the feed of a session: the real reader on made-up page tables, records
by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tests.model.build import Ring
from tests.unit.page_table_memory import FakeMemory
from uaptrace.abi.events import COUNTER_WORDS, Counter, Kind
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.kernel.beat_figures import MapFigures
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, CountersReading, MapReading, Records, Start, Update

HOOKS = tuple(HookStatus(name, name, "kprobe") for name in ("cpa", "flush_all", "set_invalid", "set_default"))


class ScriptedKernel:
    """``hooked``: whether the hooks are called now."""

    def __init__(self, nr_regions: int = 16, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.now_ns = now_ns
        self.memory = FakeMemory(5)
        self.nr_regions = nr_regions
        self.split_regions: set[int] = set()
        for region in range(nr_regions):
            self.memory.map(region * PAGES_PER_2M, 21, present=True)
        self.hooked = True
        self.off: dict[str, str] = {}
        self.unhooked: list[int] = []
        self.words = np.zeros(COUNTER_WORDS, np.uint64)
        self.splits = 7
        self.faults = 0
        self.unseen_pages = 0
        self.error: Exception | None = None
        """Raised at the next look into the ring."""
        self._may_run = threading.Event()
        self._may_run.set()
        self.quiet = True
        self.looks = 0
        self._ring = Ring(now_ns())
        self._woken = threading.Event()
        self._tables = self.memory.reader(now_ns)

    # ---- what happens in the kernel ----

    def split(self, region: int) -> None:
        table, index = self.memory.table_of(self.memory.page_offset + (region << 21), 21)
        table[index] = 0
        for page in range(PAGES_PER_2M):
            self.memory.map(region * PAGES_PER_2M + page, 12, present=True)
        self.split_regions.add(region)
        self.splits += 1
        if self.hooked:
            self._ring.split(region * PAGES_PER_2M, time_ns=self.now_ns())
            self._count(Counter.SPLIT_2M, Kind.SPLIT)

    def unmap(self, pfn: int) -> None:
        self.memory.map(pfn, 12, present=False)
        if self.hooked:
            self._ring.unmap(pfn, time_ns=self.now_ns())
            self._count(Counter.SET_INVALID, Kind.SET_DIRECT_MAP)

    def remap(self, pfn: int) -> None:
        self.memory.map(pfn, 12, present=True)
        if self.hooked:
            self._ring.remap(pfn, time_ns=self.now_ns())
            self._count(Counter.SET_DEFAULT, Kind.SET_DIRECT_MAP)

    def change_attributes(self) -> None:
        """A call that changes nothing that is seen here, such as one for a mapping that is not the direct one."""
        if self.hooked:
            self.words[Counter.CPA] += np.uint64(1)

    def plug_in(self, region: int) -> None:
        """Memory is added."""
        self.memory.map(region * PAGES_PER_2M, 21, present=True)
        self.nr_regions = max(self.nr_regions, region + 1)

    def take_out(self, region: int) -> None:
        """Memory is removed."""
        table, index = self.memory.table_of(self.memory.page_offset + (region << 21), 21)
        table[index] = 0

    def lose_records(self) -> None:
        """What is in the ring and was not taken finds no room after all."""
        for record in self._ring.take().batch:
            kind = int(record["kind"])
            self.words[Counter.EMITTED + kind] -= np.uint64(1)
            self.words[Counter.LOST + kind] += np.uint64(1)

    def _count(self, counter: Counter, kind: Kind) -> None:
        self.words[counter] += np.uint64(1)
        self.words[Counter.EMITTED + kind] += np.uint64(1)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The loop hangs at its next look into the ring, until the block ends, in whichever way."""
        self._may_run.clear()
        try:
            yield
        finally:
            self._may_run.set()

    # ---- a session's source ----

    def start(self) -> Start:
        return Start(HostInfo(), HOOKS, self.now_ns(), time.time(), frozenset())

    def wait(self, timeout_s: float | None) -> bool:
        if self._ring.taken < len(self._ring.rows):
            return True
        woken = self._woken.wait(timeout_s)
        self._woken.clear()
        return woken

    def rest(self, timeout_s: float) -> None:
        pass

    def wake(self) -> None:
        self._woken.set()

    def records(self) -> Iterator[Update]:
        self._may_run.wait()
        if self.error is not None:
            raise self.error
        taken = self._ring.take()
        if len(taken.batch):
            yield Records(taken.batch)

    def names(self) -> Iterator[Update]:
        return iter(())

    def cgroups(self, ids: Iterable[int]) -> Iterator[Update]:
        return iter(())

    def read_map(self, ranges: Sequence[tuple[int, int]] | None = None) -> list[MapReading]:
        if ranges is None:
            return [self._tables.read_all()]
        return [self._tables.read_regions(first, nr) for first, nr in ranges]

    def read_cache(self, regions: Iterable[int]) -> CacheReading | None:
        return None

    def read_counters(self, pageblocks: Iterable[int] = ()) -> CountersReading:
        split = len(self.split_regions) * PAGES_PER_2M * PAGE_SIZE
        whole = self.nr_regions * PAGES_PER_2M * PAGE_SIZE
        return CountersReading(
            time_ns=self.now_ns(),
            words=self.words.copy(),
            missed_runs=0,
            splits_total={Level.M2: self.splits, Level.G1: 0},
            collapses_total=None,
            direct_map_bytes={Level.K4: split, Level.M2: whole - split, Level.G1: 0},
            rows_free=None,
            rows_cached=None,
            rows_released=None,
            quiet=self.quiet,
            hooks_off=dict(self.off),
            unseen_pages=self.unseen_pages,
        )

    # ---- what the heartbeat watches ----

    def hooks_off(self) -> dict[str, str]:
        return dict(self.off)

    def figures(self) -> MapFigures:
        counted = int(self.words[Counter.SPLIT_2M] + self.words[Counter.SPLIT_1G])
        mapped_kib = self.nr_regions * PAGES_PER_2M * PAGE_SIZE >> 10
        return MapFigures(self.splits, 0, mapped_kib, self.faults, counted)

    def look(self, first_region: int, max_tables: int, end_region: int) -> tuple[MapReading, bool]:
        self.looks += 1
        return self._tables.read_part(first_region, max_tables, end_region), self.quiet

    def unhooked_regions(self) -> list[int]:
        return self.unhooked

    def true_map(self) -> MapReading:
        """The tables as they are."""
        return self._tables.read_all()
