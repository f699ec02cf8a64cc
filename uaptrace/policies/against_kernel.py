# SPDX-License-Identifier: Apache-2.0
"""The simulation against the kernel that was traced: the same requests must come to the same figures.

unmapped_alloc against debugfs's rows on a kernel that has it, ``none`` against vmstat's split counters on one that has not.
Everything comes from a recording (or a live session's updates): requests and places from the records, the kernel's own
figures from the readings that were taken while nothing happened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK, Flag, Kind
from uaptrace.abi.units import NR_ORDERS, PAGES_PER_2M, Level
from uaptrace.model.updates import CacheReading, CountersReading, MapReading, Records, Update
from uaptrace.policies.engine_layout import Count, Design, RequestFlag
from uaptrace.policies.physical_memory import TOP_BLOCK, Memory, fresh_map, recorded_memory
from uaptrace.policies.requests import RequestBuilder, requests_from_updates
from uaptrace.policies.simulation import CacheRows, Simulation

MAX_TRIES: Final = 120

_KINDS: Final = (Kind.ALLOC, Kind.FREE, Kind.REFILL, Kind.REFILL_UNDONE, Kind.RELEASE, Kind.SHRINK)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows at one quiet moment. ``requests``: how many were served before it."""

    time_ns: int
    requests: int
    simulated: CacheRows
    kernel: CacheRows

    @property
    def differing_blocks(self) -> int:
        """Sum over rows and orders of the differences."""
        pairs = zip(_flat(self.simulated), _flat(self.kernel), strict=True)
        return sum(abs(a - b) for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Check:
    comparisons: tuple[Comparison, ...]
    """One for each quiet reading after the one that the check began at; empty where there was none."""
    nr_requests: int
    nr_blocks: int
    """Blocks that both handed out."""
    nr_blocks_elsewhere: int
    """Of these, those that the kernel took from another place: records are missing, or came in another order than it happened."""
    nr_impossible: int
    """Frees and refills of pages that the simulation had in its cache: records are missing."""

    @property
    def agrees(self) -> bool:
        """Nothing differs, and there was something to compare."""
        exact = all(c.differing_blocks == 0 for c in self.comparisons) and not self.nr_blocks_elsewhere and not self.nr_impossible
        return exact and bool(self.comparisons)


@dataclass(slots=True)
class _Seen:
    builder: RequestBuilder
    in_use: dict[int, tuple[int, int]]
    """First page -> (ident, order)."""
    before: list[tuple[int, int, int]]
    """(ident, pfn, order) of blocks that were in use when the check began."""
    refills: list[tuple[int, int]]
    marks: list[tuple[int, int, CacheRows]]
    allocated: list[tuple[int, int]]
    scanned_pages: int = 0
    """Released by scans of the shrinker that have not returned."""

    def mark(self, time_ns: int, rows: CacheRows) -> None:
        """A moment to compare at, unless a scan has not returned: the simulation releases when it is told, which is at its end."""
        if not self.scanned_pages:
            self.marks.append((time_ns, len(self.builder), rows))


def check_unmapped_alloc(updates: Iterable[Update]) -> Check:
    """Simulate unmapped_alloc from the first quiet moment at which the cache's lists are known, and compare at each later one.

    The lists are known where nothing is free, or from a CacheReading that is atomic. In what order blocks of one order stand on
    their list cannot be read; where there are few, every order is tried, and the one that fits best is taken.
    """
    start: CacheRows | None = None
    blocks: list[tuple[int, int]] = []
    seen = _Seen(RequestBuilder(), {}, [], [], [], [])
    for update in updates:
        if isinstance(update, Records):
            if start is not None:
                _take(seen, update)
        elif isinstance(update, CacheReading):
            if start is None and _can_begin(update):
                start = _rows(update)
                blocks = list(zip(update.pfns.tolist(), update.orders.tolist(), strict=True))
        elif (rows := _quiet_rows(update)) is not None:
            if start is None:
                start = rows[1] if not any(rows[1].free) else None
            else:
                seen.mark(rows[0], rows[1])
    return _best(seen, blocks, start) if start is not None else Check((), 0, 0, 0, 0)


def _can_begin(reading: CacheReading) -> bool:
    """Whether the lists are known by it, and can stand in few enough orders."""
    return reading.atomic and reading.rows_free is not None and _nr_orders(reading) <= MAX_TRIES


def _quiet_rows(update: Update) -> tuple[int, CacheRows] | None:
    """Time and debugfs rows of a quiet moment; None for anything else."""
    if not isinstance(update, CountersReading) or not update.quiet or update.rows_free is None:
        return None
    return update.time_ns, _rows(update)


def _best(seen: _Seen, blocks: list[tuple[int, int]], start: CacheRows) -> Check:
    """The comparison in which least differs, of all orders in which the blocks may stand."""
    for ident, pfn, order in seen.before:
        seen.builder.allocate_before(ident, order, pfn, RequestFlag.IN_USE)
    tries = [_compare(seen, list(listed), start) for listed in _listings(blocks)]
    return min(tries, key=lambda check: (sum(c.differing_blocks for c in check.comparisons), check.nr_blocks_elsewhere))


def _nr_orders(reading: CacheReading) -> int:
    return math.prod(math.factorial(int(n)) for n in np.bincount(reading.orders, minlength=NR_ORDERS))


def _listings(blocks: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every order in which the blocks can stand on their lists."""
    lists = [itertools.permutations([block for block in blocks if block[1] == order]) for order in range(NR_ORDERS)]
    for parts in itertools.product(*lists):
        yield tuple(itertools.chain.from_iterable(parts))


def _take(seen: _Seen, update: Records) -> None:
    batch = update.batch
    wanted = batch[np.isin(batch["kind"], _KINDS)]
    names = ("kind", "pfn", "order", "nr_pages", "aux", "flags")
    for kind, pfn, order, nr_pages, aux, flags in zip(*(wanted[name].tolist() for name in names), strict=True):
        if kind == Kind.REFILL:
            seen.refills.append((pfn, order))
        elif kind == Kind.REFILL_UNDONE:
            seen.refills.remove((pfn, order))
        elif kind == Kind.RELEASE:
            seen.scanned_pages += 1 << order
        elif kind == Kind.SHRINK:
            seen.scanned_pages = max(0, seen.scanned_pages - nr_pages)
            seen.builder.shrink(aux)
        elif kind == Kind.ALLOC and not flags & Flag.FAILED:
            ident = seen.builder.allocate(order)
            seen.in_use[pfn] = (ident, order)
            seen.allocated.append((ident, pfn))
        elif kind == Kind.FREE:
            block = seen.in_use.pop(pfn, None)
            if block is None:
                block = (seen.builder.reserve_ident(), order)
                seen.before.append((block[0], pfn, order))
            seen.builder.free(block[0])


def _compare(seen: _Seen, blocks: list[tuple[int, int]], start: CacheRows) -> Check:
    extent = max(
        [TOP_BLOCK, *(pfn + (1 << order) for pfn, order in [*blocks, *seen.refills]), *(pfn + (1 << o) for _, pfn, o in seen.before)]
    )
    nr_regions = -(-extent // TOP_BLOCK) * TOP_BLOCK // PAGES_PER_2M
    none = np.empty(0, np.int64)
    memory = Memory(fresh_map(nr_regions), none, none, np.zeros(nr_regions, np.uint8), 0.0)
    shift = len(seen.before)
    requests = seen.builder.build("check", refills=seen.refills)
    simulation = Simulation(Design.UNMAPPED_ALLOC, requests, memory, use_refills=True, cache_blocks=blocks)
    comparisons = []
    for time_ns, position, kernel in seen.marks:
        simulation.run(position + shift)
        rows = simulation.rows()
        simulated = CacheRows(rows.free, _sum(rows.cached, start.cached), _sum(rows.released, start.released))
        comparisons.append(Comparison(time_ns, position, simulated, kernel))
    simulation.run()
    slots = simulation.state.slot
    elsewhere = sum(int(simulation.state.held[slots[ident]]) != pfn for ident, pfn in seen.allocated)
    return Check(tuple(comparisons), len(requests) - shift, len(seen.allocated), elsewhere, simulation.count(Count.OUTSIDE))


def _rows(reading: CacheReading | CountersReading) -> CacheRows:
    zero = (0,) * NR_ORDERS
    return CacheRows(reading.rows_free or zero, reading.rows_cached or zero, reading.rows_released or zero)


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _flat(rows: CacheRows) -> tuple[int, ...]:
    return (*rows.free, *rows.cached, *rows.released)


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """Splits that the design ``none`` comes to, and those that the kernel counted, between the first and the last quiet reading."""

    nr_requests: int
    simulated: Mapping[Level, int]
    kernel: Mapping[Level, int]


class _Span:
    """What lies between the first and the last quiet reading that counts splits, once the map is known."""

    def __init__(self) -> None:
        self.levels: NDArray[np.uint8] | None = None
        self.totals: list[Mapping[Level, int]] = []
        self.batches: list[Records] = []
        self.nr_complete = 0
        """How many batches the last reading follows."""

    def take(self, update: Update) -> None:
        if isinstance(update, Records):
            if self.totals:
                self.batches.append(Records(update.batch.copy()))
        elif isinstance(update, MapReading):
            if update.complete and self.levels is None:
                self.levels = update.levels.copy()
        elif isinstance(update, CountersReading) and update.quiet and update.splits_total is not None and self.levels is not None:
            self.totals.append(update.splits_total)
            self.nr_complete = len(self.batches)


def check_none(updates: Iterable[Update]) -> SplitCheck | None:
    """``none`` with the recorded map and places against vmstat's split counters; None where the recording has not both.

    Only for a kernel without the series. Splits of the kernel image's own mapping, which vmstat counts too, are taken off.
    """
    span = _Span()
    for update in updates:
        span.take(update)
    if span.levels is None or not span.totals:
        return None
    batches = span.batches[: span.nr_complete]
    requests = requests_from_updates(batches)
    memory = recorded_memory(
        span.levels, "", size_bytes=None, host_bytes=None, fragmentation=0.0, default_fragmentation=0.0, keep_map=True, seed=0
    )
    simulation = Simulation(Design.NONE, requests, memory, use_places=True)
    simulation.run()
    first, last = span.totals[0], span.totals[-1]
    kernel = {level: last[level] - first[level] for level in (Level.M2, Level.G1)}
    for batch in (records.batch for records in batches):
        image = batch[(batch["kind"] == Kind.SPLIT) & (batch["flags"] & Flag.KERNEL_IMAGE != 0)]
        for level in kernel:
            kernel[level] -= int(np.count_nonzero(image["before"] & LEVEL_MASK == level))
    return SplitCheck(len(requests), {Level.M2: simulation.count(Count.SPLIT_2M), Level.G1: simulation.count(Count.SPLIT_1G)}, kernel)
