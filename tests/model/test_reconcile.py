# SPDX-License-Identifier: Apache-2.0
"""Held against the kernel's own figures, the state knows when it is exact and what to read when it is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.build import NO_ROWS, Ring, cache_reading, counters, map_reading, start, traced
from tests.model.reconciling import compared, exactness
from uaptrace.abi.events import Counter, Flag, Kind
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.model.silence import CONFIRM_NS
from uaptrace.model.snapshot import Exactness, SplitsView
from uaptrace.model.state import KernelState

M2_BYTES = PAGES_PER_2M * PAGE_SIZE
NO_SPLITS = {Level.M2: 0, Level.G1: 0}


def test_what_is_missing_is_said_step_by_step() -> None:
    state = KernelState()
    assert exactness(state).reasons == ("nothing is traced yet",)
    state.update(start())
    assert exactness(state).reasons[0] == "baseline not read yet"
    assert (state.needs_map_reading, state.needs_cache_reading) == ("all", True)
    state.update(map_reading([2] * 4))
    assert exactness(state).reasons[0].startswith("the unmapped cache was not read")
    state.update(cache_reading())
    assert exactness(state).reasons == ("not compared with the kernel's counters yet",)
    state.update(counters(time_ns=10, quiet=False))
    assert "no quiet moment" in exactness(state).reasons[0]
    state.update(counters(time_ns=20))
    assert exactness(state, 30) == Exactness(True, (), 30, 0)
    assert (state.needs_map_reading, state.needs_cache_reading, state.regions_to_check) == (None, False, [])


def test_a_kernel_without_the_series_never_wants_its_cache_read() -> None:
    state = KernelState()
    state.update(start(has_series=False))
    assert not state.needs_cache_reading
    state.update(map_reading([2] * 4))
    state.update(counters(time_ns=10))
    assert exactness(state).exact
    snapshot = state.snapshot(11, 0.0)
    assert (snapshot.cache, snapshot.shrinker, snapshot.reconcile_error_blocks) == (None, None, None)


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([(2048, 3)], ": it was used during each reading"),
        ([(2048, 3), (2052, 2)], ": in the last reading, free blocks overlap or are not aligned"),
        ([(2049, 3)], ": in the last reading, free blocks overlap or are not aligned"),
    ],
)
def test_a_reading_that_is_not_atomic_replaces_nothing_and_the_label_says_why_there_is_no_other(
    blocks: list[tuple[int, int]], why: str
) -> None:
    state = KernelState()
    for update in (start(), map_reading([2] * 8)):
        state.update(update)
    unread = "the unmapped cache was not read at a quiet moment yet"
    assert unread in exactness(state).reasons
    reading = cache_reading(blocks)
    state.update(type(reading)(0, 9, reading.pfns, reading.orders, None, None, None, atomic=False))
    assert state.needs_cache_reading
    assert unread + why in exactness(state).reasons
    cache = state.snapshot(1, 0.0).cache
    assert cache is not None
    assert cache.free == NO_ROWS


@pytest.mark.parametrize(
    ("kind", "of_map", "of_cache"),
    [
        (Kind.SET_DIRECT_MAP, True, False),
        (Kind.SPLIT, True, False),
        (Kind.CPA, True, False),
        (Kind.ALLOC, False, True),
        (Kind.RELEASE, False, True),
        (Kind.TASK, False, False),
        (Kind.REQUEST, False, False),
    ],
)
def test_a_lost_record_wants_read_again_what_it_was_about(kind: Kind, of_map: bool, of_cache: bool) -> None:
    state = traced()
    ring = Ring()
    compared(state, ring)
    compared(state, ring, lost={kind: 3})
    assert (state.needs_map_reading == "all", state.needs_cache_reading) == (of_map, of_cache)
    assert exactness(state).exact is not (of_map or of_cache)
    assert state.snapshot(0, 0.0).loss.lost_by_kind[kind.name.lower()] == 3
    before = ring.time_ns - 1
    state.update(map_reading([2] * 16, begin_ns=before - 5))  # begun before the loss was known: it may have come after
    assert (state.needs_map_reading == "all") is of_map
    state.update(map_reading([2] * 16, begin_ns=ring.time_ns + 1))
    state.update(cache_reading(time_ns=ring.time_ns + 1))
    assert exactness(state).exact
    assert exactness(state).nr_rereads == 2
    assert state.snapshot(0, 0.0).loss.events_lost == 3
    compared(state, ring, lost={kind: 3}, time_ns=ring.time_ns + 10)
    assert exactness(state).exact, "the same loss is not taken for a new one"


@pytest.mark.parametrize("what", ["missed_runs", "context"])
def test_a_call_that_no_program_followed_doubts_everything(what: str) -> None:
    state = traced()
    ring = Ring()
    compared(state, ring)
    fields: dict[str, Any] = {"missed_runs": 2} if what == "missed_runs" else {"words": {Counter.CONTEXT_LOST: 2}}
    compared(state, ring, **fields)
    assert state.needs_map_reading == "all"
    assert state.needs_cache_reading
    assert "2 runs of a program were lost" in exactness(state).reasons[0]
    assert state.snapshot(0, 0.0).loss.total == 2


def test_records_that_were_sent_and_never_came_are_a_loss() -> None:
    state = traced()
    ring = Ring().unmap(512, tid=1)
    compared(state, ring, words={Counter.EMITTED + Kind.SET_DIRECT_MAP: 3})
    assert state.needs_map_reading == "all"
    assert state.snapshot(0, 0.0).loss.decode_errors == 2


def test_counters_that_began_before_the_recording_did_are_no_loss() -> None:
    state = traced()
    state.update(counters(time_ns=5, words={Counter.EMITTED + Kind.SET_DIRECT_MAP: 300}))
    assert exactness(state).exact


def test_while_it_is_not_quiet_a_difference_is_none() -> None:
    state = traced()
    ring = Ring()
    compared(state, ring, splits_total=NO_SPLITS)
    words = {Counter.EMITTED + Kind.SPLIT: 2}
    rows = {"rows_free": (1, *NO_ROWS[1:]), "rows_cached": NO_ROWS, "rows_released": NO_ROWS}
    compared(state, ring, quiet=False, words=words, splits_total={Level.M2: 9, Level.G1: 0}, **rows)
    assert exactness(state).exact
    assert state.snapshot(0, 0.0).splits.unexplained == NO_SPLITS


def test_a_split_that_the_kernel_counted_and_no_record_explains() -> None:
    state = traced()
    ring = Ring()
    compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5})
    ring.split(512, tid=1)
    compared(state, ring, splits_total={Level.M2: 103, Level.G1: 6}, words={Counter.SPLIT_2M: 1})
    splits = state.snapshot(0, 0.0).splits
    assert (splits.unexplained, splits.undecided) == (NO_SPLITS, {Level.M2: 2, Level.G1: 1})
    assert state.needs_counters_reading
    assert splits.kernel_total == {Level.M2: 103, Level.G1: 6}
    assert splits.by_level(Level.M2) == 3
    assert exactness(state).reasons == ("3 splits that no record explains: the page tables are to be read again",)
    state.update(map_reading([2, 1, 1, 1, *[2] * 12], begin_ns=ring.time_ns + 1))
    compared(state, ring, splits_total={Level.M2: 103, Level.G1: 6}, words={Counter.SPLIT_2M: 1}, time_ns=ring.time_ns + 10)
    assert exactness(state).exact
    splits = state.snapshot(0, 0.0).splits
    assert (splits.unexplained, splits.undecided) == ({Level.M2: 2, Level.G1: 1}, NO_SPLITS)
    assert splits.by_level(Level.M2) == 3
    assert state.needs_counters_reading, "nor did a program count them: in a second that is a silence"
    time_ns = ring.time_ns + CONFIRM_NS
    compared(state, ring, splits_total={Level.M2: 103, Level.G1: 6}, words={Counter.SPLIT_2M: 1}, time_ns=time_ns)
    state.update(map_reading([2, 1, 1, 1, *[2] * 12], begin_ns=ring.time_ns + 1))
    assert exactness(state).reasons[0].startswith("hooks are silent: the kernel counted 3 splits that none reported")
    assert not state.needs_counters_reading
    assert state.snapshot(0, 0.0).splits.unexplained == {Level.M2: 2, Level.G1: 1}


def test_a_split_whose_record_was_on_its_way_is_never_called_unexplained() -> None:
    state = traced()
    ring = Ring()
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5}, time_ns=ring.time_ns + 10)
    compared(state, ring, splits_total={Level.M2: 101, Level.G1: 5}, time_ns=ring.time_ns + 10)
    assert state.snapshot(0, 0.0).splits.unexplained == NO_SPLITS
    ring.split(512, tid=1)
    for _ in range(3):
        compared(state, ring, splits_total={Level.M2: 101, Level.G1: 5}, words={Counter.SPLIT_2M: 1}, time_ns=ring.time_ns + 10)
        splits = state.snapshot(0, 0.0).splits
        assert (splits.unexplained, splits.undecided) == (NO_SPLITS, NO_SPLITS)


def seen_beside(nr_other: int, vmstat: int, *, found: int = 0) -> SplitsView:
    """After splits of module memory, with what vmstat counted meanwhile, and regions of the direct map that re-reading finds split."""
    state = traced()
    ring = Ring()
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5}, time_ns=ring.time_ns + 10)
    for _ in range(nr_other):
        ring.split(0, tid=1, flags=Flag.OTHER_MAPPING)
    for _ in range(3):
        compared(state, ring, splits_total={Level.M2: 100 + vmstat, Level.G1: 5}, time_ns=ring.time_ns + 10)
        if state.needs_map_reading == "all":
            state.update(map_reading([1] * found + [2] * (16 - found), begin_ns=ring.time_ns + 1))
    assert exactness(state).exact
    assert state.needs_counters_reading == (vmstat > nr_other), "what no program counted may be a silence"
    return state.snapshot(0, 0.0).splits


@pytest.mark.parametrize("counts_them", [False, True], ids=["a kernel that does not count them", "a kernel that does"])
def test_splits_of_module_memory_are_never_unexplained_and_hide_none(counts_them: bool) -> None:
    counted = 3 if counts_them else 0
    assert seen_beside(3, counted).unexplained == NO_SPLITS
    assert seen_beside(3, counted).other_mappings == 3
    assert seen_beside(3, counted + 2, found=2).unexplained == {Level.M2: 2, Level.G1: 0}


def test_more_than_the_records_of_module_memory_can_explain_is_unexplained_wherever_it_is() -> None:
    assert seen_beside(3, 5).unexplained == {Level.M2: 2, Level.G1: 0}


def test_a_split_by_memory_failure_is_in_the_map_and_not_in_vmstat() -> None:
    state = traced()
    ring = Ring()
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5}, time_ns=ring.time_ns + 10)
    ring.split(512, tid=1, flags=Flag.UNCOUNTED)
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5}, time_ns=ring.time_ns + 10)
    assert exactness(state).exact
    assert state.snapshot(0, 0.0).splits.by_level(Level.M2) == 1
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 101, Level.G1: 5}, time_ns=ring.time_ns + 10)
    splits = state.snapshot(0, 0.0).splits
    assert splits.unexplained == {Level.M2: 1, Level.G1: 0}, "it hides none"


@pytest.mark.parametrize("counted", [False, True])
def test_meminfo_agrees_whether_the_kernel_counts_splits_of_module_memory_or_not(counted: bool) -> None:
    state = traced()
    ring = Ring()
    before = {Level.K4: 0, Level.M2: 16 * M2_BYTES, Level.G1: 0}
    after = {Level.K4: M2_BYTES, Level.M2: 15 * M2_BYTES, Level.G1: 0} if counted else before
    for _ in range(2):
        compared(state, ring, splits_total={Level.M2: 100, Level.G1: 5}, direct_map_bytes=before, time_ns=ring.time_ns + 10)
    ring.split(0, tid=1, flags=Flag.OTHER_MAPPING)
    for _ in range(3):
        compared(state, ring, splits_total={Level.M2: 100 + counted, Level.G1: 5}, direct_map_bytes=after, time_ns=ring.time_ns + 10)
        if state.needs_map_reading == "all":
            state.update(map_reading([2] * 16, begin_ns=ring.time_ns + 1))
    assert state.snapshot(0, 0.0).reconcile_error_bytes == 0


def test_splits_before_the_first_reading_are_told_by_the_programs_count() -> None:
    state = traced()
    ring = Ring().split(512, tid=1)
    compared(state, ring, splits_total={Level.M2: 101, Level.G1: 5}, words={Counter.SPLIT_2M: 1})
    assert state.snapshot(0, 0.0).splits.unexplained == NO_SPLITS
    assert exactness(state).exact


def test_a_first_reading_in_the_middle_of_a_split_is_made_good_by_the_second() -> None:
    state = traced()
    ring = Ring()
    sizes = {Level.K4: 0, Level.M2: 16 * M2_BYTES, Level.G1: 0}
    after = {Level.K4: M2_BYTES, Level.M2: 15 * M2_BYTES, Level.G1: 0}
    compared(state, ring, splits_total={Level.M2: 101, Level.G1: 0}, direct_map_bytes=after)
    ring.split(512, tid=1)
    for _ in range(3):
        compared(state, ring, splits_total={Level.M2: 101, Level.G1: 0}, words={Counter.SPLIT_2M: 1}, direct_map_bytes=after)
        assert exactness(state).exact
        ring.time_ns += 10
    assert state.snapshot(0, 0.0).splits.unexplained == NO_SPLITS
    assert state.snapshot(0, 0.0).reconcile_error_bytes == 0
    assert sizes != after


def test_a_collapse_wants_everything_read_again() -> None:
    state = traced()
    ring = Ring()
    compared(state, ring, collapses_total={Level.M2: 0, Level.G1: 0})
    assert exactness(state).exact
    compared(state, ring, collapses_total={Level.M2: 1, Level.G1: 0}, time_ns=ring.time_ns + 10)
    assert state.needs_map_reading == "all"


def test_meminfo_is_believed_in_its_changes_only() -> None:
    state = traced(16)
    ring = Ring()
    odd = {Level.K4: 5 << 20, Level.M2: 7 << 30, Level.G1: 9 << 30}  # nothing like the truth
    for _ in range(2):
        compared(state, ring, direct_map_bytes=odd, time_ns=ring.time_ns + 10)
    ring.split(512, tid=1)
    changed = {Level.K4: (5 << 20) + M2_BYTES, Level.M2: (7 << 30) - M2_BYTES, Level.G1: 9 << 30}
    compared(state, ring, direct_map_bytes=changed, words={Counter.SPLIT_2M: 1})
    assert exactness(state).exact
    snapshot = state.snapshot(0, 0.0)
    assert snapshot.reconcile_error_bytes == 0
    assert snapshot.direct_map.kernel_bytes == changed


def test_a_split_in_the_kernel_image_changes_meminfo_and_not_the_direct_map() -> None:
    state = traced(16)
    ring = Ring()
    sizes = {Level.K4: 0, Level.M2: 16 * M2_BYTES, Level.G1: 0}
    for _ in range(2):
        compared(state, ring, direct_map_bytes=sizes, time_ns=ring.time_ns + 10)

    ring.split(512, tid=1, flags=Flag.KERNEL_IMAGE)
    compared(state, ring, direct_map_bytes={Level.K4: M2_BYTES, Level.M2: 15 * M2_BYTES, Level.G1: 0})
    assert state.snapshot(0, 0.0).reconcile_error_bytes == 0
    assert state.snapshot(0, 0.0).direct_map.nr_regions_split == 0


def test_a_difference_to_meminfo_that_the_page_tables_do_not_share_is_shown_and_no_doubt() -> None:
    state = traced(16)
    ring = Ring()
    sizes = {Level.K4: 0, Level.M2: 16 * M2_BYTES, Level.G1: 0}
    for _ in range(2):
        compared(state, ring, direct_map_bytes=sizes, time_ns=ring.time_ns + 10)
    other = {Level.K4: M2_BYTES, Level.M2: 15 * M2_BYTES, Level.G1: 0}
    compared(state, ring, direct_map_bytes=other, time_ns=ring.time_ns + 10)
    assert state.needs_map_reading == "all"
    state.update(map_reading([2] * 16, begin_ns=ring.time_ns + 1))
    compared(state, ring, direct_map_bytes=other, time_ns=ring.time_ns + 10)
    assert state.needs_map_reading is None
    assert exactness(state).exact
    assert state.snapshot(0, 0.0).reconcile_error_bytes == M2_BYTES


def test_the_last_exact_moment_is_kept() -> None:
    state = traced()
    compared(state, Ring(), time_ns=50)
    compared(state, Ring(), time_ns=60, lost={Kind.SPLIT: 1})
    assert exactness(state, 70).last_exact_time_ns == 50


def test_counters_are_the_kernels_and_by_records_until_they_are_read() -> None:
    state = traced()
    ring = Ring().request(1).refill(1, 2048, 2).alloc(1, 2048, 1)
    state.update(ring.take())
    snapshot = state.snapshot(0, 0.0)
    assert snapshot.cache is not None
    assert (snapshot.cache.requests, snapshot.cache.refills, snapshot.cache.allocated[1]) == (1, 1, 1)
    words = {
        Counter.REQUEST: 701,
        Counter.CACHE_ALLOC: 700,
        Counter.ALLOC_ORDER + 1: 600,
        Counter.SET_INVALID: 9,
        Counter.SET_INVALID_FAILED: 2,
    }
    words |= {Counter.HISTOGRAM + 32 * 4 + 7: 9, Counter.HISTOGRAM_SUM + 4: 1500}
    state.update(counters([ring.batch()], time_ns=10**6, words=words))
    snapshot = state.snapshot(0, 0.0)
    assert snapshot.cache is not None
    assert (snapshot.cache.requests, snapshot.cache.allocated[1]) == (700, 600)
    assert (snapshot.operations["set_invalid"].calls, snapshot.operations["set_invalid"].failed) == (9, 2)
    assert (snapshot.latency["set_invalid"].count, snapshot.latency["set_invalid"].sum_ns) == (9, 1500)
    assert snapshot.counters["request"] == 701


def test_a_second_start_begins_anew() -> None:
    state = traced()
    compared(state, Ring().split(512, tid=1))
    state.update(start())
    assert exactness(state).reasons[0] == "baseline not read yet"
    assert sum(state.snapshot(0, 0.0).splits.by_cause.values()) == 0
