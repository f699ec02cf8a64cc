# SPDX-License-Identifier: Apache-2.0
"""The simulated unmapped_alloc against a kernel that has it: the same requests, and the rows of debugfs after each phase.

Everything comes from a recording (or a live session's updates): the requests and the places of the chunks from the records,
the rows from the readings of debugfs that were taken while nothing happened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from uaptrace.events import Flag, Kind
from uaptrace.model.updates import CacheReading, CountersReading, Records, Update
from uaptrace.policies.layout import Design, RequestFlag
from uaptrace.policies.memory import TOP_BLOCK, Memory, fresh_map
from uaptrace.policies.requests import RequestBuilder
from uaptrace.policies.simulation import CacheRows, Simulation
from uaptrace.units import NR_ORDERS, PAGES_PER_2M

MAX_TRIES: Final = 120


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
    """Of these, those that the kernel took from another place: it was not the one CPU, or the lists' order was not known."""


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
            if start is None and update.atomic and update.rows_free is not None and _nr_orders(update) <= MAX_TRIES:
                start = _rows(update)
                blocks = list(zip(update.pfns.tolist(), update.orders.tolist(), strict=True))
        elif isinstance(update, CountersReading) and update.quiet and update.rows_free is not None:
            rows = _rows(update)
            if start is None:
                start = rows if not any(rows.free) else None
            else:
                seen.marks.append((update.time_ns, len(seen.builder), rows))
    if start is None:
        return Check((), 0, 0, 0)
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
    wanted = batch[np.isin(batch["kind"], (Kind.ALLOC, Kind.FREE, Kind.REFILL, Kind.REFILL_UNDONE, Kind.SHRINK))]
    for kind, pfn, order, aux, flags in zip(*(wanted[name].tolist() for name in ("kind", "pfn", "order", "aux", "flags")), strict=True):
        if kind == Kind.REFILL:
            seen.refills.append((pfn, order))
        elif kind == Kind.REFILL_UNDONE:
            seen.refills.remove((pfn, order))
        elif kind == Kind.SHRINK:
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
    return Check(tuple(comparisons), len(requests) - shift, len(seen.allocated), elsewhere)


def _rows(reading: CacheReading | CountersReading) -> CacheRows:
    zero = (0,) * NR_ORDERS
    return CacheRows(reading.rows_free or zero, reading.rows_cached or zero, reading.rows_released or zero)


def _sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _flat(rows: CacheRows) -> tuple[int, ...]:
    return (*rows.free, *rows.cached, *rows.released)
