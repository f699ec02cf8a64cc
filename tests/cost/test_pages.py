# SPDX-License-Identifier: Apache-2.0
"""What is compared differs in the mapping only: as many pages, of as many regions, in the same places of a region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.cost.pages import CHAIN_READS, LINE_BYTES, MIN_REGIONS, addresses, choose_pages
from uaptrace.model.updates import PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT, MapReading

PAGE_OFFSET = 0xFF11000000000000


def reading(levels: list[Level], share_present: float = 1.0, seed: int = 0) -> MapReading:
    rng = np.random.default_rng(seed)
    split = np.array([region for region, level in enumerate(levels) if level is Level.K4], np.int64)
    shape = (len(split), PAGES_PER_2M)
    pages = np.where(rng.random(shape) < share_present, PAGE_PRESENT, rng.choice([PAGE_HOLE, PAGE_ABSENT], shape)).astype(np.uint8)
    return MapReading(0, 0, 0, np.array(levels, np.uint8), split, pages, complete=True)


@settings(deadline=None)
@given(
    levels=st.lists(st.sampled_from([Level.NONE, Level.K4, Level.M2, Level.G1]), min_size=30, max_size=90),
    share=st.floats(0.3, 1.0),
    max_pages=st.integers(CHAIN_READS, 4 * CHAIN_READS),
    seed=st.integers(0, 99),
)
def test_all_levels_are_read_alike(levels: list[Level], share: float, max_pages: int, seed: int) -> None:
    seen = reading(levels, share, seed)
    choice = choose_pages(seen, max_pages, np.random.default_rng(seed))
    for level in (Level.M2, Level.G1):
        assert choice.nr_regions[level] == levels.count(level)
    if not choice.pfns:
        few = levels.count(Level.K4) * PAGES_PER_2M * share
        assert few < 2 * CHAIN_READS or max(levels.count(Level.M2), levels.count(Level.G1)) * PAGES_PER_2M * share < 2 * CHAIN_READS
        return
    assert choice.nr_pages % CHAIN_READS == 0
    assert CHAIN_READS <= choice.nr_pages <= max_pages
    present = {
        int(region) * PAGES_PER_2M + page
        for row, region in enumerate(seen.split_regions)
        for page in np.flatnonzero(seen.pages[row] == PAGE_PRESENT).tolist()
    }
    small = choice.pfns[Level.K4]
    assert set(small.tolist()) <= present
    for level, pfns in choice.pfns.items():
        assert len(set(pfns.tolist())) == choice.nr_pages
        assert all(levels[pfn // PAGES_PER_2M] is level for pfn in pfns.tolist())
        np.testing.assert_array_equal(pfns % PAGES_PER_2M, small % PAGES_PER_2M)
        assert len(set((pfns // PAGES_PER_2M).tolist())) == len(set((small // PAGES_PER_2M).tolist()))


@pytest.mark.parametrize("level", [Level.K4, Level.M2])
def test_too_few_of_either_kind_are_not_compared(level: Level) -> None:
    other = Level.M2 if level is Level.K4 else Level.K4
    few: list[Any] = [level] * (MIN_REGIONS - 1) + [other] * 40
    choice = choose_pages(reading(few), 1 << 20, np.random.default_rng(0))
    assert choice.pfns == {}
    assert choice.nr_pages == 0
    assert choice.nr_regions[level] == MIN_REGIONS - 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 1 << 28), min_size=1, max_size=50), st.integers(0, 99))
def test_one_line_of_each_page_is_read(pfns: list[int], seed: int) -> None:
    found = addresses(np.array(pfns, np.int64), PAGE_OFFSET, np.random.default_rng(seed))
    assert ((found - np.uint64(PAGE_OFFSET)) // np.uint64(PAGE_SIZE)).tolist() == pfns
    assert not (found % np.uint64(LINE_BYTES)).any()
