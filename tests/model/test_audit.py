# SPDX-License-Identifier: Apache-2.0
"""Each invariant is found broken by what breaks it, and not by what nearly does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.model.build import (
    ABSENT_4K,
    NO_ROWS,
    PRESENT_4K,
    SECOND_NS,
    Ring,
    cache_reading,
    counters,
    invariant,
    map_reading,
    start,
    traced,
)
from uaptrace.abi.events import Counter, Flag, Kind
from uaptrace.model.audit import SUSPECT_NS
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import InvariantRow
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Records, Symbols

CHUNK = 2048
LATER_NS = 10 * SECOND_NS
"""After every call that tracing may have begun in the middle of has ended."""


def ring() -> Ring:
    return Ring(LATER_NS)


def audit(number: int, records: Ring, state: KernelState | None = None) -> InvariantRow:
    """The invariant after the records and a reading of the counters that says nothing was lost."""
    state = state or traced()
    batch = records.batch()
    state.update(Records(batch))
    state.update(counters([batch], time_ns=records.time_ns + 1))
    return invariant(state.snapshot(records.time_ns + 1, 0.0), number)


def unmap_chunk(records: Ring, tid: int = 1, *, nr: int = 4, **fields: int) -> Ring:
    for i in range(nr):
        records.unmap(CHUNK + i, tid=tid, flags=Flag.INVALID | Flag.IN_CACHE, **fields)
    return records


def refilled(tid: int = 1, order: int = 2) -> Ring:
    """A chunk of four pages refilled, its first page handed out."""
    records = ring().request(tid).refill(tid, CHUNK, order)
    unmap_chunk(records, tid)
    return records.refilled(tid, CHUNK, order).alloc(tid, CHUNK, flags=Flag.REFILLED | Flag.FLUSHED)


FAILED = {"flags": Flag.FAILED, "after": 0}
BROKEN: list[tuple[int, str, Callable[[], Ring]]] = [
    (1, "two requests, nothing in between", lambda: ring().request(1).request(1).alloc(1, CHUNK)),
    (2, "handed out mapped", lambda: ring().alloc(1, CHUNK, after=PRESENT_4K, nr_present=1)),
    (2, "one page of a block mapped", lambda: ring().alloc(1, CHUNK, 2, after=PRESENT_4K | 64, nr_present=1)),
    (3, "half a chunk unmapped", lambda: ring().refill(1, CHUNK).refilled(1, CHUNK, nr_present=256)),
    (3, "the flush leaves out a part", lambda: ring().refill(1, CHUNK).refilled(1, CHUNK, flags=0)),
    (3, "no flush at all", lambda: ring().refill(1, CHUNK).alloc(1, CHUNK, flags=Flag.REFILLED)),
    (4, "an unmapping that failed, and the page handed out", lambda: unmap_chunk(ring().refill(1, CHUNK, 2), aux=-12).alloc(1, CHUNK)),
    (
        4,
        "a restoring that failed, and the page released",
        lambda: ring().remap(CHUNK, tid=2, aux=-12, flags=Flag.DEFAULT | Flag.IN_SHRINK).release(2, CHUNK),
    ),
    (5, "handed out twice", lambda: refilled().alloc(2, CHUNK)),
    (5, "freed twice", lambda: refilled().free(1, CHUNK).free(1, CHUNK)),
    (5, "released while handed out", lambda: refilled().release(2, CHUNK)),
    (5, "released twice", lambda: refilled().free(1, CHUNK).release(2, CHUNK).release(3, CHUNK)),
    (5, "refilled while free", lambda: refilled().refill(2, CHUNK + 1, 0).alloc(2, CHUNK + 1)),
    (5, "refilled while handed out", lambda: refilled().refill(2, CHUNK, 0).alloc(2, CHUNK)),
    (7, "a mapped page that was never the cache's", lambda: ring().free(1, CHUNK + 100, after=PRESENT_4K, nr_present=1)),
    (
        7,
        "a page that had left the cache",
        lambda: refilled().free(1, CHUNK).release(2, CHUNK).free(1, CHUNK, after=PRESENT_4K, nr_present=1),
    ),
    (8, "released absent", lambda: refilled().free(1, CHUNK).release(2, CHUNK, after=ABSENT_4K, nr_present=0)),
    (8, "one page of a block absent", lambda: ring().release(2, CHUNK, 2, after=PRESENT_4K | 64, nr_present=3)),
    (9, "an owner's content released", lambda: refilled().free(1, CHUNK).release(2, CHUNK, aux=16)),
    (11, "two blocks too many", lambda: ring().release(2, CHUNK, 3).add(Kind.SHRINK, tid=2, nr_pages=48, aux=32)),
]
SOUND: list[tuple[int, str, Callable[[], Ring]]] = [
    (1, "requests of two tasks interleaved", lambda: ring().request(1).request(2).alloc(2, CHUNK).alloc(1, CHUNK + 1).request(1)),
    (1, "a request that fails inside", lambda: ring().request(1).alloc(1, 0, **FAILED).request(1)),
    (1, "a refill under way is a sign of having entered", lambda: ring().request(1).refill(1, CHUNK)),
    (2, "handed out absent", refilled),
    (2, "a failed allocation has no page", lambda: ring().alloc(1, 0, **FAILED)),
    (3, "flushed as a whole", refilled),
    (3, "a refill that failed was not flushed", lambda: ring().refill(1, CHUNK).alloc(1, 0, flags=Flag.FAILED | Flag.REFILLED, after=0)),
    (4, "given up", lambda: unmap_chunk(ring().refill(1, CHUNK, 2), aux=-12).undone(1, CHUNK, 2).alloc(1, 0, **FAILED)),
    (4, "the allocation failed", lambda: unmap_chunk(ring().refill(1, CHUNK, 2), aux=-12).alloc(1, 0, **FAILED)),
    (4, "tried again", lambda: unmap_chunk(unmap_chunk(ring().refill(1, CHUNK, 2), aux=-12)).alloc(1, CHUNK)),
    (4, "another chunk taken instead", lambda: unmap_chunk(ring().refill(1, CHUNK, 2), aux=-12).refill(1, 4096, 0).alloc(1, 4096)),
    (4, "outside of the cache", lambda: ring().unmap(CHUNK, tid=1, aux=-12).alloc(1, CHUNK)),
    (
        4,
        "not released but kept",
        lambda: ring().remap(CHUNK, tid=2, aux=-12, flags=Flag.DEFAULT | Flag.IN_SHRINK).release(2, CHUNK + 9).add(Kind.SHRINK, tid=2),
    ),
    (5, "handed out, freed, handed out", lambda: refilled().free(1, CHUNK).alloc(2, CHUNK)),
    (5, "freed page by page", lambda: ring().refill(1, CHUNK, 2).alloc(1, CHUNK, 1).free(1, CHUNK).free(1, CHUNK + 1)),
    (5, "refilled again after it left", lambda: refilled().free(1, CHUNK).release(2, CHUNK).refill(3, CHUNK, 0).alloc(3, CHUNK)),
    (
        5,
        "a chunk given back that another task refilled before the record of it came",
        lambda: ring().refill(1, CHUNK, 2).refill(2, CHUNK, 2).undone(1, CHUNK, 2).alloc(1, 0, **FAILED).alloc(2, CHUNK),
    ),
    (7, "handed out before tracing began", lambda: ring().free(1, CHUNK + 100, nr_present=0)),
    (7, "its owner had mapped it", lambda: refilled().free(1, CHUNK, after=PRESENT_4K, nr_present=1)),
    (8, "all of it restored", lambda: ring().release(2, CHUNK, 2)),
    (9, "content of a page that nobody had", lambda: ring().refill(1, CHUNK, 2).alloc(1, CHUNK).release(2, CHUNK + 1, aux=16)),
    (9, "not read", lambda: refilled().free(1, CHUNK).release(2, CHUNK, aux=-1)),
    (9, "a block of which only a part had an owner", lambda: refilled().free(1, CHUNK).release(2, CHUNK, 2, aux=16)),
    (10, "chunks that stay split", lambda: refilled().free(1, CHUNK).split(CHUNK).release(2, CHUNK, 2)),
    (11, "one block more than asked", lambda: ring().release(2, CHUNK, 4).add(Kind.SHRINK, tid=2, nr_pages=48, aux=32)),
    (11, "a block whose release was not seen", lambda: ring().add(Kind.SHRINK, tid=2, nr_pages=1000, aux=1)),
]


@pytest.mark.parametrize(("number", "what", "make"), BROKEN, ids=lambda v: v if isinstance(v, str) else None)
def test_what_breaks_an_invariant_is_found(number: int, what: str, make: Callable[[], Ring]) -> None:
    row = audit(number, make())
    assert row.violated >= 1, what
    assert row.violated <= row.checked
    assert len(row.first) == min(row.violated, 16)
    assert all(v.number == number and v.expected and v.seen and v.tgid in (1, 2, 3) for v in row.first)
    if number != 1:
        assert row.first[0].block == CHUNK // 512 or number == 11


@pytest.mark.parametrize(("number", "what", "make"), SOUND, ids=lambda v: v if isinstance(v, str) else None)
def test_what_nearly_breaks_an_invariant_is_let_be(number: int, what: str, make: Callable[[], Ring]) -> None:
    assert audit(number, make()).violated == 0, what


@pytest.mark.parametrize(("number", "what", "make"), SOUND + BROKEN, ids=lambda v: v if isinstance(v, str) else None)
def test_where_the_batches_are_cut_changes_no_verdict(number: int, what: str, make: Callable[[], Ring]) -> None:
    one, whole = traced(), traced()
    records = make()
    batch = records.batch()
    for i in range(len(batch)):
        one.update(Records(batch[i : i + 1]))
    whole.update(Records(batch))
    for state in (one, whole):
        state.update(counters([batch], time_ns=records.time_ns + 1))
    assert one.snapshot(0, 0.0).audit == whole.snapshot(0, 0.0).audit


def test_every_invariant_has_a_row_from_the_start() -> None:
    rows = KernelState().snapshot(0, 0.0).audit
    assert [row.number for row in rows] == list(range(1, 12))
    assert all(row.title and row.checked == 0 and row.violated == 0 and row.note.startswith("not checked") for row in rows)


def test_after_a_loss_nothing_is_concluded_from_several_records() -> None:
    """FREE was lost: the second allocation only looks like the same page handed out twice."""
    state = traced()
    records = refilled().alloc(2, CHUNK).request(1)
    batch = records.batch()
    state.update(Records(batch))
    state.update(counters([batch], time_ns=records.time_ns + 1, lost={Kind.FREE: 1}))
    assert invariant(state.snapshot(0, 0.0), 5).violated == 0
    # Nor until the cache was read again, and then from what comes after.
    more = Ring(records.time_ns + 10).alloc(3, CHUNK).request(1).request(1)
    state.update(Records(more.batch()))
    state.update(counters([batch, more.batch()], time_ns=more.time_ns + 1, lost={Kind.FREE: 1}))
    snapshot = state.snapshot(0, 0.0)
    assert invariant(snapshot, 5).violated == 0
    assert invariant(snapshot, 1).violated == 1  # two requests in a row after it, which no loss explains
    state.update(cache_reading([], time_ns=more.time_ns + 2))
    last = Ring(more.time_ns + 10).free(3, CHUNK).free(3, CHUNK)
    state.update(Records(last.batch()))
    state.update(counters([batch, more.batch(), last.batch()], time_ns=last.time_ns + 1, lost={Kind.FREE: 1}))
    assert invariant(state.snapshot(0, 0.0), 5).violated == 1


def test_a_violation_that_one_record_proves_stands_in_spite_of_a_loss() -> None:
    state = traced()
    batch = ring().alloc(1, CHUNK, after=PRESENT_4K, nr_present=1).batch()
    state.update(Records(batch))
    assert invariant(state.snapshot(0, 0.0), 2).violated == 1
    state.update(counters([batch], time_ns=LATER_NS * 2, lost={Kind.FREE: 1}))
    assert invariant(state.snapshot(0, 0.0), 2).violated == 1


def test_a_call_under_way_when_tracing_began_accuses_nobody() -> None:
    """It took a page that had just been freed and sent nothing: freed again, the page only looks freed twice."""
    records = Ring(1000).free(1, CHUNK)
    records.time_ns = LATER_NS
    records.free(2, CHUNK)
    assert audit(5, records).violated == 0


@pytest.mark.parametrize("answer_s", [1, 8, 600])
def test_a_stall_of_a_refill_accuses_nobody_however_long_it_takes(answer_s: int) -> None:
    state = traced()
    records = ring().request(1)
    batches = [records.batch()]
    state.update(Records(batches[0]))
    state.update(counters(batches, time_ns=LATER_NS + 4 * SECOND_NS))
    assert invariant(state.snapshot(0, 0.0), 1).violated == 0
    assert state.needs_counters_reading
    for second in range(6, answer_s, 60):
        state.update(counters(batches, time_ns=LATER_NS + second * SECOND_NS))
        row = invariant(state.snapshot(0, 0.0), 1)
        assert (row.checked, row.violated, row.first) == (0, 0, ())
        assert row.note.startswith("not decided: 1 requests")
        assert not state.needs_counters_reading
    batches.append(Ring(LATER_NS + answer_s * SECOND_NS).alloc(1, CHUNK).batch())
    state.update(Records(batches[1]))
    state.update(counters(batches, time_ns=LATER_NS + (answer_s + 1) * SECOND_NS))
    row = invariant(state.snapshot(0, 0.0), 1)
    assert (row.checked, row.violated, row.first, row.note) == (1, 0, (), "")


def test_a_late_request_that_never_entered_is_found_by_the_next_one() -> None:
    state = traced()
    batches = [ring().request(1).batch()]
    state.update(Records(batches[0]))
    state.update(counters(batches, time_ns=LATER_NS + 600 * SECOND_NS))
    batches.append(Ring(LATER_NS + 700 * SECOND_NS).request(1).batch())
    state.update(Records(batches[1]))
    state.update(counters(batches, time_ns=LATER_NS + 701 * SECOND_NS))
    row = invariant(state.snapshot(0, 0.0), 1)
    assert (row.checked, row.violated, len(row.first)) == (1, 1, 1)


def emptied() -> tuple[KernelState, Ring]:
    """A chunk of a whole pageblock that came and went."""
    state = traced()
    records = ring().refill(1, CHUNK, 9).alloc(1, CHUNK).free(1, CHUNK).release(2, CHUNK, 9)
    return state, records


def read_bits(state: KernelState, records: Ring, time_ns: int, bits: dict[int, bool], *, quiet: bool = True) -> int:
    state.update(records.take())
    state.update(counters([records.batch()], time_ns=time_ns, pageblock_bits=bits, quiet=quiet))
    return invariant(state.snapshot(0, 0.0), 6).violated


def test_6_a_bit_left_set_is_found_when_it_is_seen_twice() -> None:
    state, records = emptied()
    state.update(records.take())
    assert state.regions_to_check == [CHUNK // 512]
    assert read_bits(state, records, LATER_NS * 2, {CHUNK // 512: True}) == 0
    assert state.needs_counters_reading
    # A call on its way, interrupted, may outlast two readings in a row; none lasts that long.
    assert read_bits(state, records, LATER_NS * 2 + SUSPECT_NS - 1, {CHUNK // 512: True}) == 0
    assert read_bits(state, records, LATER_NS * 2 + SUSPECT_NS, {CHUNK // 512: True}) == 1
    assert read_bits(state, records, LATER_NS * 2 + 2 * SUSPECT_NS, {CHUNK // 512: True}) == 1  # once for each block
    assert not state.needs_counters_reading
    row = invariant(state.snapshot(0, 0.0), 6)
    assert (row.first[0].pfn, row.first[0].nr_pages) == (CHUNK, 512)


def test_6_a_bit_that_was_about_to_be_cleared_is_no_violation() -> None:
    state, records = emptied()
    assert read_bits(state, records, LATER_NS * 2, {CHUNK // 512: True}) == 0
    assert read_bits(state, records, LATER_NS * 2 + SUSPECT_NS, {CHUNK // 512: False}) == 0
    assert read_bits(state, records, LATER_NS * 2 + 2 * SUSPECT_NS, {CHUNK // 512: True}) == 0


def test_6_a_block_that_the_cache_came_back_to_in_between_is_no_violation() -> None:
    state, records = emptied()
    assert read_bits(state, records, LATER_NS * 2, {CHUNK // 512: True}) == 0
    records.refill(1, CHUNK, 3).alloc(1, CHUNK).free(1, CHUNK).release(2, CHUNK, 3)
    assert read_bits(state, records, LATER_NS * 2 + SUSPECT_NS, {CHUNK // 512: True}) == 0


def test_6_while_records_may_be_in_the_ring_it_takes_a_third_look() -> None:
    state, records = emptied()
    assert read_bits(state, records, LATER_NS * 2, {CHUNK // 512: True}, quiet=False) == 0
    assert read_bits(state, records, LATER_NS * 2 + SUSPECT_NS, {CHUNK // 512: True}, quiet=False) == 0
    assert read_bits(state, records, LATER_NS * 2 + 2 * SUSPECT_NS, {CHUNK // 512: True}, quiet=False) == 1


def test_6_a_block_with_a_page_still_absent_may_be_in_use() -> None:
    state, records = emptied()
    records.split(CHUNK).unmap(CHUNK + 7)
    assert read_bits(state, records, LATER_NS * 2, {CHUNK // 512: True}) == 0
    assert read_bits(state, records, LATER_NS * 2 + 1, {CHUNK // 512: True}) == 0


def test_7_more_pages_free_than_ever_came_in() -> None:
    state = traced()
    records = ring().refill(1, CHUNK, 2).alloc(1, CHUNK)
    rows: dict[str, Any] = {"rows_free": (2, 1, *NO_ROWS[2:]), "rows_cached": (0, 0, 1, *NO_ROWS[3:]), "rows_released": NO_ROWS}
    state.update(records.take())
    for i, violated in enumerate((0, 1)):
        state.update(counters([records.batch()], time_ns=LATER_NS * 2 + i, **rows))
        assert invariant(state.snapshot(0, 0.0), 7).violated == violated
    sound = rows | {"rows_free": (1, 1, *NO_ROWS[2:])}
    for i in range(4):
        state.update(counters([records.batch()], time_ns=LATER_NS * 3 + i, **sound))
    assert invariant(state.snapshot(0, 0.0), 7).violated == 1


def test_what_is_not_attached_is_said_to_be_not_checked() -> None:
    hooks = tuple(HookStatus(name, name, "fentry") for name in ("cpa", "flush_all", "set_invalid", "set_default", "cache_alloc"))
    state = KernelState()
    for update in (start(hooks=hooks), map_reading([2] * 8), cache_reading()):
        state.update(update)
    records = ring().request(1).request(1).refill(1, CHUNK, 2).alloc(1, CHUNK, flags=Flag.REFILLED).alloc(1, CHUNK)
    row = audit(1, records, state)
    assert (row.checked, row.violated, row.note) == (0, 0, "not checked: alloc_pages not attached")
    notes = {r.number: r.note for r in state.snapshot(0, 0.0).audit}
    assert notes[2] == ""
    assert notes[3] == "not checked: flush_range not attached"
    assert notes[5] == "not checked: cache_free, cache_release not attached"
    assert all(row.violated == 0 for row in state.snapshot(0, 0.0).audit)


def test_a_kernel_without_the_series_is_judged_by_nothing() -> None:
    state = traced(has_series=False)
    row = audit(1, ring().request(1).request(1), state)
    assert (row.checked, row.violated) == (0, 0)
    assert "no unmapped cache" in row.note


def test_a_violation_has_the_process_and_the_stack() -> None:
    state = traced()
    records = ring().task(77, "module-load").stack(5, [0x10, 0x20])
    records.alloc(77, CHUNK, after=PRESENT_4K, nr_present=1, stack_id=5)
    state.update(Symbols({0x10: "unmapped_pages_alloc+0x1", 0x20: "__alloc_pages+0x2"}))
    violation = audit(2, records, state).first[0]
    assert violation.comm == "module-load"
    assert violation.stack == ("unmapped_pages_alloc+0x1", "__alloc_pages+0x2")


def test_a_kernel_that_breaks_it_every_time_costs_sixteen_findings() -> None:
    records = ring()
    for i in range(500):
        records.request(i % 7).alloc(i % 7, CHUNK, after=PRESENT_4K, nr_present=1)
    state = traced()
    two = audit(2, records, state)
    five = invariant(state.snapshot(0, 0.0), 5)
    assert (two.violated, len(two.first)) == (500, 16)
    assert (five.violated, len(five.first)) == (499, 16)


def unanswered(entered: int, *, nr_requests: int = 3, counts_entries: bool = True) -> InvariantRow:
    """Requests of as many tasks, of which the kernel says that ``entered`` entered the cache; none has an answer after ten seconds."""
    state = traced(counts_entries=counts_entries)
    state.update(counters(time_ns=LATER_NS))
    records = ring()
    for tid in range(nr_requests):
        records.request(tid)
    state.update(records.take())
    words: dict[int, int] = {Counter.REQUEST: nr_requests, Counter.CACHE_ENTERED: entered}
    for second in (1, 10):
        state.update(counters([records.batch()], time_ns=LATER_NS + second * SECOND_NS, words=words))
    return invariant(state.snapshot(0, 0.0), 1)


def test_a_request_that_was_the_last_of_its_task_is_judged_by_the_kernels_own_counts() -> None:
    row = unanswered(0)
    assert (row.checked, row.violated, len(row.first), row.note) == (3, 3, 3, "")


@pytest.mark.parametrize(("entered", "counts_entries"), [(3, True), (1, True), (0, False)])
def test_where_those_do_not_tell_which_one_nobody_is_accused(entered: int, counts_entries: bool) -> None:
    row = unanswered(entered, counts_entries=counts_entries)
    assert (row.checked, row.violated) == (0, 0)
    assert row.note.startswith("not decided: 3 requests")


def test_a_page_that_secret_memory_is_given_shows_where_its_request_went() -> None:
    """With the hook on the caller: absent, and it came from the cache; in the direct map, and its request never got there."""
    state = traced(hooks=tuple(HookStatus(name, name, "fentry") for name in ("cache_alloc", "secretmem_fault")))
    records = ring()
    for i in range(5):
        records.request(i, pfn=CHUNK + i, after=ABSENT_4K, flags=Flag.BY_CALLER)
    records.request(7, pfn=CHUNK + 9, after=PRESENT_4K, nr_present=1, flags=Flag.BY_CALLER)
    row = audit(1, records, state)
    assert (row.checked, row.violated, row.note) == (6, 1, "")
    assert (row.first[0].pfn, row.first[0].seen) == (CHUNK + 9, "a page that is in the direct map")


def test_without_a_hook_that_sees_requests_the_first_invariant_is_not_checked() -> None:
    state = traced(hooks=(HookStatus("cache_alloc", "unmapped_pages_alloc", "fentry"),))
    assert invariant(state.snapshot(0, 0.0), 1).note == "not checked: alloc_pages not attached"
