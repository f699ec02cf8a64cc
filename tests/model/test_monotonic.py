# SPDX-License-Identifier: Apache-2.0
"""What is exported as a counter never falls, whatever happens and however often it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric

from tests.model.build import Ring, counters, traced
from tests.model.simulator import Fault, SimulatedKernel, Tracer
from uaptrace.abi.events import COUNTER_WORDS, Counter, Flag, Kind
from uaptrace.abi.units import NR_ORDERS, Level
from uaptrace.exporter.metrics import snapshot_families
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Update

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def cumulative(families: Iterable[Metric]) -> Series:
    """All counters, and what of histograms is cumulative."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


class Watch:
    """Compares each look at a state with the one before."""

    def __init__(self, state: KernelState) -> None:
        self.state = state
        self.before: Series = {}
        self.nr_series = 0

    def look(self) -> None:
        snapshot = self.state.snapshot(1, 0.0)
        now = cumulative(snapshot_families(snapshot))
        fell = {key: (value, now[key]) for key, value in self.before.items() if key in now and now[key] < value}
        assert fell == {}
        for row in snapshot.audit:
            assert len(row.first) <= row.violated
        self.before, self.nr_series = now, max(self.nr_series, len(now))


class WatchedTracer(Tracer):
    def __init__(self, kernel: SimulatedKernel) -> None:
        super().__init__(kernel)
        self.watch = Watch(self.state)

    def give(self, update: Update) -> None:
        super().give(update)
        self.watch.look()


@pytest.mark.parametrize("fault", list(Fault), ids=lambda f: (f.name or "").lower())
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1 << 32), ring_records=st.sampled_from([1 << 30, 200, 40]))
def test_no_counter_falls_whatever_the_kernel_does(fault: Fault, seed: int, ring_records: int) -> None:
    kernel = SimulatedKernel(seed, fault=fault, ring_records=ring_records)
    kernel.fail_unmapping = 0.01
    kernel.kinds = "aaaaaaafffffsmcoo"
    kernel.run(400)
    tracer = WatchedTracer(kernel)
    tracer.attach()
    for i in range(9):
        kernel.run(60)
        if i % 3:
            tracer.read_counters(quiet=i % 2 == 0)
        kernel.time_ns += 7_000_000_000 * (i % 4 == 0)  # a machine that stands still
        tracer.drain()
        tracer.serve(20)
    tracer.settle()
    assert tracer.watch.nr_series > 100


kinds = st.sampled_from([k for k in Kind if k is not Kind.NONE])
record = st.fixed_dictionaries(
    {
        "kind": kinds,
        "tid": st.integers(1, 3),
        "tgid": st.integers(1, 3),
        "pfn": st.integers(0, 15 * 512),
        "order": st.integers(0, 9),
        "nr_pages": st.sampled_from([1, 2, 512]),
        "aux": st.integers(-3, 600),
        "before": st.sampled_from([0, 1, 2, 3, 129]),
        "after": st.sampled_from([0, 1, 2, 129]),
        "nr_present": st.integers(0, 512),
        "flags": st.sampled_from([0, *(int(f) for f in Flag), int(Flag.REFILLED | Flag.FLUSHED)]),
    }
)
rows = st.one_of(st.none(), st.tuples(*[st.integers(0, 3)] * NR_ORDERS))
by_level = st.one_of(st.none(), st.fixed_dictionaries({Level.M2: st.integers(0, 6), Level.G1: st.integers(0, 3)}))
reading = st.fixed_dictionaries(
    {
        "words": st.dictionaries(st.sampled_from([int(c) for c in Counter]), st.integers(0, 40), max_size=8),
        "missed_runs": st.integers(0, 2),
        "splits_total": by_level,
        "rows_free": rows,
        "rows_cached": rows,
        "rows_released": rows,
        "quiet": st.booleans(),
        "pageblock_bits": st.dictionaries(st.integers(0, 15), st.booleans(), max_size=3),
        "passed_ns": st.sampled_from([1, 10**9, 7 * 10**9]),
    }
)


def updates(steps: list[Any]) -> Iterator[Update]:
    """Records as they come, and readings that may say anything: less than before, or less than was taken in."""
    time_ns, ring = 10**10, Ring(10**10)
    for step in steps:
        if isinstance(step, list):
            for fields in step:
                ring.add(**fields)
            ring.time_ns = max(ring.time_ns, time_ns)
            yield ring.take()
        else:
            fields = dict(step)
            time_ns = ring.time_ns = max(time_ns, ring.time_ns) + fields.pop("passed_ns")
            words = {index: number for index, number in fields.pop("words").items() if index < COUNTER_WORDS}
            yield counters([ring.batch()], time_ns=time_ns, words=words, **fields)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.lists(record, max_size=12), reading), max_size=14))
def test_no_counter_falls_whatever_is_fed_in(steps: list[Any]) -> None:
    watch = Watch(traced(counts_entries=True))
    watch.look()
    for update in updates(steps):
        watch.state.update(update)
        watch.look()


def test_a_reading_of_fewer_calls_than_records_takes_none_back() -> None:
    """A recording's part begins with readings, and the records that come after may belong before them."""
    state = traced()
    watch = Watch(state)
    ring = Ring(10**10)
    for pfn in range(9):
        ring.alloc(1, pfn)
    state.update(ring.take())
    watch.look()
    state.update(counters(time_ns=10**11, words={Counter.CACHE_ALLOC: 3}))
    watch.look()
    assert state.snapshot(1, 0.0).operations["cache_alloc"].calls == 9
