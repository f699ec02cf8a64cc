# SPDX-License-Identifier: Apache-2.0
"""What must hold under every design, whatever is asked of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.build import memories, request_lists
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.policies.engine_layout import ABSENT, DEFAULT, Count, Design, Op, RequestFlag
from uaptrace.policies.physical_memory import Memory
from uaptrace.policies.requests import Requests
from uaptrace.policies.simulation import Simulation, page_balance

each_design = pytest.mark.parametrize("design", list(Design), ids=lambda design: design.label)
"""Not drawn: in CI, where examples are always the same ones, each design is to have some."""


@each_design
@settings(max_examples=20, deadline=None)
@given(memory=memories(), requests=request_lists())
def test_no_page_is_lost_or_in_two_places(design: Design, memory: Memory, requests: Requests) -> None:
    simulation = Simulation(design, requests, memory)
    before = sum(page_balance(simulation).values())
    for until in (len(requests) // 2, len(requests)):
        simulation.run(until)
        balance = page_balance(simulation)
        assert sum(balance.values()) == before
        assert balance["held"] == simulation.count(Count.HELD_PAGES_NOW)
        assert balance["cached"] == simulation.count(Count.CACHE_PAGES_NOW)
    assert simulation.count(Count.CACHE_PAGES_PEAK) >= simulation.count(Count.CACHE_PAGES_NOW)


@each_design
@settings(max_examples=20, deadline=None)
@given(memory=memories(), requests=request_lists())
def test_the_figures_are_those_of_the_map_itself(design: Design, memory: Memory, requests: Requests) -> None:
    simulation = Simulation(design, requests, memory)
    simulation.run()
    s = simulation.state
    changed = (s.changed.reshape(-1, PAGES_PER_2M) != DEFAULT).sum(axis=1)
    assert s.nr_changed.tolist() == changed.tolist()
    assert simulation.count(Count.CHANGED_PAGES_NOW) == changed.sum()
    assert simulation.count(Count.TOUCHED_NOW) == np.count_nonzero(changed)
    assert simulation.count(Count.TOUCHED) == s.touched.sum() >= np.count_nonzero(changed)
    assert simulation.count(Count.STRANDED_NOW) == np.count_nonzero((s.level == Level.K4) & (changed == 0) & (s.touched == 1))
    kept = simulation.kept_bytes()
    assert sum(kept.values()) == memory.size_bytes
    for level in (Level.K4, Level.M2, Level.G1):
        assert kept[level] == np.count_nonzero(s.level == level) * PAGES_PER_2M * PAGE_SIZE
    # Nothing is ever merged back, and a region is split once.
    assert simulation.count(Count.SPLIT_2M) == np.count_nonzero(s.level == Level.K4)
    assert simulation.count(Count.SPLIT_1G) == np.count_nonzero((memory.level == Level.G1) & (s.level != Level.G1)) / 512
    assert simulation.count(Count.TLB_FLUSHES) >= simulation.count(Count.SPLIT_2M) + simulation.count(Count.SPLIT_1G)
    # A 2M entry is changed as a whole or not at all.
    assert set(changed[s.level != Level.K4].tolist()) <= {0, PAGES_PER_2M}


@settings(max_examples=60, deadline=None)
@given(memories(), request_lists(ranges=False))
def test_what_each_design_promises(memory: Memory, requests: Requests) -> None:
    for design in Design:
        simulation = Simulation(design, requests, memory)
        simulation.run()
        count = simulation.count
        if design is not Design.UNMAPPED_ALLOC_PUBLISHED:
            assert count(Count.EXPOSED_PAGES) == count(Count.CAPTURED_PAGES) == 0
        if design is Design.SECRETMEM_POOL:
            assert count(Count.SPLIT_2M) == 0
        if design is Design.PKS_TABLES and count(Count.REFILL_FALLBACKS) == 0 and count(Count.SHRINK_RELEASED) == 0:
            assert count(Count.SPLIT_2M) == 0
        if design is Design.UNMAPPED_ALLOC:
            rows = simulation.rows()
            pages = [sum(n << order for order, n in enumerate(row)) for row in (rows.free, rows.cached, rows.released)]
            served = sum(1 << int(simulation.state.held_order[i]) for i in np.flatnonzero(simulation.state.held_as == 1).tolist())
            # Invariant 7 of docs/kernel.md holds as an equation.
            assert pages[0] + served == pages[1] - pages[2]
            assert count(Count.OPERATIONS) == pages[1] + pages[2]
            assert np.count_nonzero(simulation.state.changed == ABSENT) == pages[1] - pages[2]
        if design is Design.FREETYPE:
            assert count(Count.SPLIT_2M) == 0
            served = sum(1 << int(simulation.state.held_order[i]) for i in np.flatnonzero(simulation.state.held_as == 1).tolist())
            assert np.count_nonzero(simulation.state.changed == ABSENT) == served + count(Count.CACHE_PAGES_NOW)
            rows = simulation.rows()
            flips = sum((a + b) << order for order, (a, b) in enumerate(zip(rows.cached, rows.released, strict=True)))
            assert count(Count.OPERATIONS) == flips / PAGES_PER_2M
        if design in (Design.NONE, Design.MIGRATE_UNMAPPED):
            # Only pages in use differ from what they were at boot.
            assert count(Count.CHANGED_PAGES_NOW) <= count(Count.HELD_PAGES_NOW)


@settings(max_examples=40, deadline=None)
@given(memories(), request_lists(ranges=False))
def test_unmapped_alloc_touches_no_more_regions_than_its_chunks(memory: Memory, requests: Requests) -> None:
    simulation = Simulation(Design.UNMAPPED_ALLOC, requests, memory)
    simulation.run()
    cached = simulation.rows().cached
    assert simulation.count(Count.SPLIT_2M) <= sum(cached[:10]) + 2 * cached[10]


@each_design
@settings(max_examples=20, deadline=None)
@given(memory=memories(), requests=request_lists(), stops=st.lists(st.integers(0, 60), max_size=4))
def test_the_same_answer_however_often_it_stops_on_the_way(design: Design, memory: Memory, requests: Requests, stops: list[int]) -> None:
    one, two = Simulation(design, requests, memory), Simulation(design, requests, memory)
    one.run()
    for stop in sorted(stops):
        two.run(stop)
    two.run()
    for name in one.state._fields:
        assert np.array_equal(getattr(one.state, name), getattr(two.state, name)), name


@pytest.mark.parametrize("design", list(Design))
def test_the_input_is_not_changed_by_a_replay(design: Design) -> None:
    from tests.policies.build import GIGA, run
    from uaptrace.policies.requests import RequestBuilder

    levels, pfns = GIGA.level.copy(), GIGA.free_pfns.copy()
    builder = RequestBuilder()
    builder.allocate(3)
    requests = builder.build()
    Simulation(design, requests, GIGA).run()
    run(design, builder, GIGA)
    assert np.array_equal(levels, GIGA.level)
    assert np.array_equal(pfns, GIGA.free_pfns)
    assert requests.op.tolist() == [Op.ALLOCATE]
    assert requests.flags.tolist() == [RequestFlag.HIDDEN]
