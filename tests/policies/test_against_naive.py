# SPDX-License-Identifier: Apache-2.0
"""The page allocator and the unmapped cache against models that are too simple to be wrong."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.build import GIGA, memories
from tests.policies.naive import NaiveCache, NaivePages
from uaptrace.policies import engine
from uaptrace.policies.engine_layout import MOVABLE, RECLAIMABLE, UNMOVABLE, Design
from uaptrace.policies.physical_memory import Memory, synthetic_memory
from uaptrace.policies.requests import RequestBuilder
from uaptrace.policies.simulation import CacheRows, Simulation, expected_rows


def free_set(memory: Memory) -> set[int]:
    return {
        p for pfn, order in zip(memory.free_pfns.tolist(), memory.free_orders.tolist(), strict=True) for p in range(pfn, pfn + (1 << order))
    }


SMALL_FRAGMENTED = [synthetic_memory(16 << 20, f, seed) for f in (0.0, 0.2, 1.0) for seed in (1, 2)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SMALL_FRAGMENTED),
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 10), st.sampled_from([UNMOVABLE, MOVABLE, RECLAIMABLE]), st.integers(0, 99)), max_size=60
    ),
)
def test_the_page_allocator_fails_only_when_it_must_and_merges_all_it_can(memory: Memory, steps: list[tuple[bool, int, int, int]]) -> None:
    simulation = Simulation(Design.NONE, RequestBuilder().build(), memory)
    work = engine.Engine(simulation.state)
    naive = NaivePages(memory.nr_pages, free_set(memory))
    held: list[tuple[int, int]] = []
    for allocate, order, kind, choice in steps:
        if allocate or not held:
            page = engine.zone_allocate(work, order, kind)
            assert (page >= 0) == naive.has(order)
            if page >= 0:
                naive.take(page, order)
                held.append((page, order))
        else:
            page, order = held.pop(choice % len(held))
            engine.zone_free(work, page, order, False)
            naive.give(page, order)
    zorder = simulation.state.zorder.tolist()
    assert {page: order for page, order in enumerate(zorder) if order >= 0} == naive.blocks()
    counts = [0] * 11
    for order in naive.blocks().values():
        counts[order] += 1
    assert simulation.state.zfree.tolist() == counts


steps = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8, 9, 10])),
        st.tuples(st.just("free"), st.integers(0, 99)),
        st.tuples(st.just("shrink"), st.sampled_from([1, 3, 64, 600, 5000])),
    ),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(memories(), steps, st.booleans())
def test_unmapped_alloc_is_the_kernels_page_for_page(memory: Memory, plan: list[tuple[str, int]], recorded: bool) -> None:
    """Same requests, one CPU: every block handed out, the rows after every step, and the blocks that are released."""
    builder = RequestBuilder()
    pages = Simulation(Design.NONE, builder.build(), memory)
    zone = engine.Engine(pages.state)
    chunks: list[tuple[int, int]] = []

    def refill(order: int) -> tuple[int, int] | None:
        tried = ((engine.zone_allocate(zone, chunk, UNMOVABLE), chunk) for chunk in range(max(order, 9), order - 1, -1))
        taken = next((chunk for chunk in tried if chunk[0] >= 0), None)
        chunks.extend([taken] if taken else [])
        return taken

    naive = NaiveCache(refill)
    held: list[tuple[int, int, int]] = []
    given_out: dict[int, int | None] = {}
    rows = []
    for what, value in plan:
        if what == "allocate":
            ident = builder.allocate(value)
            page = naive.allocate(value)
            given_out[ident] = page
            if page is not None:
                held.append((ident, page, value))
        elif what == "free" and held:
            ident, page, order = held.pop(value % len(held))
            builder.free(ident)
            naive.put(page, order)
        elif what == "shrink":
            builder.shrink(value)
            for page, order in naive.shrink(value):
                engine.zone_free(zone, page, order, False)
        else:
            continue
        rows.append(CacheRows(*naive.rows()))
    # With the chunks' places given, the page allocator must not matter. A failed refill is not in a recording, so none here.
    use_places = recorded and None not in given_out.values()
    other = synthetic_memory(memory.nr_pages * 4096, 0.3, 9) if use_places else memory
    simulation = Simulation(Design.UNMAPPED_ALLOC, builder.build(refills=chunks), other, use_refills=use_places)
    for i, expected in enumerate(rows):
        simulation.run(i + 1)
        assert simulation.rows() == expected
    places = simulation.state.held[simulation.state.slot[[ident for ident, _, _ in held]]]
    assert places.tolist() == [page for _, page, _ in held]


def test_expected_rows_follow_the_phases_of_a_test_in_a_virtual_machine() -> None:
    phases = [
        [("allocate", "a", 0), ("allocate", "b", 2)],
        [("free", "a")],
        [("shrink", 1)],
        [("free", "b"), ("shrink", 10_000)],
    ]
    rows = expected_rows(phases, GIGA)
    # a is page 0, b pages 4 to 7 (the free block of order 2); then a merges up to order 2 and not with b's.
    assert rows[0] == CacheRows((1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0), (0,) * 9 + (1, 0), (0,) * 11)
    assert rows[1] == CacheRows((0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0), (0,) * 9 + (1, 0), (0,) * 11)
    assert rows[2] == CacheRows((0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0), (0,) * 9 + (1, 0), (0, 0, 1) + (0,) * 8)
    assert rows[3] == CacheRows((0,) * 11, (0,) * 9 + (1, 0), (0, 0, 2, 1, 1, 1, 1, 1, 1, 0, 0))
    # The same with the place of the chunk given, here in the upper half of 4M.
    assert expected_rows(phases, GIGA, refills=((512, 9),)) == rows
