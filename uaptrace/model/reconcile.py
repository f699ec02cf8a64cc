# SPDX-License-Identifier: Apache-2.0
"""The model held against the kernel's own counters: what was lost, which splits nobody saw, where figures differ.

A difference is one only if the reading is quiet, that is of one moment at which everything counted had been taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from uaptrace.abi.events import NR_KINDS, Counter, Kind
from uaptrace.abi.units import LEVELS, NR_ORDERS, PAGE_SIZE, PAGES_PER_1G, PAGES_PER_2M, Level

from .columns import Ints
from .direct_map import DirectMap
from .ledger import Ledger
from .unmapped_cache import UnmappedCache
from .updates import CountersReading

_MAP_KINDS: Final = (Kind.SPLIT, Kind.SET_DIRECT_MAP, Kind.CPA, Kind.UNCERTAIN)
_CACHE_KINDS: Final = (Kind.REFILL, Kind.ALLOC, Kind.FREE, Kind.RELEASE, Kind.REFILL_UNDONE)
_NAME_KINDS: Final = (Kind.TASK, Kind.STACK)
Rows = tuple[int, ...]
NO_SPLITS: Final = MappingProxyType({Level.M2: 0, Level.G1: 0})


@dataclass(frozen=True, slots=True)
class NewLoss:
    """What a reading says was lost since the one before."""

    records: int
    """Records that found no room, or were sent and did not arrive."""
    runs: int
    """Calls that no program followed."""
    of_map: bool
    """The direct map may have changed unseen."""
    of_cache: bool
    of_audit: bool
    """Something that an invariant is judged by."""

    @property
    def reason(self) -> str:
        """One sentence."""
        what = [f"{self.records} records"] * bool(self.records) + [f"{self.runs} runs of a program"] * bool(self.runs)
        return f"{' and '.join(what)} were lost"


class Losses:
    """What did not reach the model, by the kernel's counters. All cumulative."""

    def __init__(self) -> None:
        self.lost: Ints = np.zeros(NR_KINDS + 1, np.int64)
        """By kind: no room in the ring."""
        self.missing: Ints = np.zeros(NR_KINDS + 1, np.int64)
        """By kind: put into the ring, but never taken in."""
        self.missed_runs: int | None = None
        """None as long as no reading has said it."""
        self.contexts_lost = 0
        self._emitted_before: Ints | None = None

    def take(self, reading: CountersReading, taken: Ints) -> NewLoss:
        """Compare with a reading; ``taken``: records taken in, by kind."""
        n = NR_KINDS + 1
        # What was counted once was lost, whatever a damaged reading says later.
        lost = np.maximum(reading.words[Counter.LOST : Counter.LOST + n].astype(np.int64), self.lost)
        missing = self.missing
        if reading.quiet:
            emitted = reading.words[Counter.EMITTED : Counter.EMITTED + n].astype(np.int64)
            if self._emitted_before is None:
                # A recording may begin later than its counters did.
                self._emitted_before = emitted if not taken.any() else np.zeros(n, np.int64)
            missing = np.maximum(emitted - self._emitted_before - taken[:n], self.missing)
        contexts = max(int(reading.words[Counter.CONTEXT_LOST]), self.contexts_lost)
        missed_runs = self.missed_runs if reading.missed_runs is None else max(reading.missed_runs, self.missed_runs or 0)
        new = (lost - self.lost) + (missing - self.missing)
        runs = ((missed_runs or 0) - (self.missed_runs or 0)) + (contexts - self.contexts_lost)
        self.lost, self.missing, self.missed_runs, self.contexts_lost = lost, missing, missed_runs, contexts
        return NewLoss(
            records=int(new.sum()),
            runs=runs,
            of_map=bool(runs or new[list(_MAP_KINDS)].any()),
            of_cache=bool(runs or new[list(_CACHE_KINDS)].any()),
            of_audit=bool(runs or new.sum() != new[list(_NAME_KINDS)].sum()),
        )


class SplitComparison:
    """vmstat's split counters against the records.

    Splits of other mappings (vmalloc, modules) are counted by some kernels and not by others, and nothing tells which. So what
    vmstat counts beyond the records of the direct map and the kernel image may be as many of those as records tell of. What is more
    than that, or is found split in the page tables without a record, is unexplained.
    """

    def __init__(self) -> None:
        self.unexplained = {Level.M2: 0, Level.G1: 0}
        """Those that two quiet comparisons found, one after the other: never taken back."""
        self.undecided = {Level.M2: 0, Level.G1: 0}
        """Those that the last one found for the first time: their records may be on their way."""
        self.counted_elsewhere = {Level.M2: 0, Level.G1: 0}
        """Splits of other mappings that vmstat counted."""
        self.surplus = {Level.M2: 0, Level.G1: 0}
        """Splits that records tell of and the kernel did not count."""
        self.kernel_total: dict[Level, int] | None = None
        """The kernel's counters since boot."""
        self._beyond = {Level.M2: 0, Level.G1: 0}
        self._base: dict[Level, int] | None = None
        self._base_is_sure = False
        self.collapses: dict[Level, int] | None = None
        """The kernel's counters of collapses since boot."""

    @property
    def is_waiting(self) -> bool:
        """Another comparison decides whether something is unexplained."""
        return any(self.undecided.values())

    def take(self, reading: CountersReading, ledger: Ledger, found: Mapping[Level, int]) -> str:
        """Why the map must be read again; empty where it need not be. ``found``: splits that only re-readings showed."""
        self._keep_total(reading)
        if not reading.quiet:
            return ""
        more = self._explain(self._counted(reading), ledger, found)
        collapsed = self._collapsed(reading)
        return f"{more} splits that no record explains" if more else collapsed

    def _keep_total(self, reading: CountersReading) -> None:
        if reading.splits_total is not None:
            known = self.kernel_total or {}
            self.kernel_total = {**known, **{level: max(n, known.get(level, 0)) for level, n in reading.splits_total.items()}}

    def _counted(self, reading: CountersReading) -> dict[Level, int]:
        """Splits since tracing began: by the kernel where it counts them, else by the programs."""
        counted = {Level.M2: int(reading.words[Counter.SPLIT_2M]), Level.G1: int(reading.words[Counter.SPLIT_1G])}
        if reading.splits_total is None or any(level not in reading.splits_total for level in counted):
            return counted
        total = {level: int(reading.splits_total[level]) for level in counted}
        if self._base is None:
            self._base = {level: total[level] - counted[level] for level in counted}
        elif not self._base_is_sure:
            # The first reading may have been of a moment when a split was counted and its record was not sent yet.
            self._base = {level: min(base, total[level] - counted[level]) for level, base in self._base.items()}
            self._base_is_sure = True
        return {level: total[level] - self._base[level] for level in counted}

    def _explain(self, counted: Mapping[Level, int], ledger: Ledger, found: Mapping[Level, int]) -> int:
        """Hold what was counted against the ledger. How many more are beyond it than were before."""
        more = 0
        for level, number in counted.items():
            beyond = max(0, number - ledger.counted[level])
            more += max(0, beyond - self._beyond[level])
            self._beyond[level] = beyond
            self.surplus[level] = max(0, ledger.counted[level] - number)
            maybe_elsewhere = min(beyond, ledger.elsewhere[level])
            here = max(beyond - maybe_elsewhere, min(beyond, found[level]))
            self.counted_elsewhere[level] = beyond - here
            certain = min(here, self.unexplained[level] + self.undecided[level])
            self.unexplained[level] = max(self.unexplained[level], certain)
            self.undecided[level] = max(0, here - self.unexplained[level])
        return more

    def _collapsed(self, reading: CountersReading) -> str:
        if reading.collapses_total is None:
            return ""
        before, self.collapses = self.collapses, {level: int(n) for level, n in reading.collapses_total.items()}
        return "mappings were collapsed into larger ones" if before is not None and before != self.collapses else ""


class MeminfoComparison:
    """Changes of meminfo's DirectMap lines against changes of the model. Their absolute values are not comparable."""

    def __init__(self) -> None:
        self.error_bytes: int | None = None
        self._kernel: dict[Level, int] | None = None
        self._model: dict[Level, int] = {}
        self._base_is_sure = False
        self._questioned: dict[Level, int] | None = None
        self._questioned_after = 0

    def take(
        self, reading: CountersReading, direct_map: DirectMap, ledger: Ledger, splits: SplitComparison, nr_complete_readings: int
    ) -> str:
        """Why the map must be read again; empty where it need not be. Only for a map of which nothing is uncertain."""
        if not reading.quiet or reading.direct_map_bytes is None or not direct_map.is_read:
            return ""
        kernel = {level: int(reading.direct_map_bytes.get(level, 0)) for level in LEVELS}
        model = self._granularity(direct_map, ledger, splits)
        if self._kernel is None:
            self._kernel, self._model = kernel, model
            return ""
        difference = {level: (kernel[level] - self._kernel[level]) - (model[level] - self._model[level]) for level in LEVELS}
        if not self._base_is_sure:
            self._base_is_sure = True
            if any(difference.values()):
                # The first reading may have been of a moment when a split was counted and its record was not sent yet.
                self._kernel, self._model = kernel, model
                return ""
        self.error_bytes = max(abs(n) for n in difference.values())
        if self.error_bytes == 0 or (difference == self._questioned and nr_complete_readings > self._questioned_after):
            return ""  # equal, or the page tables were read because of it and stand: they are the truth
        self._questioned, self._questioned_after = difference, nr_complete_readings
        return "meminfo's DirectMap lines changed otherwise than the state"

    @staticmethod
    def _granularity(direct_map: DirectMap, ledger: Ledger, splits: SplitComparison) -> dict[Level, int]:
        """The model's figures as the kernel counts: whatever split vmstat counts changes DirectMap lines too, wherever it is."""
        figures = direct_map.figures().granularity_bytes()
        size_2m, size_1g = PAGES_PER_2M * PAGE_SIZE, PAGES_PER_1G * PAGE_SIZE
        beside = {
            level: ledger.in_kernel_image[level] + splits.counted_elsewhere[level] - ledger.uncounted[level]
            for level in (Level.M2, Level.G1)
        }
        figures[Level.K4] += beside[Level.M2] * size_2m
        figures[Level.M2] += beside[Level.G1] * size_1g - beside[Level.M2] * size_2m
        figures[Level.G1] -= beside[Level.G1] * size_1g
        return figures


class RowComparison:
    """The debugfs rows of the unmapped cache against the rebuilt ones."""

    def __init__(self) -> None:
        self.error_blocks: int | None = None
        self.kernel_free: Rows | None = None
        self.kernel_cached: Rows | None = None
        self.kernel_released: Rows | None = None
        self._cached_base: Ints = np.zeros(NR_ORDERS, np.int64)
        self._released_base: Ints = np.zeros(NR_ORDERS, np.int64)
        self._refills_lost: Ints = np.zeros(NR_ORDERS, np.int64)
        self._releases_lost: Ints = np.zeros(NR_ORDERS, np.int64)
        self._shown: dict[str, Ints] = {}
        self._set_base = True
        self._difference: tuple[int, ...] = ()
        self._confirmed = False
        """Two comparisons in a row found a difference. One alone may be a call that was between its record and the list."""
        self._questioned: tuple[int, ...] = ()
        self._questioned_after = 0

    def set_base_again(self) -> None:
        """The cache was read: at the next quiet moment its cumulative rows are the kernel's."""
        self._set_base = True

    def take_rows(self, cached: Rows | None, released: Rows | None, cache: UnmappedCache) -> None:
        """Cumulative rows that came with a reading of the cache itself; good until the first quiet comparison."""
        if self._set_base and cached is not None and released is not None:
            self._cached_base = _orders(cached) - self._refilled(cache)
            self._released_base = _orders(released) - self._released(cache)
            self.kernel_cached, self.kernel_released = cached, released

    def take(self, reading: CountersReading, cache: UnmappedCache, nr_cache_readings: int) -> str:
        """Why the cache must be read again; empty where it need not be."""
        if reading.rows_free is None or reading.rows_cached is None or reading.rows_released is None:
            return ""
        self.kernel_free, self.kernel_cached, self.kernel_released = reading.rows_free, reading.rows_cached, reading.rows_released
        if not reading.quiet:
            return ""
        refills = reading.words[Counter.REFILL_ORDER : Counter.REFILL_ORDER + NR_ORDERS].astype(np.int64)
        releases = reading.words[Counter.RELEASE_ORDER : Counter.RELEASE_ORDER + NR_ORDERS].astype(np.int64)
        self._refills_lost = np.maximum(refills - cache.by_order[Kind.REFILL], 0)
        self._releases_lost = np.maximum(releases - cache.by_order[Kind.RELEASE], 0)
        if not cache.is_read or cache.pending:
            return ""  # a chunk that is being refilled is on no list yet
        if self._set_base:
            self._cached_base = _orders(reading.rows_cached) - self._refilled(cache)
            self._released_base = _orders(reading.rows_released) - self._released(cache)
            self._set_base = False
        kernel = (_orders(reading.rows_free), _orders(reading.rows_cached), _orders(reading.rows_released))
        model = (_orders(cache.free_blocks()), self.cached(cache), self.released(cache))
        difference = np.concatenate([k - m for k, m in zip(kernel, model, strict=True)])
        self._confirmed = bool(self.error_blocks) and bool(difference.any())
        self._difference = tuple(difference.tolist())
        self.error_blocks = int(np.abs(difference).sum())
        if not self._confirmed or (self._difference == self._questioned and nr_cache_readings > self._questioned_after):
            return ""  # equal, or reading the cache again did not help: the difference is shown
        self._questioned, self._questioned_after = self._difference, nr_cache_readings
        return self.reason

    @property
    def reason(self) -> str:
        """What differed at the last two comparisons; empty where nothing did."""
        if not self._confirmed:
            return ""
        names = ("Free", "Cached", "Released")
        rows = [name for i, name in enumerate(names) if any(self._difference[i * NR_ORDERS : (i + 1) * NR_ORDERS])]
        return f"the cache differs from debugfs by {self.error_blocks} blocks in {', '.join(rows)}"

    @property
    def is_waiting(self) -> bool:
        """A difference was found once, and another comparison decides whether it is one."""
        return bool(self.error_blocks) and not self._confirmed

    def _refilled(self, cache: UnmappedCache) -> Ints:
        return cache.by_order[Kind.REFILL] - cache.by_order[Kind.REFILL_UNDONE] + self._refills_lost

    def _released(self, cache: UnmappedCache) -> Ints:
        return cache.by_order[Kind.RELEASE] + self._releases_lost

    def cached(self, cache: UnmappedCache) -> Ints:
        """Chunks that came in since boot, by order."""
        return self._cached_base + self._refilled(cache)

    def released(self, cache: UnmappedCache) -> Ints:
        """Blocks given back since boot, by order."""
        return self._released_base + self._released(cache)

    def totals(self, cache: UnmappedCache) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both as counters that never fall: the kernel's own rows, and without those what is certain by records."""
        under_way = np.zeros(NR_ORDERS, np.int64)
        for refill in cache.pending.values():
            under_way[min(max(0, refill.nr_pages.bit_length() - 1), NR_ORDERS - 1)] += 1
        cached = self.cached(cache) - under_way if self.kernel_cached is None else _orders(self.kernel_cached)
        released = self.released(cache) if self.kernel_released is None else _orders(self.kernel_released)
        return self._never_less("cached", cached), self._never_less("released", released)

    def _never_less(self, name: str, row: Ints) -> tuple[int, ...]:
        self._shown[name] = np.maximum(self._shown.get(name, np.zeros(NR_ORDERS, np.int64)), row)
        return tuple(self._shown[name].tolist())


def _orders(row: Rows) -> Ints:
    out = np.zeros(NR_ORDERS, np.int64)
    out[: min(len(row), NR_ORDERS)] = row[:NR_ORDERS]
    return out
