# SPDX-License-Identifier: Apache-2.0
"""Who did it: names stay with those who bore them, also when their numbers are used again."""

from __future__ import annotations

import tracemalloc
from collections import Counter as Tally
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.build import PRESENT_4K, Ring, columns, counters, cut, invariant, traced
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import Level
from uaptrace.model.names import MAX_SYMBOLS, Names
from uaptrace.model.snapshot import Cause, ProcessRow, Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Cgroups, Records, Symbols

PID = 4242


def after(ring: Ring, **fields: Any) -> Snapshot:
    state = traced(**fields)
    state.update(ring.take())
    return state.snapshot(1, 0.0)


def who(snapshot: Snapshot) -> dict[tuple[str, int | None], int]:
    return {(row.comm, row.started_ns): row.splits for row in snapshot.processes}


def test_the_next_process_of_a_pid_is_not_blamed_for_the_work_of_the_last() -> None:
    ring = Ring().task(PID, "victim", 100)
    for pfn in (512, 1024, 1536):
        ring.split(pfn, tid=PID)
    ring.task(PID, "innocent", 200).split(2048, tid=PID)
    snapshot = after(ring)
    assert who(snapshot) == {("victim", 100): 3, ("innocent", 200): 1}
    assert {(row.comm, row.tgid, row.count) for row in snapshot.split_rows} == {("victim", PID, 3), ("innocent", PID, 1)}


def test_a_finding_keeps_the_process_that_made_it() -> None:
    state = traced()
    ring = Ring(10**10).task(PID, "victim", 100).alloc(PID, 512, after=PRESENT_4K, nr_present=1).task(PID, "innocent", 200)
    ring.alloc(PID, 513, after=PRESENT_4K, nr_present=1)
    state.update(ring.take())
    state.update(counters([ring.batch()], time_ns=10**11))
    assert [violation.comm for violation in invariant(state.snapshot(1, 0.0), 2).first] == ["victim", "innocent"]


def test_a_request_of_the_last_process_is_not_the_next_ones() -> None:
    state = traced()
    ring = Ring(10**10).task(PID, "victim", 100).request(PID).task(PID, "innocent", 200).request(PID)
    state.update(ring.take())
    state.update(counters([ring.batch()], time_ns=10**11))
    assert [violation.comm for violation in invariant(state.snapshot(1, 0.0), 1).first] == ["victim"]


def test_a_process_that_changes_its_name_is_one_row_under_its_last_name() -> None:
    ring = Ring()
    for i in range(50):
        ring.task(PID, f"worker/{i % 7}", 100).split(512, tid=PID)
    snapshot = after(ring)
    assert who(snapshot) == {("worker/0", 100): 50}
    assert len(snapshot.split_rows) == 1


def test_where_no_start_is_known_a_pid_is_one_process() -> None:
    ring = Ring().task(PID, "bash").split(512, tid=PID).task(PID, "insmod").split(1024, tid=PID)
    assert who(after(ring)) == {("insmod", None): 2}


@pytest.mark.parametrize(("started_ns", "cause"), [(40, Cause.SELF), (60, Cause.OTHER)])
def test_whoever_gets_the_loaders_pid_after_it_is_not_uaptrace(started_ns: int, cause: Cause) -> None:
    state = traced(self_tgids=frozenset({PID}), time_ns=50)
    state.update(Ring().task(PID, "python3", started_ns).split(512, tid=PID).take())
    assert state.snapshot(1, 0.0).splits.by_cause[Level.M2, cause] == 1


def test_many_processes_of_few_pids_are_merged_into_others_and_none_is_lost() -> None:
    ring = Ring()
    for i in range(6000):
        ring.task(1 + i % 1500, f"p{i}", 1 + i).add(kind=Kind.SPLIT, pfn=0, before=2, after=1, tid=1 + i % 1500)
    state = traced()
    for batch in cut(ring.batch(), [50] * 300):
        state.update(Records(batch))
    newest = state.snapshot(1, 0.0)
    assert sum(group.count for group in newest.split_rows) <= 6000
    state.update(Ring().task(1, "last", 10_000).split(512, tid=1).split(512, tid=1).take())
    rows = state.snapshot(1, 0.0).processes
    assert ("last", 2) in {(row.comm, row.splits) for row in rows}
    assert rows[0].comm == "(others)"


Event = tuple[str, int, int]
events = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 4), st.integers(1, 6)),
        st.tuples(st.just("rename"), st.integers(1, 4), st.integers(0, 9)),
        st.tuples(st.just("split"), st.integers(1, 4), st.integers(0, 15)),
    ),
    max_size=60,
)


@given(events, st.lists(st.integers(1, 9), max_size=20))
def test_each_process_has_what_it_did_however_the_stream_is_cut(steps: list[Event], sizes: list[int]) -> None:
    """Against a dictionary by pid and start."""
    now: dict[int, tuple[int, str]] = {}
    done: Tally[tuple[int, int]] = Tally()
    names: dict[tuple[int, int], str] = {}
    ring = Ring()
    clock = 0
    for what, tgid, number in steps:
        clock += 10
        if what == "begin" or tgid not in now:
            now[tgid] = (clock, f"a{number}")
            ring.task(tgid, f"a{number}", clock)
        if what == "rename":
            now[tgid] = (now[tgid][0], f"b{number}")
            ring.task(tgid, f"b{number}", now[tgid][0])
        elif what == "split":
            ring.split(number * 512, tid=tgid)
            done[tgid, now[tgid][0]] += 1
        names[tgid, now[tgid][0]] = now[tgid][1]
    state = traced()
    for batch in cut(ring.batch(), sizes):
        state.update(Records(batch))
    snapshot = state.snapshot(1, 0.0)
    found = {(row.tgid, row.started_ns, row.comm): row.splits for row in snapshot.processes}
    assert found == {(tgid, start, names[tgid, start]): n for (tgid, start), n in done.items()}
    by_row: Tally[tuple[int, int | None, str]] = Tally()
    for row in snapshot.split_rows:
        by_row[row.tgid, row.started_ns, row.comm] += row.count
    assert by_row == found


def swapped(*, between: bool = True) -> KernelState:
    """A module splits, is unloaded, and another one at the same address splits through the same addresses."""
    state = traced()
    ring = Ring().stack(7, [0x1000, 0x2000]).split(512, tid=1, stack_id=7)
    state.update(ring.take())
    state.update(Symbols({0x1000: "set_memory_ro+0x1", 0x2000: "a_init+0x2 [a]"}))
    if between:
        state.update(Symbols({0x2000: "b_init+0x7 [b]"}))
    state.update(ring.split(1024, tid=1, stack_id=7).take())
    return state


def test_a_split_keeps_the_names_that_its_addresses_had_at_the_time() -> None:
    rows = swapped().snapshot(1, 0.0).split_rows
    assert {(row.count, row.stack[-1], row.pfns) for row in rows} == {(1, "a_init+0x2 [a]", (512,)), (1, "b_init+0x7 [b]", (1024,))}
    assert [row.count for row in swapped(between=False).snapshot(1, 0.0).split_rows] == [2]


def test_the_cause_of_a_split_does_not_change_with_the_names() -> None:
    state = traced()
    ring = Ring().stack(7, [0x1000]).split(512, tid=1, stack_id=7)
    state.update(ring.take())
    state.update(Symbols({0x1000: "bpf_prog_load+0x2"}))
    state.update(Symbols({0x1000: "secretmem_fault+0x2"}))
    state.update(ring.split(1024, tid=1, stack_id=7).take())
    by_cause = state.snapshot(1, 0.0).splits.by_cause
    assert (by_cause[Level.M2, Cause.BPF], by_cause[Level.M2, Cause.SECRETMEM]) == (1, 1)


def test_a_finding_keeps_the_stack_that_it_had() -> None:
    state = traced()
    ring = Ring(10**10).stack(7, [0x1000]).alloc(1, 512, after=PRESENT_4K, nr_present=1, stack_id=7, flags=Flag.REFILLED | Flag.FLUSHED)
    state.update(ring.take())
    state.update(Symbols({0x1000: "a_init+0x2 [a]"}))
    state.update(Symbols({0x1000: "b_init+0x7 [b]"}))
    state.update(counters([ring.batch()], time_ns=10**11))
    assert invariant(state.snapshot(1, 0.0), 2).first[0].stack == ("a_init+0x2 [a]",)


def test_a_name_that_comes_late_is_the_first_one() -> None:
    state = traced()
    ring = Ring().stack(7, [0x1000]).split(512, tid=1, stack_id=7)
    state.update(ring.take())
    assert state.snapshot(1, 0.0).split_rows[0].stack == ("0x1000",)
    state.update(Symbols({0x1000: "a_init+0x2 [a]"}))
    state.update(ring.split(1024, tid=1, stack_id=7).take())
    (row,) = state.snapshot(1, 0.0).split_rows
    assert (row.count, row.stack) == (2, ("a_init+0x2 [a]",))


def test_two_rows_that_only_their_start_tells_apart_are_two_rows_of_the_screen() -> None:
    from uaptrace.tui.tables import PROCESSES, splits_table

    snapshot = after(Ring().task(PID, "a", 1).split(512, tid=PID).task(PID, "a", 2).split(512, tid=PID))
    assert len(set(PROCESSES.keys(snapshot.processes))) == len(snapshot.processes) == 2
    assert len(set(splits_table(0).keys(snapshot.split_rows))) == 2
    twice: list[ProcessRow] = [*snapshot.processes, *snapshot.processes]
    assert len(set(PROCESSES.keys(twice))) == 4


# A host that runs for weeks


def visitors(first: int, number: int, *, tgids: int = 30_000) -> Ring:
    """Processes that come, split nothing, call once, and go; their numbers come around, as a kernel's do."""
    ring = Ring(10**9 + first)
    for i in range(first, first + number):
        tgid = 10_000 + i % tgids
        ring.task(tgid, f"visitor{i}", 1_000 + i).stack(100 + i, [0x1000 + 64 * i, 0x2000]).unmap(
            600, tid=tgid, cgroup_id=i, stack_id=100 + i
        )
    return ring


@pytest.fixture(scope="module")
def busy() -> tuple[KernelState, int]:
    """A process that is named once and works all the time, one that split something at the beginning and ended, and then 60,000
    others. The state, and the most bytes that it took more than after the first 20,000 of these."""
    state = traced()
    begin = Ring().task(7, "ended", 50).stack(1, [0xAA, 0xBB]).split(512, tid=7, stack_id=1, cgroup_id=7_000_000)
    begin.task(8, "worker", 60).stack(2, [0xCC])
    state.update(begin.take())
    state.update(Symbols({0xAA: "set_direct_map_invalid_noflush+0x5", 0xBB: "secretmem_fault+0x10", 0xCC: "kfree+0x1"}))
    state.update(Cgroups({7_000_000: "/ended.service", 8_000_000: "/worker.service"}))
    tracemalloc.start()
    settled = 0
    for first in range(0, 60_000, 2_000):
        state.update(Ring(10**9 + first).unmap(700, tid=8, cgroup_id=8_000_000, stack_id=2).take())
        state.update(visitors(first, 2_000).take())
        state.update(Cgroups({i: f"/visitor-{i}.scope" for i in range(first, first + 2_000)}))
        state.update(Symbols({0x1000 + 64 * i: f"visit{i}+0x1" for i in range(first, first + 2_000)}))
        now = tracemalloc.get_traced_memory()[0]
        settled = now if first == 18_000 else settled
    grown_bytes = tracemalloc.get_traced_memory()[0] - settled
    tracemalloc.stop()
    state.update(Ring(2 * 10**9).split(1024, tid=8, cgroup_id=8_000_000, stack_id=2).take())
    return state, grown_bytes


def test_a_process_keeps_its_name_whatever_comes_and_goes_beside_it(busy: tuple[KernelState, int]) -> None:
    snapshot = busy[0].snapshot(1, 0.0)
    (worker,) = (row for row in snapshot.processes if row.tgid == 8)
    assert (worker.comm, worker.started_ns, worker.cgroup, worker.events) == ("worker", 60, "/worker.service", 31)
    assert all(row.comm.startswith("visitor") for row in snapshot.processes if row.tgid >= 10_000)


def test_a_split_keeps_its_cause_and_its_stack(busy: tuple[KernelState, int]) -> None:
    """A cause is a counter of Prometheus: it may not become another afterwards."""
    snapshot = busy[0].snapshot(1, 0.0)
    assert snapshot.splits.by_cause[Level.M2, Cause.SECRETMEM] == 1
    (row,) = (row for row in snapshot.split_rows if row.tgid == 7)
    assert (row.comm, row.cgroup, row.stack) == ("ended", "/ended.service", ("set_direct_map_invalid_noflush+0x5", "secretmem_fault+0x10"))


def test_names_of_a_host_that_starts_thousands_of_processes_are_bounded(busy: tuple[KernelState, int]) -> None:
    """After the first 20,000 names there is room for no more; 40,000 further ones take the places of others."""
    assert busy[1] < 8 << 20


def test_a_number_whose_owner_was_forgotten_is_not_its_first_owners() -> None:
    """The first owner split something and stays in the ledger; the name of the owner now may be forgotten, but it is not the first."""
    state = traced()
    state.update(Ring().task(PID, "first", 100).split(512, tid=PID).task(PID, "second", 200).unmap(513, tid=PID).take())
    state.update(visitors(0, 40_000).take())
    state.update(Ring(3 * 10**9).split(1024, tid=PID).take())
    assert {(row.comm, row.count) for row in state.snapshot(1, 0.0).split_rows if row.tgid == PID} <= {("first", 1), ("second", 1), ("", 1)}
    assert ("first", 1) in {(row.comm, row.count) for row in state.snapshot(1, 0.0).split_rows}


def test_stacks_that_need_more_symbols_than_are_kept_do_not_make_it_forget_again_and_again() -> None:
    """Forgetting looks at every stack: it must come once in many names, not with each record."""
    names = Names()
    nr_stacks = 3_000
    needed = {0x1000 * stack + 16 * frame: f"f{stack}_{frame}+0x1" for stack in range(1, nr_stacks + 1) for frame in range(12)}
    ring = Ring()
    for stack in range(1, nr_stacks + 1):
        ring.stack(stack, [0x1000 * stack + 16 * frame for frame in range(12)])
    names.apply(columns(ring.batch()))
    names.add_symbols(needed)
    assert len(needed) > MAX_SYMBOLS
    assert names.is_full
    names.forget(set(), set(range(1, nr_stacks + 1)), set())
    assert not names.is_full
    assert names.stack(7) == tuple(f"f7_{frame}+0x1" for frame in range(12))
    names.add_symbols({address + 1: "another+0x1" for address in list(needed)[: MAX_SYMBOLS // 4]})
    assert not names.is_full
