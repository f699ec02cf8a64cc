# SPDX-License-Identifier: Apache-2.0
"""The rows of the unmapped cache, held against the kernel's own."""

from __future__ import annotations

import numpy as np

from tests.model.build import NO_ROWS, Ring, cache_reading, counters, map_reading, start, traced
from tests.model.reconciling import compared, exactness, rows
from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.units import NR_ORDERS
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.state import KernelState
from uaptrace.model.updates import MapReading


def test_rows_begin_where_the_kernels_are_and_go_on_by_records() -> None:
    state = KernelState()
    before = ((0, 0, 3), (0, 0, 40), (0, 0, 37))
    full = tuple((*row, *NO_ROWS)[:NR_ORDERS] for row in before)
    for update in (start(), map_reading([2] * 16), cache_reading([(512, 2), (1024, 2), (1032, 2)], rows=full)):
        state.update(update)
    ring = Ring().refill(1, 2048, 3).alloc(1, 2048).free(1, 2048).release(2, 512, 2)
    words = {Counter.REFILL_ORDER + 3: 1, Counter.RELEASE_ORDER + 2: 1}
    compared(state, ring, words=words, **rows((0, 0, 2, 1), (0, 0, 40, 1), (0, 0, 38)))
    snapshot = state.snapshot(0, 0.0)
    assert snapshot.cache is not None
    assert snapshot.cache.free[:4] == (0, 0, 2, 1)
    assert snapshot.cache.cached[:4] == (0, 0, 40, 1)
    assert snapshot.cache.released[:4] == (0, 0, 38, 0)
    assert snapshot.reconcile_error_blocks == 0
    assert snapshot.cache.kernel_free == snapshot.cache.free
    assert exactness(state).exact


def test_a_difference_of_one_comparison_is_a_call_under_way_and_of_two_it_is_one() -> None:
    state = traced()
    ring = Ring().refill(1, 2048, 3).alloc(1, 2048).free(1, 2048)
    words = {Counter.REFILL_ORDER + 3: 1}
    compared(state, ring, words=words, **rows((0, 0, 0, 1), (0, 0, 0, 1)))
    compared(state, ring, words=words, **rows((0, 1, 1), (0, 0, 0, 1)), time_ns=ring.time_ns + 10)
    assert exactness(state).exact
    assert state.needs_counters_reading
    assert state.snapshot(0, 0.0).reconcile_error_blocks == 3
    compared(state, ring, words=words, **rows((0, 1, 1), (0, 0, 0, 1)), time_ns=ring.time_ns + 10)
    assert not state.needs_counters_reading
    assert exactness(state).reasons == ("the cache differs from debugfs by 3 blocks in Free",)
    assert state.needs_cache_reading
    state.update(cache_reading([(2050, 1), (2052, 2)], time_ns=ring.time_ns + 1))
    compared(state, ring, words=words, **rows((0, 1, 1), (0, 0, 0, 1)), time_ns=ring.time_ns + 10)
    assert exactness(state).exact
    assert not state.needs_cache_reading


def test_a_difference_that_reading_does_not_mend_is_not_read_for_again_and_again() -> None:
    state = traced()
    ring = Ring()
    for _ in range(2):
        compared(state, ring, **rows((1,)), time_ns=ring.time_ns + 10)
    assert state.needs_cache_reading
    state.update(cache_reading(time_ns=ring.time_ns + 1))
    for _ in range(3):
        compared(state, ring, **rows((1,)), time_ns=ring.time_ns + 10)
    assert not state.needs_cache_reading
    assert not exactness(state).exact


def test_cumulative_rows_are_right_again_after_lost_refills() -> None:
    state = traced()
    ring = Ring()
    compared(state, ring, **rows(()))
    words = {Counter.REFILL_ORDER + 3: 2, Counter.RELEASE_ORDER + 1: 1}
    lost = {Kind.REFILL: 2, Kind.RELEASE: 1}
    kernel = rows((0, 3, 2), (0, 0, 0, 2), (0, 1))
    compared(state, ring, words=words, lost=lost, **kernel)
    assert state.needs_cache_reading
    state.update(cache_reading([(2048, 2), (2056, 2), (2052, 1), (2060, 1), (2062 + 8, 1)], time_ns=ring.time_ns + 1))
    compared(state, ring, words=words, lost=lost, **kernel, time_ns=ring.time_ns + 10)
    snapshot = state.snapshot(0, 0.0)
    assert snapshot.cache is not None
    assert (snapshot.cache.free[:4], snapshot.cache.cached[:4], snapshot.cache.released[:4]) == ((0, 3, 2, 0), (0, 0, 0, 2), (0, 1, 0, 0))
    assert snapshot.reconcile_error_blocks == 0
    assert snapshot.exactness.exact


def test_without_a_hook_the_state_says_what_it_cannot_see() -> None:
    names = ("flush_all", "set_invalid", "set_default", "cache_alloc", "cache_free")
    hooks = (*(HookStatus(n, n, "fentry") for n in names), HookStatus("cpa", None, None, "not in this kernel"))
    state = KernelState()
    for update in (start(hooks=hooks), map_reading([2] * 4), cache_reading(), counters(time_ns=5)):
        state.update(update)
    reasons = exactness(state).reasons
    assert reasons[0] == "attribute changes are not seen: the hook cpa is not attached"
    assert reasons[1] == "releases from the unmapped cache are not seen: the hook cache_release is not attached"


def test_a_part_that_is_uncertain_is_read_alone() -> None:
    state = traced(64)
    ring = Ring().unmap(512, tid=1).unmap(5 * 512, tid=1).unmap(6 * 512, tid=1)
    compared(state, ring)
    assert state.needs_map_reading == [(1, 1), (5, 2)]
    assert "3 regions of 2 MiB" in exactness(state).reasons[0]
    row = np.ones((1, 512), np.uint8)
    row[0, 0] = 2
    for first, n in state.needs_map_reading:
        split = np.arange(first, first + n)
        state.update(MapReading(ring.time_ns + 1, ring.time_ns + 2, first, np.ones(n, np.uint8), split, np.repeat(row, n, axis=0), False))
    assert exactness(state).exact


def test_pages_absent_before_tracing_are_handed_out_unless_their_pageblock_is_not_the_caches() -> None:
    row = np.ones(512, np.uint8)
    row[5:8] = 2
    levels = [2] * 16
    levels[4] = levels[9] = 1
    state = KernelState()
    for update in (start(), cache_reading([(2048, 0)]), map_reading(levels, {4: row, 9: row})):
        state.update(update)

    def handed_out() -> int:
        cache = state.snapshot(0, 0.0).cache
        assert cache is not None
        return cache.handed_out_pages

    assert handed_out() == 6
    assert state.regions_to_check == [9]
    state.update(counters(time_ns=10, pageblock_bits={9: False}))
    assert handed_out() == 3
    assert state.regions_to_check == []
