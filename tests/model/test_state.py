# SPDX-License-Identifier: Apache-2.0
"""The whole state under everything that two processors can do at once: exact when it says so, no kernel accused wrongly."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.model.build import cut
from tests.model.simulator import Fault, SimulatedKernel, Tracer
from uaptrace.abi.units import Level
from uaptrace.model.compare import compare
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Records


def trace(
    seed: int,
    *,
    fault: Fault = Fault.NONE,
    steps: int = 3000,
    before: int = 800,
    read_every: int = 250,
    failing: float = 0.0,
    kinds: str = "aaaaaaafffffsmcoo",
    **kernel_fields: Any,
) -> Tracer:
    kernel = SimulatedKernel(seed, fault=fault, **kernel_fields)
    kernel.fail_unmapping = failing
    kernel.kinds = kinds
    kernel.run(before)
    tracer = Tracer(kernel)
    tracer.attach()
    for i in range(0, steps, read_every):
        kernel.run(read_every // 2)
        tracer.read_counters(quiet=i % 3 != 0)
        kernel.run(read_every // 2)
        tracer.drain()
        tracer.serve(30)
    tracer.settle()
    return tracer


def violated(snapshot: Snapshot) -> dict[int, int]:
    return {row.number: row.violated for row in snapshot.audit if row.violated}


def assert_exact(tracer: Tracer) -> Snapshot:
    kernel, state = tracer.kernel, tracer.state
    snapshot = state.snapshot(kernel.time_ns, 0.0)
    comparison = compare(state.direct_map, kernel.read_map(lambda: None))
    assert comparison.first == ()
    assert comparison.compared_pages == kernel.nr_regions * 512
    assert snapshot.exactness.reasons == ()
    assert snapshot.exactness.exact
    assert snapshot.cache is not None
    assert (snapshot.cache.free, snapshot.cache.cached, snapshot.cache.released) == kernel.rows()
    assert snapshot.cache.handed_out_pages == sum(1 << order for _, order in kernel.held)
    assert snapshot.reconcile_error_blocks == 0
    assert snapshot.reconcile_error_bytes == 0
    return snapshot


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([(9, 5, 2), (5, 3, 0), (3, 0)]), st.sampled_from([0.0, 0.002, 0.05]))
@example(seed=2373, orders=(5, 3, 0), failing=0.05)
@example(seed=1508, orders=(3, 0), failing=0.0)
def test_a_sound_kernel_is_traced_exactly_and_never_accused(seed: int, orders: tuple[int, ...], failing: float) -> None:
    tracer = trace(seed, orders=orders, failing=failing)
    snapshot = assert_exact(tracer)
    assert violated(snapshot) == {}
    assert snapshot.loss.total == 0
    assert snapshot.splits.unexplained == {Level.M2: 0, Level.G1: 0}
    if failing < 0.01:
        assert all(row.checked > 0 for row in snapshot.audit if row.number in (1, 2, 4, 5, 7))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([20, 60, 200]))
def test_after_records_were_lost_the_state_becomes_exact_again(seed: int, ring_records: int) -> None:
    tracer = trace(seed, ring_records=ring_records, failing=0.002)
    snapshot = assert_exact(tracer)
    kernel = tracer.kernel
    assert violated(snapshot) == {}
    assert snapshot.loss.events_lost == int(kernel.words[96:112].sum())
    assert snapshot.loss.events_taken == int(kernel.words[80:96].sum())
    explained = sum(snapshot.splits.by_cause.values()) + sum(snapshot.splits.unexplained.values())
    words = kernel.words
    assert explained == int(words[16] + words[17])


def test_a_ring_too_small_is_seen_to_be_so() -> None:
    tracer = trace(5, ring_records=20)
    assert tracer.state.snapshot(0, 0.0).loss.events_lost > 0
    assert tracer.state.snapshot(0, 0.0).exactness.nr_rereads > 0


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1 << 32), st.lists(st.integers(1, 300), max_size=60), st.sampled_from([1 << 30, 60]))
def test_how_the_stream_is_cut_changes_nothing(seed: int, sizes: list[int], ring_records: int) -> None:
    tracer = trace(seed, steps=750, ring_records=ring_records, failing=0.01)
    random = Random(seed)
    whole, pieces, sevens = KernelState(), KernelState(), KernelState()
    pending: list[Any] = []
    for update in tracer.updates:
        if isinstance(update, Records):
            for batch in cut(update.batch, random.sample(sizes, len(sizes))):
                pieces.update(Records(batch))
            for i in range(0, len(update.batch), 7):
                sevens.update(Records(update.batch[i : i + 7]))
            pending.append(update.batch)
            continue
        if pending:
            whole.update(Records(np.concatenate(pending)))
            pending = []
        for state in (whole, pieces, sevens):
            state.update(update)
    expected = picture(tracer.state)
    for state in (whole, pieces, sevens):
        assert picture(state) == expected


def picture(state: KernelState) -> Any:
    """A snapshot that can be compared, the region table as lists."""
    snapshot = state.snapshot(10**15, 0.0, regions=True)
    assert snapshot.regions is not None
    table = snapshot.regions
    return replace(snapshot, regions=None), [a.tolist() for a in (table.level, table.nr_absent, table.nr_cached, table.was_split)]


FOUND = {
    Fault.PARTIAL_UNMAP: {2, 3},
    Fault.NO_REMAP: {8},
    Fault.BIT_LEFT_SET: {7},
    Fault.ERROR_IGNORED: {2, 3, 4},
    Fault.NOT_ZEROED: {9},
    Fault.FLAG_STRIPPED: {1},
    Fault.HANDED_OUT_TWICE: {5},
    Fault.NO_FLUSH: {3},
    Fault.SHRINKS_TOO_MUCH: {11},
}


@pytest.mark.parametrize("fault", list(FOUND), ids=lambda f: f.name.lower())
def test_each_fault_is_found_and_names_the_right_invariant(fault: Fault) -> None:
    seen: set[int] = set()
    for seed in range(2):
        tracer = trace(seed, fault=fault, failing=0.01 if fault == Fault.ERROR_IGNORED else 0.0)
        snapshot = tracer.state.snapshot(tracer.kernel.time_ns, 0.0)
        seen |= set(violated(snapshot))
        for row in snapshot.audit:
            assert len(row.first) == min(row.violated, 16)
            assert all(v.number == row.number and v.expected and v.seen for v in row.first)
    assert FOUND[fault] <= seen


def test_a_pageblock_bit_left_set_is_found_once_the_block_is_empty() -> None:
    """Nothing else uses memory here, so that no page is captured through the bit before it is looked at."""
    tracer = trace(1, fault=Fault.BIT_LEFT_SET, kinds="aaafffsss")
    assert set(violated(tracer.state.snapshot(tracer.kernel.time_ns, 0.0))) == {6}


def test_updates_are_all_the_state_knows() -> None:
    """The same updates give the same state: that is what a replay stands on."""
    tracer = trace(11, steps=1000)
    again = KernelState()
    for update in tracer.updates:
        again.update(update)
    assert picture(again) == picture(tracer.state)
