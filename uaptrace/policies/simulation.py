# SPDX-License-Identifier: Apache-2.0
"""Runs requests against designs and says what became of the direct map.

``Simulation`` goes through the requests step by step, so a test can compare it with a kernel after each phase;
``replay`` runs one design from start to end with a time series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level, pages_to_bytes
from uaptrace.policies.engine_layout import (
    ABSENT,
    CACHE_LISTS,
    DEFAULT,
    FREETYPE_UNMAPPED,
    NR_LISTS,
    NR_TYPES,
    Count,
    Design,
    Op,
    RequestFlag,
    State,
)
from uaptrace.policies.physical_memory import Memory
from uaptrace.policies.requests import Requests

NR_SAMPLES: Final = 200
"""Points of the time series, besides the start."""

CMA_SHARE: Final = 0.25
"""Part of memory, at its top, that is reserved for the secretmem pool's chunks; whole 4 MiB."""

SAMPLED: Final = (
    "split_2m",
    "split_1g",
    "regions_4k_now",
    "regions_2m_now",
    "regions_1g_now",
    "touched_now",
    "stranded_now",
    "cache_pages_now",
    "held_pages_now",
)
"""Counts (in lower case) that the time series has."""

_WITH_RECORDED_REFILLS: Final = (Design.UNMAPPED_ALLOC, Design.UNMAPPED_ALLOC_PUBLISHED, Design.UNMAPPED_ALLOC_WHOLE)


@dataclass(frozen=True, slots=True)
class CacheRows:
    """What debugfs's unmapped_alloc would say; each by order, 0 to 10."""

    free: tuple[int, ...]
    cached: tuple[int, ...]
    released: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one design did with the requests. Sizes in bytes, everything else in numbers; ``counts`` has all of enum Count's totals."""

    design: Design
    nr_requests: int
    splits: Mapping[Level, int]
    """Keys M2 and G1: what was split."""
    kept_bytes: Mapping[Level, int]
    """Bytes mapped by entries of each size at the end; an absent 2M entry is one of 2M, as in /proc/meminfo."""
    counts: Mapping[Count, int]
    rows: CacheRows
    """Free blocks of unmapped_alloc; for the other caches ``cached`` counts what they took from the page allocator."""
    series: Mapping[str, NDArray[np.int64]]
    """``requests``, ``time_ns`` and SAMPLED: one array each, all of one length; the first element is the start."""
    least_large_bytes: int
    """The smallest amount in 2M and 1G entries at any sample."""
    nr_present: Mapping[Level, int]
    """Entries of each size that cover what is present at the end."""

    @property
    def nr_entries(self) -> int:
        """Of all sizes: so many a TLB would need."""
        return sum(self.nr_present.values())

    @property
    def page_table_bytes(self) -> int:
        """Of the tables that regions of 4K entries have: one page each."""
        return self.counts[Count.REGIONS_4K_NOW] * PAGE_SIZE

    @property
    def large_bytes(self) -> int:
        """Bytes in 2M and 1G mappings at the end."""
        return self.kept_bytes[Level.M2] + self.kept_bytes[Level.G1]

    @property
    def cache_bytes_peak(self) -> int:
        return pages_to_bytes(self.counts[Count.CACHE_PAGES_PEAK])


class Simulation:
    """One design, one memory, one list of requests.

    ``use_refills``: unmapped_alloc takes its chunks from requests.refills, which the traced kernel took; then there is no page
    allocator in the model: no ordinary requests, and what is released goes nowhere. ValueError where that does not fit.
    ``cache_blocks``: (pfn, order) of free blocks that unmapped_alloc begins with, first of the list first.
    ``use_places``: the design ``none`` uses each request's ``pfn`` (where it is None: as the requests say).
    """

    def __init__(
        self,
        design: Design,
        requests: Requests,
        memory: Memory,
        *,
        use_refills: bool = False,
        use_places: bool | None = None,
        cache_blocks: Sequence[tuple[int, int]] = (),
    ) -> None:
        from uaptrace.policies import engine  # only where it is used: the compiled form is loaded with it

        self._run = engine.run
        self.design = design
        self.requests = requests
        self.position = 0
        """Requests served so far."""
        self._use_places = (requests.recorded_places if use_places is None else use_places) and design is Design.NONE
        self._pfn = _places(requests, memory)
        self._memory = memory
        self.state = _initial_state(design, requests, memory, use_refills=use_refills)
        _fill_cache(self.state, cache_blocks)
        r = requests
        self._engine = engine.Engine(self.state)
        self._columns: Any = tuple(engine.view(column) for column in (r.op, r.ident, r.order, r.flags, r.owner, self._pfn, r.nr_pages))

    def run(self, until: int | None = None) -> None:
        """Serve requests up to number ``until`` (all of them where it is None)."""
        end = len(self.requests) if until is None else min(until, len(self.requests))
        if end <= self.position:
            return
        op, ident, order, flags, owner, pfn, nr_pages = self._columns
        place = self._use_places
        self._run(self._engine, int(self.design), op, ident, order, flags, owner, pfn, nr_pages, place, self.position, end)
        self.position = end

    def count(self, what: Count) -> int:
        return int(self.state.counts[what])

    def rows(self) -> CacheRows:
        """The rows of debugfs's unmapped_alloc after the requests served so far."""
        return CacheRows(
            tuple(self.state.cfree.tolist()),
            tuple(self.state.counts[Count.REFILLS : Count.REFILLS + NR_ORDERS].tolist()),
            tuple(self.state.counts[Count.RELEASES : Count.RELEASES + NR_ORDERS].tolist()),
        )

    def kept_bytes(self) -> dict[Level, int]:
        """Bytes mapped by entries of each size now."""
        words = {Level.K4: Count.REGIONS_4K_NOW, Level.M2: Count.REGIONS_2M_NOW, Level.G1: Count.REGIONS_1G_NOW}
        return {level: self.count(word) * PAGES_PER_2M * PAGE_SIZE for level, word in words.items()}

    def nr_present(self) -> dict[Level, int]:
        """Entries of each size that cover what is present now."""
        level = self.state.level
        absent = (self.state.changed[: len(level) * PAGES_PER_2M].reshape(-1, PAGES_PER_2M) == ABSENT).sum(axis=1)
        is_present = absent < PAGES_PER_2M
        small = int((PAGES_PER_2M - absent[level == Level.K4]).sum())
        giga = np.unique(np.flatnonzero((level == Level.G1) & is_present) // REGIONS_PER_1G)
        return {Level.K4: small, Level.M2: int(np.count_nonzero((level == Level.M2) & is_present)), Level.G1: len(giga)}


def replay(
    design: Design,
    requests: Requests,
    memory: Memory,
    *,
    use_refills: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Outcome:
    """All requests under one design. ``progress`` is told the number of requests served since it was last called."""
    simulation = Simulation(design, requests, memory, use_refills=use_refills)
    total = len(requests)
    marks = sorted({round(i * total / NR_SAMPLES) for i in range(NR_SAMPLES + 1)})
    names = [Count[name.upper()] for name in SAMPLED]
    samples: list[list[int]] = []
    for mark in marks:
        done = mark - simulation.position
        simulation.run(mark)
        samples.append([simulation.count(name) for name in names])
        if progress is not None and done:
            progress(done)
    table = np.array(samples, np.int64).T
    series: dict[str, NDArray[np.int64]] = {"requests": np.array(marks, np.int64), "time_ns": _times(requests, marks)}
    series.update({name: table[i] for i, name in enumerate(SAMPLED)})
    large = (series["regions_2m_now"] + series["regions_1g_now"]) * PAGES_PER_2M * PAGE_SIZE
    return Outcome(
        design,
        total,
        {Level.M2: simulation.count(Count.SPLIT_2M), Level.G1: simulation.count(Count.SPLIT_1G)},
        simulation.kept_bytes(),
        {what: simulation.count(what) for what in Count if what is not Count.WORDS},
        simulation.rows(),
        series,
        int(large.min()),
        simulation.nr_present(),
    )


def _held_runs(s: Any) -> Iterator[tuple[int, int]]:
    """(first page, pages) of what is handed out; pages that a recording only mentions are not of this memory."""
    for ident in np.flatnonzero(s.held_as).tolist():
        size = 1 << int(s.held_order[ident])
        first = int(s.slot[ident])
        if s.held_as[ident] == 2:
            yield from ((page, 1) for page in s.held[first : first + size].tolist())
        elif s.held_as[ident] != 4:
            yield int(s.held[first]), size


def page_balance(simulation: Simulation) -> Mapping[str, int]:
    """Where every page is, counted from the lists and blocks themselves: for tests of conservation.

    ``free`` (page allocator), ``cached`` (of FREETYPE_UNMAPPED: free in the page allocator, in a block of that type), ``held``,
    ``reserved`` (the pool's area, not in a chunk).
    AssertionError where a page is in two places.
    """
    s = simulation.state
    nr_pages = len(s.zorder)
    seen = np.zeros(nr_pages, np.uint8)
    totals = {"free": 0, "cached": 0, "held": 0, "reserved": 0}

    def take(kind: str, first: int, count: int) -> None:
        assert not seen[first : first + count].any(), f"page {first} is in two places"
        seen[first : first + count] = 1
        totals[kind] += count

    for name, orders in (("free", s.zorder), ("cached", s.corder)):
        for page in np.flatnonzero(orders >= 0).tolist():
            assert page % (1 << int(orders[page])) == 0, f"block at {page} is not aligned"
            is_kept = name == "free" and s.block_type[page // PAGES_PER_2M] == FREETYPE_UNMAPPED
            take("cached" if is_kept else name, page, 1 << int(orders[page]))
    head = nr_pages + NR_LISTS - 1
    page = int(s.nxt[head])
    while page != head:
        take("cached", page, 1)
        page = int(s.nxt[page])
    for owner in range(len(s.owner_free)):
        page = int(s.owner_free[owner])
        while page >= 0:
            take("cached", page, 1)
            page = int(s.nxt[page])
    for page, count in _held_runs(s):
        take("held", page, count)
    if simulation.design is Design.SECRETMEM_POOL:
        area = s.cma_busy[simulation.count(Count.CMA_FIRST) :]
        totals["reserved"] = int((PAGES_PER_2M - area[area >= 0]).sum())
    return totals


def _places(requests: Requests, memory: Memory) -> NDArray[np.int64]:
    """The recorded places, -1 where the model has no such memory."""
    pfn = requests.pfn.copy()
    size = np.where(requests.op == Op.ALLOCATE, np.int64(1) << requests.order.astype(np.int64), np.maximum(requests.nr_pages, 1))
    inside = (pfn >= 0) & (pfn + size <= memory.nr_pages)
    inside[inside] = memory.level[pfn[inside] // PAGES_PER_2M] != Level.NONE
    pfn[~inside] = -1
    return pfn


def _times(requests: Requests, marks: list[int]) -> NDArray[np.int64]:
    if not len(requests):
        return np.zeros(len(marks), np.int64)
    times = np.maximum.accumulate(requests.time_ns)
    return np.array([times[max(0, mark - 1)] for mark in marks], np.int64)


def _initial_state(design: Design, requests: Requests, memory: Memory, *, use_refills: bool) -> State:
    refills = requests.refills if use_refills else ()
    nr_pages = memory.nr_pages
    nr_regions = len(memory.level)
    sizes = np.zeros(requests.nr_idents + 1, np.int64)
    allocations = requests.op == Op.ALLOCATE
    sizes[requests.ident[allocations]] = np.int64(1) << requests.order[allocations].astype(np.int64)
    nr_owners = max(1, requests.nr_owners)
    state = State(
        nxt=np.zeros(nr_pages + NR_LISTS, np.int32),
        prv=np.zeros(nr_pages + NR_LISTS, np.int32),
        zorder=np.full(nr_pages, -1, np.int8),
        corder=np.full(nr_pages, -1, np.int8),
        changed=np.zeros(nr_pages, np.uint8),
        uniform=np.zeros(nr_regions, np.uint8),
        block_type=memory.block_type.copy(),
        block_bit=np.zeros(nr_regions, np.uint8),
        level=memory.level.copy(),
        nr_changed=np.zeros(nr_regions, np.int32),
        touched=np.zeros(nr_regions, np.uint8),
        zfree=np.zeros(NR_ORDERS, np.int64),
        cfree=np.zeros(NR_ORDERS, np.int64),
        slot=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        held=np.zeros(int(sizes.sum()) + 1, np.int32),
        held_as=np.zeros(requests.nr_idents + 1, np.uint8),
        held_order=np.zeros(requests.nr_idents + 1, np.uint8),
        owner_free=np.full(nr_owners, -1, np.int32),
        owner_chunk=np.full(nr_owners, -1, np.int32),
        owner_held=np.zeros(nr_owners, np.int64),
        owner_closed=np.zeros(nr_owners, np.uint8),
        chunk_next=np.full(nr_regions, -1, np.int32),
        cma_busy=np.zeros(nr_regions, np.int32),
        counts=np.zeros(Count.WORDS, np.int64),
        refill_pfn=np.array([pfn for pfn, _ in refills], np.int64),
        refill_order=np.array([order for _, order in refills], np.int64),
    )
    _count_levels(state)
    pfns, orders = memory.free_pfns, memory.free_orders
    if use_refills:
        if (requests.flags & RequestFlag.ORDINARY).any() or design not in _WITH_RECORDED_REFILLS:
            raise ValueError("recorded refills are for unmapped_alloc, without ordinary requests")
        if not all(_fits(pfn, order, nr_pages) for pfn, order in refills):
            raise ValueError("a recorded refill is outside of memory, or not aligned")
        pfns, orders = pfns[:0], orders[:0]
    if design is Design.SECRETMEM_POOL:
        pfns, orders = _reserve(state, memory, pfns, orders)
    _fill_lists(state, pfns, orders)
    return state


def _count_levels(state: State) -> None:
    for level, word in ((Level.K4, Count.REGIONS_4K_NOW), (Level.M2, Count.REGIONS_2M_NOW), (Level.G1, Count.REGIONS_1G_NOW)):
        state.counts[word] = np.count_nonzero(state.level == level)


def _reserve(
    state: State, memory: Memory, pfns: NDArray[np.int64], orders: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Set the pool's area aside: its free blocks leave the page allocator, its used pages can be migrated."""
    nr_regions = len(memory.level)
    first = nr_regions - int(nr_regions * CMA_SHARE) // 2 * 2
    state.counts[Count.CMA_FIRST] = first
    inside = pfns >= first * PAGES_PER_2M
    free = np.zeros(nr_regions, np.int64)
    for order in range(NR_ORDERS):
        chosen = pfns[inside & (orders == order)]
        size = 1 << order
        for part in range(max(1, size // PAGES_PER_2M)):
            np.add.at(free, chosen // PAGES_PER_2M + part, min(size, PAGES_PER_2M))
    state.cma_busy[:] = PAGES_PER_2M - free
    state.cma_busy[memory.level == Level.NONE] = -1
    return pfns[~inside], orders[~inside]


def _fits(pfn: int, order: int, nr_pages: int) -> bool:
    """Whether there is such a block."""
    return 0 <= order < NR_ORDERS and 0 <= pfn <= nr_pages - (1 << order) and pfn % (1 << order) == 0


def _fill_lists(state: State, pfns: NDArray[np.int64], orders: NDArray[np.int64]) -> None:
    """Link the free blocks in the order given, each on the list of its pageblock's type."""
    nr_pages = len(state.zorder)
    heads = np.arange(nr_pages, nr_pages + NR_LISTS, dtype=np.int32)
    state.nxt[nr_pages:] = heads
    state.prv[nr_pages:] = heads
    kinds = state.block_type[pfns // PAGES_PER_2M]
    for order in range(NR_ORDERS):
        state.zfree[order] = np.count_nonzero(orders == order)
        for kind in range(NR_TYPES):
            head = nr_pages + kind * NR_ORDERS + order
            chain = np.concatenate([[head], pfns[(orders == order) & (kinds == kind)], [head]])
            state.nxt[chain[:-1]] = chain[1:]
            state.prv[chain[1:]] = chain[:-1]
    state.zorder[pfns] = orders


def _fill_cache(state: State, blocks: Sequence[tuple[int, int]]) -> None:
    """Free blocks that the cache begins with; those of one order in the order of their list."""
    nr_pages = len(state.zorder)
    if not all(_fits(pfn, order, nr_pages) for pfn, order in blocks):
        raise ValueError("a block of the cache is outside of memory, or not aligned")
    for pfn, order in blocks:
        head = nr_pages + CACHE_LISTS + order
        last = int(state.prv[head])
        state.nxt[last] = state.prv[head] = pfn
        state.nxt[pfn], state.prv[pfn] = head, last
        state.corder[pfn] = order
        state.cfree[order] += 1
        state.changed[pfn : pfn + (1 << order)] = ABSENT
        state.counts[Count.CACHE_PAGES_NOW] += 1 << order
    if not blocks:
        return
    # They were made absent page by page, so their regions are mapped by 4K entries. All that is from before: no split is counted.
    state.uniform[:] = 0
    state.nr_changed[:] = (state.changed.reshape(-1, PAGES_PER_2M) != DEFAULT).sum(axis=1)
    for region in np.flatnonzero(state.nr_changed).tolist():
        giga = slice(region // REGIONS_PER_1G * REGIONS_PER_1G, (region // REGIONS_PER_1G + 1) * REGIONS_PER_1G)
        if state.level[region] == Level.G1:
            state.level[giga] = Level.M2
        state.level[region] = Level.K4
        state.touched[region] = 1
    _count_levels(state)
    state.counts[Count.CHANGED_PAGES_NOW] = state.nr_changed.sum()
    state.counts[Count.TOUCHED_NOW] = state.counts[Count.TOUCHED] = np.count_nonzero(state.nr_changed)


def expected_rows(
    phases: Any,
    memory: Memory,
    *,
    refills: tuple[tuple[int, int], ...] = (),
    design: Design = Design.UNMAPPED_ALLOC,
) -> list[CacheRows]:
    """debugfs rows after each phase, for a test that drives a kernel.

    ``phases``: lists of tuples ``("allocate", name, order)``, ``("free", name)``, ``("shrink", nr_pages)``, in the order in which the
    kernel gets them. ``refills``: (pfn, order) of the chunks the kernel took, from its REFILL records; needed only where chunks of the
    cache may merge with each other, that is, where the places matter.
    """
    from uaptrace.policies.requests import RequestBuilder

    builder = RequestBuilder()
    names: dict[object, int] = {}
    ends: list[int] = []
    for phase in phases:
        for step in phase:
            what = step[0]
            if what == "allocate":
                names[step[1]] = builder.allocate(step[2], flags=RequestFlag.HIDDEN)
            elif what == "free":
                builder.free(names.pop(step[1]))
            elif what == "shrink":
                builder.shrink(step[1])
            else:
                raise ValueError(f"unknown step {what!r}")
        ends.append(len(builder))
    simulation = Simulation(design, builder.build(refills=refills), memory, use_refills=bool(refills))
    rows = []
    for end in ends:
        simulation.run(end)
        rows.append(simulation.rows())
    return rows
