# SPDX-License-Identifier: Apache-2.0
"""Free blocks by order follow from records alone, and a record that cannot be is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.model.buddy import BuddyLists
from tests.model.build import NO_ROWS, Ring, columns, cut, make_batch, traced
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import NR_ORDERS
from uaptrace.model.loops import USED
from uaptrace.model.refills import subtract
from uaptrace.model.unmapped_cache import CAPTURED, CERTAIN, FREE, HANDED_OUT, INFERRED, LEFT, Contradictions, UnmappedCache


def apply(cache: UnmappedCache, ring: Ring) -> Contradictions | None:
    return cache.apply(columns(ring.take().batch))[0]


class CacheMachine(RuleBasedStateMachine):
    """A cache with buddy lists on one side, its records on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.cache, self.ring = BuddyLists(), UnmappedCache(), Ring()
        self.chunks: set[int] = set()
        """Pages that are in the cache, free or handed out."""
        self.held: list[tuple[int, int]] = []

    @rule(region=st.integers(4, 9), order=st.sampled_from([9, 9, 9, 5, 3, 0]), at=st.integers(0, 511))
    def refill(self, region: int, order: int, at: int) -> None:
        pfn = (region * 512 + at) >> order << order
        pages = set(range(pfn, pfn + (1 << order)))
        if pages & self.chunks:
            return
        self.chunks |= pages
        self.ring.refill(1, pfn, order)
        self.kernel.add(pfn, order)
        self.allocate(0, 1)  # what it was refilled for

    @rule(order=st.sampled_from([0, 0, 0, 1, 3, 9, 10]), times=st.integers(1, 30))
    def allocate(self, order: int, times: int) -> None:
        for _ in range(times):
            pfn = self.kernel.take(order)
            if pfn is None:
                self.ring.alloc(1, 0, order, flags=Flag.FAILED)
                return
            self.ring.alloc(1, pfn, order)
            self.held.append((pfn, order))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), times=st.integers(1, 30), page_by_page=st.booleans())
    def free(self, data: st.DataObject, times: int, page_by_page: bool) -> None:
        for _ in range(min(times, len(self.held))):
            pfn, order = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            parts = [(p, 0) for p in range(pfn, pfn + (1 << order))] if page_by_page and order <= 3 else [(pfn, order)]
            for part in parts:
                self.ring.free(1, *part)
                self.kernel.add(*part)

    @rule(times=st.integers(1, 12))
    def shrink(self, times: int) -> None:
        for _ in range(times):
            block = self.kernel.take_smallest()
            if block is None:
                return
            self.ring.release(2, *block)
            self.chunks.difference_update(range(block[0], block[0] + (1 << block[1])))

    @rule()
    def read(self) -> None:
        """A reading of the lists changes nothing that records said."""
        self.take()
        before = self.cache.handed_out_pages()
        blocks = self.kernel.blocks()
        pfns, orders = np.array([b[0] for b in blocks], np.int64), np.array([b[1] for b in blocks], np.uint8)
        self.cache.load(pfns, orders, keep_handed_out=True)
        assert self.cache.handed_out_pages() == before

    @rule()
    def lose_everything_and_read(self) -> None:
        self.take()
        self.cache = UnmappedCache()
        blocks = self.kernel.blocks()
        self.cache.load(np.array([b[0] for b in blocks], np.int64), np.array([b[1] for b in blocks], np.uint8), keep_handed_out=False)
        absent: dict[int, np.ndarray] = {}
        for pfn in self.chunks:
            absent.setdefault(pfn // 512, np.zeros(512, np.bool_))[pfn % 512] = True
        if absent:
            regions = np.array(sorted(absent), np.int64)
            self.cache.infer_handed_out(regions, np.array([absent[r] for r in regions.tolist()]))

    def take(self) -> None:
        contradictions, _ = self.cache.apply(columns(self.ring.take().batch))
        assert contradictions is None

    @invariant()
    def equal(self) -> None:
        self.take()
        assert self.cache.free_blocks() == self.kernel.rows()
        assert self.cache.handed_out_pages() == sum(1 << order for _, order in self.held)
        regions, nr_free = self.cache.free_by_region()
        free: dict[int, int] = {}
        for pfn, order in self.kernel.blocks():
            for page in range(pfn, pfn + (1 << order)):
                free[page // 512] = free.get(page // 512, 0) + 1
        assert dict(zip(regions.tolist(), nr_free.tolist(), strict=True)) == free


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


KINDS = (Kind.REFILL, Kind.ALLOC, Kind.FREE, Kind.RELEASE)
NOW = {Kind.REFILL: FREE, Kind.ALLOC: HANDED_OUT | USED, Kind.FREE: FREE | USED, Kind.RELEASE: LEFT}
blocks = st.integers(0, 3).flatmap(lambda order: st.tuples(st.integers(0, 15 >> order).map(lambda n: 500 + (n << order)), st.just(order)))


def naive_verdict(kind: Kind, state: int) -> int:
    if kind == Kind.REFILL:
        return CERTAIN if state & (FREE | HANDED_OUT) else 0
    if kind == Kind.ALLOC:
        return CERTAIN if state & HANDED_OUT else 0
    if kind == Kind.FREE:
        return CERTAIN if state & FREE else 0 if state & HANDED_OUT else CAPTURED
    return CERTAIN if state & HANDED_OUT or state == LEFT else 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), blocks), max_size=60), st.lists(st.integers(1, 20), max_size=6))
def test_any_records_give_each_page_its_last_state_and_each_contradiction(
    steps: list[tuple[Kind, tuple[int, int]]], sizes: list[int]
) -> None:
    state: dict[int, int] = {}
    expected: list[tuple[int, int]] = []
    rows: list[dict[str, Any]] = []
    rank = {0: 0, CAPTURED: 1, CERTAIN: 2}
    for i, (kind, (pfn, order)) in enumerate(steps):
        # Each refill by a task of its own that returns at once, so that none is under way.
        rows.append({"kind": kind, "pfn": pfn, "order": order, "nr_pages": 1 << order, "tid": i, "time_ns": i})
        if kind == Kind.REFILL:
            rows.append({"kind": Kind.ALLOC, "pfn": 4096 + i, "nr_pages": 1, "tid": i, "time_ns": i})
        worst = max((naive_verdict(kind, state.get(p, 0)) for p in range(pfn, pfn + (1 << order))), key=rank.__getitem__)
        if worst:
            expected.append((i, worst))
        state.update(dict.fromkeys(range(pfn, pfn + (1 << order)), NOW[kind]))
    cache, found = UnmappedCache(), []
    for batch in cut(make_batch(rows), sizes):
        contradictions, _ = cache.apply(columns(batch))
        if contradictions is not None:
            for record, verdict in zip(contradictions.record.tolist(), contradictions.verdict.tolist(), strict=True):
                if batch["pfn"][record] < 4096:
                    found.append((int(batch["tid"][record]), verdict))
    assert found == expected
    pfns = np.arange(490, 530)
    assert cache.states(pfns).tolist() == [state.get(p, 0) for p in pfns.tolist()]


def test_order_10_spans_two_regions() -> None:
    cache = UnmappedCache()
    apply(cache, Ring().refill(1, 2048).alloc(1, 2048).free(1, 2048).refill(2, 2560).alloc(2, 2560).free(2, 2560))
    assert cache.free_blocks() == (*NO_ROWS[:10], 1)
    odd = UnmappedCache()
    apply(odd, Ring().refill(1, 2560).alloc(1, 2560).free(1, 2560).refill(2, 3072).alloc(2, 3072).free(2, 3072))
    assert odd.free_blocks()[9:] == (2, 0)


def test_a_chunk_given_back_after_another_task_took_its_pages() -> None:
    """REFILL_UNDONE comes when the call returns: by then the pages may be the cache's again."""
    cache = UnmappedCache()
    ring = Ring().refill(1, 2048)
    assert apply(cache, ring) is None
    ring.refill(2, 2048 + 256, 8)
    assert apply(cache, ring) is None  # not "refilled twice"
    ring.undone(1, 2048).alloc(1, 0, flags=Flag.FAILED).alloc(2, 2048 + 256)
    assert apply(cache, ring) is None
    assert cache.states(np.array([2048, 2048 + 255])).tolist() == [LEFT, LEFT]
    assert sum(n << order for order, n in enumerate(cache.free_blocks())) == 255
    assert cache.handed_out_pages() == 1


def test_the_same_within_one_batch() -> None:
    cache = UnmappedCache()
    ring = Ring().refill(1, 2048).refill(2, 2048, 3).undone(1, 2048).alloc(2, 2048)
    assert apply(cache, ring) is None
    assert sum(n << order for order, n in enumerate(cache.free_blocks())) == 7


def test_a_chunk_refilled_twice_by_calls_that_returned() -> None:
    cache = UnmappedCache()
    found = apply(cache, Ring().refill(1, 2048).alloc(1, 2048).refill(2, 2048, 3))
    assert found is not None
    assert found.verdict.tolist() == [CERTAIN]
    assert found.nr_pages.tolist() == [8]


def test_a_refill_under_way_survives_a_reading_of_the_lists() -> None:
    cache = UnmappedCache()
    apply(cache, Ring().refill(1, 2048))
    cache.load(np.empty(0, np.int64), np.empty(0, np.uint8), keep_handed_out=True)
    assert cache.free_blocks()[9] == 1
    assert apply(cache, Ring(9000).alloc(1, 2048)) is None


def test_pages_absent_before_tracing_began_are_taken_to_be_handed_out() -> None:
    cache = UnmappedCache()
    cache.load(np.array([2048]), np.array([2], np.uint8), keep_handed_out=True)
    absent = np.zeros((1, 512), np.bool_)
    absent[0, :6] = True
    cache.infer_handed_out(np.array([4]), absent)
    assert cache.states(np.array([2048, 2052])).tolist() == [FREE | INFERRED, HANDED_OUT | INFERRED]
    assert cache.handed_out_pages() == 2
    assert apply(cache, Ring().free(1, 2052)) is None
    assert cache.guessed_regions().tolist() == []
    cache.load(np.empty(0, np.int64), np.empty(0, np.uint8), keep_handed_out=True)
    cache.infer_handed_out(np.array([4]), absent)
    assert cache.guessed_regions().tolist() == [4]
    cache.not_handed_out([4])
    assert cache.handed_out_pages() == 0


def test_content_of_an_owner_is_told_from_content_of_a_page_that_nobody_had() -> None:
    cache = UnmappedCache()
    ring = Ring().refill(1, 2048).alloc(1, 2048).free(1, 2048).release(2, 2048, aux=8).release(2, 2049, aux=8).release(2, 2050, 1, aux=0)
    _, unclean = cache.apply(columns(ring.batch()))
    assert unclean.tolist() == [3]


def test_bad_sizes_are_counted_and_harm_nothing() -> None:
    cache = UnmappedCache()
    ring = Ring().refill(1, 2048).add(Kind.FREE, pfn=1 << 50, tid=1).add(Kind.RELEASE, pfn=2048, nr_pages=1 << 30, tid=1)
    apply(cache, ring)
    assert cache.bad_records == 2
    assert cache.free_blocks()[9] == 1


@given(st.integers(0, 40), st.integers(1, 30), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=5))
def test_subtracting_ranges(pfn: int, nr_pages: int, taken: list[tuple[int, int]]) -> None:
    rest = {p for first, n in subtract(pfn, nr_pages, taken) for p in range(first, first + n)}
    assert rest == set(range(pfn, pfn + nr_pages)) - {p for first, n in taken for p in range(first, first + n)}


def test_orders_are_those_of_the_kernel() -> None:
    assert UnmappedCache().free_blocks() == (0,) * NR_ORDERS


@pytest.mark.parametrize("far", [1 << 35, 1 << 45, (1 << 64) - 512])
def test_a_damaged_refill_that_is_undone_in_part_touches_no_page(far: int) -> None:
    """No kernel has such pages: the compiled loops do not look for bounds, so nothing of them may get there."""
    state = traced()
    state.update(Ring().refill(1, far, 2).refill(2, far, 1).undone(1, far, 2).take())
    assert state.cache.bad_records == 3
    assert state.cache.nr_records == 3
    assert state.cache.free_blocks() == (0,) * 11
