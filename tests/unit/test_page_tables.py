# SPDX-License-Identifier: Apache-2.0
"""Whatever the tables say is what is read: any mix of sizes, absences, holes, at 4 and 5 levels, with encryption bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.page_table_memory import LEAF, PFN_MASK, PRESENT, FakeMemory
from uaptrace.abi.units import Level
from uaptrace.kernel.page_tables import physical_bytes
from uaptrace.model.updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT

REGION = st.sampled_from(["hole", "2m", "2m absent", "4k"])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, dict[int, str], dict[int, str], dict[int, NDArray[np.uint8]]]:
    """levels, gigabytes (1g, 1g absent), regions, pages of the regions that are split."""
    levels = draw(st.sampled_from([4, 5]))
    gigabytes = draw(st.dictionaries(st.integers(0, 5), st.sampled_from(["1g", "1g absent"]), max_size=3))
    regions = draw(st.dictionaries(st.integers(0, 6 * 512 - 1), REGION, max_size=12))
    regions = {region: what for region, what in regions.items() if region // 512 not in gigabytes and what != "hole"}
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    pages = {region: random.integers(0, 3, 512).astype(np.uint8) for region, what in regions.items() if what == "4k"}
    return levels, gigabytes, regions, pages


def build(levels: int, gigabytes: dict[int, str], regions: dict[int, str], pages: dict[int, NDArray[np.uint8]]) -> FakeMemory:
    memory = FakeMemory(levels)
    for number, what in gigabytes.items():
        memory.map(number << 18, 30, present=what == "1g")
    for region, what in regions.items():
        if what == "4k":
            # The table is there even where every entry of it is empty.
            memory.table_of(memory.page_offset + (region << 21), 12)
            for page in np.flatnonzero(pages[region] != PAGE_HOLE).tolist():
                memory.map(region * 512 + page, 12, present=pages[region][page] == PAGE_PRESENT)
        else:
            memory.map(region << 9, 21, present=what == "2m")
    return memory


@given(layouts())
@settings(deadline=None, max_examples=60)
def test_every_entry_is_read_as_it_is(layout: tuple[int, dict[int, str], dict[int, str], dict[int, NDArray[np.uint8]]]) -> None:
    levels, gigabytes, regions, pages = layout
    reading = build(*layout).reader().read_all()
    expected = np.zeros(len(reading.levels), np.uint8)
    for number, what in gigabytes.items():
        expected[number * 512 : number * 512 + 512] = Level.G1 | (0 if what == "1g" else LARGE_ABSENT)
    codes = {"2m": Level.M2, "2m absent": Level.M2 | LARGE_ABSENT, "4k": Level.K4}
    for region, what in regions.items():
        expected[region] = codes[what]
    assert reading.complete
    assert (reading.levels == expected).all()
    assert reading.split_regions.tolist() == sorted(pages)
    for row, region in enumerate(sorted(pages)):
        assert (reading.pages[row] == pages[region]).all()
    large = int(((expected & 0x7F) >= Level.M2).sum()) * 512
    assert physical_bytes(reading) == (large + sum(int((p != PAGE_HOLE).sum()) for p in pages.values())) * 4096
    del levels


@given(layouts(), st.integers(0, 6 * 512 - 1), st.integers(1, 1100))
@settings(deadline=None, max_examples=40)
def test_a_part_is_what_the_whole_says_of_it(
    layout: tuple[int, dict[int, str], dict[int, str], dict[int, NDArray[np.uint8]]], first: int, number: int
) -> None:
    memory = build(*layout)
    whole, part = memory.reader().read_all(), memory.reader().read_regions(first, number)
    padded = np.zeros(max(len(whole.levels), first + number), np.uint8)
    padded[: len(whole.levels)] = whole.levels
    assert not part.complete
    assert (part.levels == padded[first : first + number]).all()
    inside = (whole.split_regions >= first) & (whole.split_regions < first + number)
    assert (part.split_regions == whole.split_regions[inside]).all()
    assert (part.pages == whole.pages[inside]).all()


@pytest.mark.parametrize("levels", [4, 5])
def test_a_table_that_went_away_is_read_anew_from_its_parent(levels: int) -> None:
    """Memory is given back while it is read: that costs a second look, not the reading."""
    pages = {7: np.full(512, PAGE_PRESENT, np.uint8)}
    memory = build(levels, {}, {7: "4k", 8: "2m"}, pages)
    table, index = memory.table_of(memory.page_offset + (7 << 21), 21)
    old = int(table[index]) & PFN_MASK
    original = memory.read_table

    def read_table(address: int, out: NDArray[np.uint64]) -> None:
        if address - memory.page_offset == old:
            # Just now it was merged into a 2M mapping.
            table[index] = (7 << 21) | PRESENT | LEAF
            raise LookupError("gone")
        original(address, out)

    memory.read_table = read_table  # type: ignore[method-assign]
    reading = memory.reader().read_all()
    assert reading.levels[7] == Level.M2
    assert reading.split_regions.tolist() == []
    assert PAGE_ABSENT not in reading.pages
