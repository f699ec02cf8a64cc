# SPDX-License-Identifier: Apache-2.0
"""The model's direct map against an independent reading of it, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK
from uaptrace.abi.units import PAGES_PER_2M, Level

from .columns import Bytes, Ints
from .direct_map import DirectMap
from .updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, MapReading

MAX_FIRST: Final = 64
_REGIONS_AT_ONCE: Final = 4096
_HOLE: Final = int(Level.NONE)
_ABSENT: Final = LARGE_ABSENT


@dataclass(frozen=True, slots=True)
class PageDifference:
    """A page of which the two say different things: ``2m present``, ``4k absent``, ``hole``."""

    pfn: int
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """``first``: the first pages that differ, at most MAX_FIRST. A page that is a hole in both is not compared.

    ``untold_pages``: of which the reading says nothing; they are in none of the others.
    """

    compared_pages: int
    differing_pages: int
    first: tuple[PageDifference, ...]
    untold_pages: int = 0


def compare(direct_map: DirectMap, reading: MapReading, *, absent_is_hole: bool = False) -> Comparison:
    """Compare every page: the size of its mapping, and whether it is present.

    A complete reading is compared with all that the model holds, any other one with the regions that it covers.
    ``absent_is_hole``: the reading cannot tell an absent entry from no entry (ptdump prints neither): only whether a page is
    present, and by which size of mapping, is compared. Of pages in an absent entry of 2M or 1G it says nothing: such an entry has
    lost its PSE bit (__should_split_large_page() sets it for present ones only), the walk of mm/ptdump.c takes it for a table that is
    not there, and prints the entry before it as going on.
    """
    first, end = _extent(direct_map, reading)
    compared = differing = untold = 0
    shown: list[PageDifference] = []
    for at in range(first, end, _REGIONS_AT_ONCE):
        regions = np.arange(at, min(at + _REGIONS_AT_ONCE, end))
        compared += _nr_simple(direct_map, reading, regions) * PAGES_PER_2M
        rest, ours, theirs = _unequal(direct_map, reading, regions)
        if not len(rest):
            continue
        both_holes = (ours == _HOLE) & (theirs == _HOLE)
        compared += int(both_holes.size - np.count_nonzero(both_holes))
        silent = np.zeros(ours.shape, np.bool_)
        if absent_is_hole:
            silent = (ours & _ABSENT != 0) & (ours & LEVEL_MASK > Level.K4) & (theirs != _HOLE)
            untold += int(np.count_nonzero(silent))
            ours, theirs = (np.where(pages & _ABSENT != 0, _HOLE, pages) for pages in (ours, theirs))
        differs = (ours != theirs) & ~silent
        differing += int(np.count_nonzero(differs))
        if len(shown) < MAX_FIRST:
            for row, page in np.argwhere(differs)[: MAX_FIRST - len(shown)].tolist():
                pfn = int(rest[row]) * PAGES_PER_2M + page
                shown.append(PageDifference(pfn, describe(int(ours[row, page])), describe(int(theirs[row, page]))))
    return Comparison(compared - untold, differing, tuple(shown), untold)


@dataclass(frozen=True, slots=True)
class Changes:
    """Regions in which a reading is not what the model holds, ascending, and how many of their 512 pages changed: another size of
    mapping, absent instead of present (``changed``), or memory where there was none, none where there was some (``resized``)."""

    regions: Ints
    changed: Ints
    resized: Ints

    def without(self, regions: Ints) -> Changes:
        """The same without some regions."""
        keep = ~np.isin(self.regions, regions)
        return Changes(self.regions[keep], self.changed[keep], self.resized[keep])


def changes(direct_map: DirectMap, reading: MapReading) -> Changes:
    """What a reading shows that the model does not know. A complete reading is compared with all that the model holds."""
    first, end = _extent(direct_map, reading)
    found: list[tuple[Ints, Ints, Ints]] = []
    for at in range(first, end, _REGIONS_AT_ONCE):
        regions, ours, theirs = _unequal(direct_map, reading, np.arange(at, min(at + _REGIONS_AT_ONCE, end)))
        resized = (ours == _HOLE) != (theirs == _HOLE)
        found.append((regions, ((ours != theirs) & ~resized).sum(axis=1), resized.sum(axis=1)))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.empty(0, np.int64)] * 3
    some = (columns[1] + columns[2]) > 0
    return Changes(*(column[some].astype(np.int64) for column in columns))


def describe(code: int) -> str:
    """What a page is: Level, with LARGE_ABSENT where it is not present."""
    level = Level(code & LEVEL_MASK)
    if level == Level.NONE:
        return "hole"
    return f"{level.label} {'absent' if code & _ABSENT else 'present'}"


def _extent(direct_map: DirectMap, reading: MapReading) -> tuple[int, int]:
    """The regions to compare."""
    end = reading.first_region + len(reading.levels)
    return (0, max(direct_map.nr_regions(), end)) if reading.complete else (reading.first_region, end)


def _nr_simple(direct_map: DirectMap, reading: MapReading, regions: Ints) -> int:
    """How many of the regions are one large entry for both, and the same one."""
    ours, theirs = _levels_of_model(direct_map, regions), _levels_of_reading(reading, regions)
    return int(np.count_nonzero((ours == theirs) & ((ours & LEVEL_MASK) != Level.K4) & (ours != _HOLE)))


def _unequal(direct_map: DirectMap, reading: MapReading, regions: Ints) -> tuple[Ints, Bytes, Bytes]:
    """Regions that have to be compared page by page, and their pages as each says (n, 512). Not those that both have as one large
    entry, or not at all."""
    ours_level, theirs_level = _levels_of_model(direct_map, regions), _levels_of_reading(reading, regions)
    rest = (ours_level != theirs_level) | ((ours_level & LEVEL_MASK) == Level.K4)
    some = regions[rest]
    ours = _pages(ours_level[rest], direct_map.rows_of(some))
    return some, ours, _pages(theirs_level[rest], _rows_of_reading(reading, some))


def _levels_of_model(direct_map: DirectMap, regions: Ints) -> Bytes:
    levels = np.zeros(len(regions), np.uint8)
    held = direct_map.levels[regions[0] : regions[-1] + 1]
    levels[: len(held)] = held
    return levels


def _levels_of_reading(reading: MapReading, regions: Ints) -> Bytes:
    levels = np.zeros(len(regions), np.uint8)
    inside = (regions >= reading.first_region) & (regions < reading.first_region + len(reading.levels))
    levels[inside] = reading.levels[regions[inside] - reading.first_region]
    return levels


def _rows_of_reading(reading: MapReading, regions: Ints) -> Bytes:
    rows = np.zeros((len(regions), PAGES_PER_2M), np.uint8)
    at = np.searchsorted(reading.split_regions, regions)
    found = at < len(reading.split_regions)
    found[found] = reading.split_regions[at[found]] == regions[found]
    rows[found] = reading.pages[at[found]]
    return rows


def _pages(levels: Bytes, rows: Bytes) -> NDArray[np.uint8]:
    """uint8 (n, 512): what each page is, the level's code or that of its row."""
    pages = np.repeat(levels[:, None], PAGES_PER_2M, axis=1)
    split = (levels & LEVEL_MASK) == Level.K4
    if split.any():
        states = rows[split]
        pages[split] = np.where(states == PAGE_HOLE, _HOLE, np.where(states == PAGE_ABSENT, int(Level.K4) | _ABSENT, int(Level.K4)))
    return pages
