# SPDX-License-Identifier: Apache-2.0
"""Small memories and requests for the tests of the designs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.policies.engine_layout import MOVABLE, Count, Design, RequestFlag
from uaptrace.policies.physical_memory import Memory, fresh_map, memory_from_buddyinfo, synthetic_memory
from uaptrace.policies.requests import RequestBuilder, Requests
from uaptrace.policies.simulation import Simulation

GIGA = synthetic_memory(1 << 30, 0.0, 1)
"""1 GiB, all free, mapped by one 1G entry; the first block of the largest order is at page 0."""

SMALL = synthetic_memory(16 << 20, 0.0, 1)
"""16 MiB, all free: four blocks of order 10, eight 2M entries."""


def memory_of(nr_regions: int, *blocks: tuple[int, int]) -> Memory:
    """Memory in 2M entries in which just these (pfn, order) are free, all movable."""
    pfns = np.array([pfn for pfn, _ in blocks], np.int64)
    orders = np.array([order for _, order in blocks], np.int64)
    return Memory(fresh_map(nr_regions), pfns, orders, np.full(nr_regions, MOVABLE, np.uint8), 0.0)


def run(design: Design, builder: RequestBuilder, memory: Memory) -> Simulation:
    simulation = Simulation(design, builder.build(), memory)
    simulation.run()
    return simulation


def figures(simulation: Simulation) -> dict[str, int]:
    """The figures that every hand-made case writes out."""
    names = {
        "1g": Count.SPLIT_1G,
        "2m": Count.SPLIT_2M,
        "calls": Count.OPERATIONS,
        "flushes": Count.TLB_FLUSHES,
        "touched": Count.TOUCHED,
        "now": Count.TOUCHED_NOW,
        "stranded": Count.STRANDED_NOW,
        "cached": Count.CACHE_PAGES_NOW,
        "failed": Count.FAILED,
    }
    return {name: simulation.count(count) for name, count in names.items()}


def first_page(simulation: Simulation, ident: int) -> int:
    return int(simulation.state.held[simulation.state.slot[ident]])


MEMORIES = [
    *(synthetic_memory(16 << 20, fragmentation, 1) for fragmentation in (0.0, 0.3, 1.0)),
    synthetic_memory(32 << 20, 0.5, 2),
    synthetic_memory((1 << 30) + (8 << 20), 0.0, 1),
    memory_from_buddyinfo(fresh_map(8), (3, 2, 1) + (0,) * 8, 1),
    memory_from_buddyinfo(fresh_map(8), (0,) * 9 + (1, 1), 2),
    memory_from_buddyinfo(fresh_map(16), (9, 9, 9, 5, 3, 2, 2, 1, 1, 1, 1), 3),
]
"""All free, partly used, nearly full, and one with a 1G entry."""


def memories() -> st.SearchStrategy[Memory]:
    return st.sampled_from(MEMORIES)


@st.composite
def request_lists(draw: st.DrawFn, *, ranges: bool = True, nr_pages: int = 8 * PAGES_PER_2M) -> Requests:
    """Allocations of all kinds, frees in any order, changes, pressure, owners that go while they still hold pages."""
    builder = RequestBuilder()
    live: list[tuple[int, int]] = []
    changeable: list[int] = []
    for _ in range(draw(st.integers(1, 60))):
        what = draw(st.sampled_from("aaaaaoofffcrsx"))
        owner = draw(st.integers(0, 2))
        if what == "a":
            order = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 5, 9, 10]))
            ident = builder.allocate(order, flags=draw(st.sampled_from([0, RequestFlag.HIDDEN])), owner=owner)
            live.append((ident, owner))
            changeable.append(ident)
        elif what == "o":
            flags = draw(st.sampled_from([RequestFlag.ORDINARY, RequestFlag.ORDINARY | RequestFlag.UNMOVABLE]))
            live.append((builder.allocate(draw(st.sampled_from([0, 0, 1, 3, 9])), flags=flags, owner=owner), owner))
        elif what == "f" and live:
            ident, of = live.pop(draw(st.integers(0, len(live) - 1)))
            builder.free(ident, owner=of)
            if ident in changeable:
                changeable.remove(ident)
        elif what == "c" and changeable:
            builder.change(draw(st.sampled_from(changeable)))
        elif what == "r" and ranges:
            first = draw(st.integers(0, nr_pages - 1))
            length = min(draw(st.sampled_from([1, 5, 512, 1500])), nr_pages - first)
            builder.change_range(first, length, absent=draw(st.booleans()), restore=draw(st.booleans()))
        elif what == "s":
            builder.shrink(draw(st.sampled_from([1, 2, 7, 128, 5000])))
        elif what == "x":
            builder.close(owner)
    return builder.build()
