# SPDX-License-Identifier: Apache-2.0
"""The direct map by example: splits, absent pages, doubts, readings and comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.build import Ring, columns, map_reading
from tests.model.direct_maps import G1, K4, M2
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level
from uaptrace.model.compare import compare
from uaptrace.model.direct_map import DirectMap
from uaptrace.model.updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_PRESENT


def read_map(levels: list[int]) -> DirectMap:
    direct_map = DirectMap()
    direct_map.load(map_reading(levels))
    return direct_map


def test_a_split_and_a_page_made_absent() -> None:
    direct_map = read_map([G1] * 512)
    ring = Ring().split(5, level=Level.G1).split(5).unmap(5)
    direct_map.apply(columns(ring.batch()))
    view = direct_map.view()
    assert view.present_bytes == {Level.K4: 511 * PAGE_SIZE, Level.M2: 511 * PAGES_PER_2M * PAGE_SIZE, Level.G1: 0}
    assert view.absent_bytes_by_level[Level.K4] == PAGE_SIZE
    assert (view.nr_regions_touched, view.nr_regions_split, view.nr_regions_stranded) == (1, 1, 0)
    assert direct_map.uncertain_ranges() is None


def test_a_restored_region_is_stranded_and_takes_no_memory() -> None:
    direct_map = read_map([M2] * 4)
    direct_map.apply(columns(Ring().split(512).unmap(513).remap(513).batch()))
    assert direct_map.view().nr_regions_stranded == 1
    assert not direct_map.rows.slot.any()


def test_what_was_4k_before_tracing_began_is_not_stranded() -> None:
    assert read_map([M2, K4, M2]).view().nr_regions_stranded == 0


def test_a_range_made_absent_in_one_call_stays_one_absent_entry() -> None:
    direct_map = read_map([M2] * 4)
    record = {"pfn": 512, "nr_pages": 1024, "after": M2 | 128, "flags": Flag.INVALID | Flag.VALID_NR}
    direct_map.apply(columns(Ring().add(Kind.SET_DIRECT_MAP, **record).batch()))
    view = direct_map.view()
    assert view.absent_bytes_by_level == {Level.K4: 0, Level.M2: 4 << 20, Level.G1: 0}
    assert view.nr_regions_split == 0
    direct_map.apply(columns(Ring().split(512, before=M2 | 128).batch()))
    assert direct_map.view().absent_bytes_by_level == {Level.K4: 2 << 20, Level.M2: 2 << 20, Level.G1: 0}


def test_a_range_over_a_region_boundary_writes_4k_pages_where_entries_are_cut() -> None:
    direct_map = read_map([M2] * 4)
    ring = Ring().split(0).split(1024)
    ring.add(Kind.SET_DIRECT_MAP, pfn=500, nr_pages=600, after=ABSENT, flags=Flag.INVALID | Flag.VALID_NR)
    direct_map.apply(columns(ring.batch()))
    assert direct_map.view().absent_bytes_by_level == {Level.K4: 88 * PAGE_SIZE, Level.M2: 2 << 20, Level.G1: 0}
    assert direct_map.uncertain_ranges() is None


def test_a_failed_call_on_several_pages_must_be_read_again() -> None:
    direct_map = read_map([M2] * 4)
    record = {"pfn": 512, "nr_pages": 1024, "after": M2, "aux": -12, "flags": Flag.INVALID | Flag.VALID_NR}
    direct_map.apply(columns(Ring().add(Kind.SET_DIRECT_MAP, **record).batch()))
    assert direct_map.uncertain_ranges() == [(1, 2)]


ABSENT = K4 | 128


def test_an_unseen_split_is_uncertain_until_its_record_comes_from_another_processor() -> None:
    direct_map = read_map([M2] * 4)
    direct_map.apply(columns(Ring().unmap(513).batch()))
    assert direct_map.uncertain_ranges() == [(1, 1)]
    direct_map.apply(columns(Ring(5000).split(513).batch()))
    assert direct_map.uncertain_ranges() is None
    assert direct_map.view().absent_bytes == PAGE_SIZE


def test_a_reading_settles_only_what_came_before_it() -> None:
    direct_map = read_map([M2] * 4)
    ring = Ring().add(Kind.UNCERTAIN, pfn=0, nr_pages=1, time_ns=100).add(Kind.UNCERTAIN, pfn=512, nr_pages=1, time_ns=200)
    direct_map.apply(columns(ring.batch()))
    direct_map.load(map_reading([M2] * 4, begin_ns=150))
    assert direct_map.uncertain_ranges() == [(1, 1)]


def test_doubt_without_a_range_wants_everything() -> None:
    direct_map = read_map([M2] * 4)
    direct_map.apply(columns(Ring().add(Kind.UNCERTAIN, pfn=0, nr_pages=0, time_ns=100).batch()))
    direct_map.load(map_reading([M2], begin_ns=150, complete=False))
    assert direct_map.uncertain_ranges() == "all"
    direct_map.load(map_reading([M2] * 4, begin_ns=160))
    assert direct_map.uncertain_ranges() is None


def test_before_the_first_reading_only_what_records_say_is_known() -> None:
    direct_map = DirectMap()
    direct_map.apply(columns(Ring().unmap(513).remap(514).batch()))
    view = direct_map.view()
    assert (view.total_bytes, view.absent_bytes) == (2 * PAGE_SIZE, PAGE_SIZE)


def test_a_page_that_cannot_exist_is_counted_and_takes_no_memory() -> None:
    direct_map = read_map([M2] * 4)
    direct_map.apply(columns(Ring().unmap(1 << 50).unmap(513).batch()))
    assert direct_map.bad_records == 1
    assert direct_map.view().absent_bytes == PAGE_SIZE
    assert len(direct_map.levels) == REGIONS_PER_1G


def test_the_region_table_is_read_only_and_says_where() -> None:
    direct_map = read_map([M2, M2, M2 | LARGE_ABSENT, 0, M2])
    direct_map.apply(columns(Ring().split(512).unmap(513).unmap(514).batch()))
    table = direct_map.region_table(np.array([1]), np.array([2]))
    assert table.level.tolist() == [M2, K4, M2, 0, M2]
    assert table.nr_absent.tolist() == [0, 2, 512, 0, 0]
    assert table.nr_cached.tolist() == [0, 2, 0, 0, 0]
    assert table.was_split.tolist() == [False, True, False, False, False]
    with pytest.raises(ValueError, match="read-only"):
        table.level[0] = 1


def test_comparison_finds_the_one_page_that_differs() -> None:
    direct_map = read_map([M2, K4, M2])
    row = np.full(512, PAGE_PRESENT, np.uint8)
    row[9] = PAGE_ABSENT
    result = compare(direct_map, map_reading([M2, K4, M2], {1: row}))
    assert (result.compared_pages, result.differing_pages) == (3 * 512, 1)
    assert [(d.pfn, d.ours, d.theirs) for d in result.first] == [(521, "4k present", "4k absent")]
    result = compare(direct_map, map_reading([M2, K4, K4, M2]))
    assert (result.compared_pages, result.differing_pages) == (4 * 512, 2 * 512)
    assert {(d.ours, d.theirs) for d in result.first} == {("2m present", "4k present")}
    part = compare(direct_map, map_reading([M2], first_region=2, complete=False))
    assert (part.compared_pages, part.differing_pages) == (512, 0)


def test_of_absent_large_entries_a_dump_says_nothing_which_is_no_difference() -> None:
    """As ptdump on 7.3 with unmapped_alloc.whole_pmd=1: the entry before goes on over an absent one."""
    direct_map = read_map([M2, M2 | LARGE_ABSENT, M2, K4, M2 | LARGE_ABSENT, M2 | LARGE_ABSENT])
    all_there = np.full(512, PAGE_PRESENT, np.uint8)
    dump = map_reading([M2, M2, M2, K4, K4, 0], {3: all_there, 4: all_there})
    result = compare(direct_map, dump, absent_is_hole=True)
    assert (result.compared_pages, result.differing_pages, result.untold_pages) == (4 * 512, 0, 2 * 512)
    assert compare(direct_map, dump).differing_pages == 3 * 512, "a reading of the tables themselves tells them apart"
    missing = compare(direct_map, map_reading([M2, M2, 0, K4, K4, 0], {3: all_there, 4: all_there}), absent_is_hole=True)
    assert missing.differing_pages == 512
