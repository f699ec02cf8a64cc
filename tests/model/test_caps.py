# SPDX-License-Identifier: Apache-2.0
"""What a kernel may send much of: work in proportion to the records, not to pages, and a label where something is not followed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from tests.model.build import ABSENT_4K, NO_ROWS, PRESENT_4K, SECOND_NS, Ring, cache_reading, counters, map_reading, traced
from uaptrace.abi.events import Kind
from uaptrace.abi.units import PAGES_PER_2M, REGIONS_PER_1G, Level
from uaptrace.model import direct_map, loops, map_regions, unmapped_cache
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CacheReading, MapReading, Records

MILLION = 1 << 20
LARGE_ABSENT_1G = 3 | 128
LIMIT_BYTES = 64 << 20


def reasons(state: KernelState) -> str:
    return "; ".join(state.snapshot(SECOND_NS, 0.0).exactness.reasons)


def peak_bytes(do: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def attribute_changes(after: int) -> Ring:
    ring = Ring()
    for number in range(60):
        ring.add(Kind.CPA, pfn=0, nr_pages=MILLION, after=after if number % 2 else after & ~128)
    return ring


def uncertain_ranges() -> Ring:
    ring = Ring()
    for number in range(3000):
        ring.add(Kind.UNCERTAIN, pfn=number * 7, nr_pages=2**32 - 1)
    return ring


@pytest.mark.parametrize(
    ("ring", "level"),
    [
        (attribute_changes(ABSENT_4K), Level.K4),
        (attribute_changes(LARGE_ABSENT_1G), Level.G1),
        (uncertain_ranges(), Level.M2),
    ],
    ids=["4k", "1g", "uncertain"],
)
def test_records_of_many_pages_take_memory_for_what_they_change(ring: Ring, level: Level) -> None:
    state = traced(8 * REGIONS_PER_1G, level=level, has_series=False)
    update = ring.take()
    assert peak_bytes(lambda: state.update(update)) < LIMIT_BYTES


def test_ranges_say_the_same_as_their_pages() -> None:
    whole, single = (traced(16, level=Level.K4, has_series=False) for _ in range(2))
    ranges, pages = Ring(), Ring()
    for begin, nr, after in (
        (100, 2000, ABSENT_4K),
        (512, 512, PRESENT_4K),
        (700, 3000, ABSENT_4K),
        (1024, 1024, PRESENT_4K),
        (5, 1, ABSENT_4K),
    ):
        ranges.add(Kind.CPA, pfn=begin, nr_pages=nr, after=after)
        for pfn in range(begin, begin + nr):
            pages.add(Kind.CPA, pfn=pfn, nr_pages=1, after=after)
    whole.update(ranges.take())
    single.update(pages.take())
    assert np.array_equal(whole.direct_map.page_states(0, 16), single.direct_map.page_states(0, 16))
    assert whole.direct_map.figures() == single.direct_map.figures()


def test_overlapping_uncertain_ranges_mark_what_each_of_them_has(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring()
    for first, last in ((0, 3), (2, 5), (9, 9), (12, 14), (12, 12), (20, 23)):
        ring.add(Kind.UNCERTAIN, pfn=first * PAGES_PER_2M, nr_pages=(last - first + 1) * PAGES_PER_2M)
    one = traced(24, has_series=False)
    one.update(Records(ring.batch()))
    monkeypatch.setattr(direct_map, "_REGIONS_AT_ONCE", 4)
    many = traced(24, has_series=False)
    many.update(Records(ring.batch()))
    assert one.needs_map_reading == many.needs_map_reading == [(0, 6), (9, 1), (12, 3), (20, 4)]


def test_more_refills_than_are_followed_are_labelled_until_the_cache_is_read_again() -> None:
    state = traced(4096)
    ring = Ring()
    for tid in range(1, loops.MAX_OPEN_REFILLS + 11):
        ring.refill(tid, tid * 1024, order=9)
    state.update(ring.take())
    assert "1024 refills" in reasons(state)
    assert state.needs_cache_reading
    assert len(state.cache.pending) == loops.MAX_OPEN_REFILLS
    state.update(cache_reading(time_ns=ring.time_ns + 1))
    state.update(counters(time_ns=ring.time_ns + 2))
    assert "refills" not in reasons(state)


@pytest.mark.parametrize("size", [60, 500, 5000])
def test_which_refills_are_followed_does_not_depend_on_batches(size: int) -> None:
    ring = Ring()
    for number in range(3000):
        ring.refill(number % 1700, (number % 40) * 512, order=number % 3)
        if number % 5 == 0:
            ring.undone(number % 1300, (number % 40) * 512, order=number % 3)
    whole, cut = traced(64), traced(64)
    batch = ring.batch()
    whole.update(Records(batch))
    for at in range(0, len(batch), size):
        cut.update(Records(batch[at : at + size]))
    assert whole.cache.pending == cut.cache.pending
    assert len(whole.cache.pending) == loops.MAX_OPEN_REFILLS


def test_a_map_with_absent_pages_in_too_many_regions_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_regions, "MAX_ROWS", 8)
    state = traced(32, level=Level.K4, has_series=False)
    ring = Ring()
    for region in range(12):
        ring.unmap(region * PAGES_PER_2M)
    state.update(ring.take())
    assert "absent pages" in reasons(state)
    assert state.direct_map.rows.nr_used == 0
    few = np.full((3, PAGES_PER_2M), 2, np.uint8)
    levels = np.full(32, Level.K4, np.uint8)
    state.update(MapReading(SECOND_NS, SECOND_NS, 0, levels, np.arange(3), few, True))
    assert "absent pages" not in reasons(state)
    many = np.full((9, PAGES_PER_2M), 2, np.uint8)
    state.update(MapReading(SECOND_NS, SECOND_NS, 0, levels, np.arange(9), many, True))
    assert "absent pages" in reasons(state)


def test_a_cache_in_too_many_regions_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmapped_cache, "MAX_ROWS", 8)
    state = traced(64)
    ring = Ring()
    for tid in range(1, 20):
        ring.refill(tid, tid * 512).undone(tid, tid * 512)
    state.update(ring.take())
    assert "not followed" in reasons(state)
    assert not state.needs_cache_reading
    state.update(CacheReading(SECOND_NS, SECOND_NS, np.arange(20) * 512, np.full(20, 9, np.uint8), NO_ROWS, NO_ROWS, NO_ROWS, True))
    assert "not followed" in reasons(state)
    state.update(cache_reading([(0, 9)], time_ns=2 * SECOND_NS))
    assert "not followed" not in reasons(state)


def test_a_sparse_address_space_takes_memory_for_what_is_mapped() -> None:
    state = traced(16, has_series=False)
    last = 1 << 25
    reading = map_reading([Level.M2] * 8, {}, begin_ns=SECOND_NS)

    def read() -> None:
        state.update(MapReading(SECOND_NS, SECOND_NS, last, reading.levels, reading.split_regions, reading.pages, True))
        ring = Ring(2 * SECOND_NS).unmap(last * PAGES_PER_2M)
        state.update(ring.take())

    read()
    resident = [array for array in (state.direct_map.levels, state.direct_map._was_split, state.direct_map._was_absent) if array.any()]
    assert all(int(np.count_nonzero(array)) <= 8 for array in resident)


def test_a_record_far_beyond_the_map_makes_no_table_of_all_in_between() -> None:
    state = traced(64, has_series=False)
    ring = Ring().unmap(((1 << 26) - 1) * PAGES_PER_2M).unmap(5)
    state.update(ring.take())
    assert len(state.direct_map.levels) < 1 << 20
    assert state.needs_map_reading == "all"
    assert state.direct_map.figures().absent_pages[Level.K4] == 1
    assert state.snapshot(SECOND_NS, 0.0).loss.decode_errors == 0
