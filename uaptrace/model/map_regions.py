# SPDX-License-Identifier: Apache-2.0
"""Regions of 2M of the direct map as they are held: their levels, the pages of those that are not wholly present, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level

from . import loops
from .columns import Bytes, Ints
from .region_pages import RegionPages, grown
from .snapshot import DirectMapView, RegionTable
from .updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT

_K4: Final = int(Level.K4)
_M2: Final = int(Level.M2)
_G1: Final = int(Level.G1)
_WHOLE: Final = loops.view(np.isin(np.arange(256), (_M2, _G1)).view(np.uint8))
"""By level: a large mapping that is present."""
MAX_ROWS: Final = 1 << 20
"""Regions of which single pages are known: 512 MiB of rows, for 2 TiB of memory with absent pages in every 2M."""


@dataclass(frozen=True, slots=True)
class MapFigures:
    """Sums over the direct map, in pages; dictionaries are by Level."""

    present_pages: dict[Level, int]
    absent_pages: dict[Level, int]
    nr_regions_touched: int
    nr_regions_split: int
    nr_regions_stranded: int
    largest_intact_regions: int

    def granularity_bytes(self) -> dict[Level, int]:
        """Bytes by size of entry, present or not: what meminfo's DirectMap lines mean to say."""
        return {level: (self.present_pages[level] + self.absent_pages[level]) * PAGE_SIZE for level in self.present_pages}


class MapRegions:
    """What is held of the direct map.

    ``levels`` is uint8 by region: Level, with LARGE_ABSENT where a 2M or 1G entry is not present. A region at 4K without a
    row of pages is wholly present; rows are kept only for regions with something absent or missing, so memory is in
    proportion to those.
    """

    def __init__(self) -> None:
        self.levels: Bytes = np.zeros(0, np.uint8)
        self.rows = RegionPages()
        self._was_split: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._was_absent: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._slot_absent: NDArray[np.int16] = np.zeros(self.rows.capacity, np.int16)
        self._slot_present: NDArray[np.int16] = np.zeros(self.rows.capacity, np.int16)
        self._figures: MapFigures | None = None
        """None: something has changed since they were summed."""
        self.is_overfull = False
        """More than MAX_ROWS regions have absent pages: rows are kept for none of them until a complete reading finds fewer."""

    def _cover(self, nr_regions: int) -> None:
        if nr_regions <= len(self.levels):
            return
        # Whole gigabytes, so that the entry of a 1G mapping is never cut; and a little more each time, so that a map
        # that grows region by region is not copied each time.
        room = -(-max(nr_regions, len(self.levels) + len(self.levels) // 4) // REGIONS_PER_1G) * REGIONS_PER_1G
        self.levels = grown(self.levels, room)
        self._was_split = grown(self._was_split, room)
        self._was_absent = grown(self._was_absent, room)
        self.rows.cover(room)

    def _cover_slots(self) -> None:
        if len(self._slot_absent) < self.rows.capacity:
            self._slot_absent = grown(self._slot_absent, self.rows.capacity)
            self._slot_present = grown(self._slot_present, self.rows.capacity)

    def _forget(self, span: slice) -> None:
        # Only what is not zero is written: most of a sparse address space takes no memory as long as nobody writes to it.
        self.rows.give_back(np.flatnonzero(self.rows.slot[span]) + span.start)
        for array in (self.levels[span], self._was_split[span], self._was_absent[span]):
            array[np.flatnonzero(array)] = 0

    def _is_too_much(self, nr_rows: int) -> bool:
        return nr_rows > MAX_ROWS

    def _give_rows(self, regions: Ints) -> None:
        """Rows, all present, for distinct regions without one. None where there would be too many: see ``is_overfull``."""
        if self._is_too_much(self.rows.nr_used + len(regions)):
            self._drop_rows()
        elif len(regions) and not self.is_overfull:
            self.rows.take(regions, fill=PAGE_PRESENT)
            self._cover_slots()

    def _drop_rows(self) -> None:
        self.is_overfull = True
        self.rows = RegionPages()
        self.rows.cover(len(self.levels))
        self._slot_absent = np.zeros(self.rows.capacity, np.int16)
        self._slot_present = np.zeros(self.rows.capacity, np.int16)

    # Views

    def figures(self) -> MapFigures:
        """The sums. Only rows that changed since the last call are counted again."""
        if self._figures is None:
            self._recount()
            self._figures = self._sum()
        return self._figures

    def _recount(self) -> None:
        self._cover_slots()
        slots = self.rows.take_dirty()
        words = loops.view(self.rows.pages.view(np.uint64))
        loops.count_pages(words, loops.view(slots), loops.view(self._slot_absent), loops.view(self._slot_present))
        whole = slots[self._slot_present[slots] == PAGES_PER_2M]
        if len(whole):
            # Wholly present again: no row is needed to say so.
            self.rows.give_back(self.rows.region_of[whole])
            self._slot_absent[whole] = 0
            self._slot_present[whole] = 0

    def _sum(self) -> MapFigures:
        sums = np.zeros(4, np.int64)
        region_of, absent_of, present_of = (loops.view(a) for a in (self.rows.region_of, self._slot_absent, self._slot_present))
        loops.sum_slots(region_of, absent_of, present_of, 1, self.rows.nr_slots, loops.view(sums))  # slot 0 is nobody's
        nr_used, nr_touched, absent, present = sums.tolist()
        counts = np.zeros(258, np.int64)
        arrays = (self.levels, self.rows.slot, self._was_split.view(np.uint8), self._was_absent.view(np.uint8))
        levels, slot, was_split, was_absent = (loops.view(array) for array in arrays)
        loops.sum_levels(levels, slot, was_split, was_absent, _K4, _WHOLE, loops.view(counts))
        nr = counts.tolist()
        nr_k4, nr_stranded, longest = nr[_K4], nr[256], nr[257]
        large_absent = nr[_M2 | LARGE_ABSENT] + nr[_G1 | LARGE_ABSENT]
        return MapFigures(
            present_pages={
                Level.K4: present + (nr_k4 - nr_used) * PAGES_PER_2M,
                Level.M2: nr[_M2] * PAGES_PER_2M,
                Level.G1: nr[_G1] * PAGES_PER_2M,
            },
            absent_pages={
                Level.K4: absent,
                Level.M2: nr[_M2 | LARGE_ABSENT] * PAGES_PER_2M,
                Level.G1: nr[_G1 | LARGE_ABSENT] * PAGES_PER_2M,
            },
            nr_regions_touched=nr_touched + large_absent,
            nr_regions_split=nr_k4,
            nr_regions_stranded=nr_stranded,
            largest_intact_regions=longest,
        )

    def view(self, kernel_bytes: dict[Level, int] | None = None) -> DirectMapView:
        """The figures as every view shows them."""
        figures = self.figures()
        return DirectMapView(
            present_bytes={level: n * PAGE_SIZE for level, n in figures.present_pages.items()},
            absent_bytes_by_level={level: n * PAGE_SIZE for level, n in figures.absent_pages.items()},
            nr_regions_touched=figures.nr_regions_touched,
            nr_regions_split=figures.nr_regions_split,
            nr_regions_stranded=figures.nr_regions_stranded,
            largest_intact_bytes=figures.largest_intact_regions * PAGES_PER_2M * PAGE_SIZE,
            kernel_bytes=kernel_bytes,
        )

    def nr_regions(self) -> int:
        """One more than the number of the last region that is mapped."""
        mapped = np.flatnonzero(self.levels)
        return int(mapped[-1]) + 1 if len(mapped) else 0

    def rows_of(self, regions: Ints) -> Bytes:
        """uint8 (n, 512): the pages of regions that are mapped by 4K entries (meaningless for others)."""
        rows = np.full((len(regions), PAGES_PER_2M), PAGE_PRESENT, np.uint8)
        slots = self.rows.slot[np.minimum(regions, len(self.rows.slot) - 1)] if len(self.rows.slot) else np.zeros(len(regions), np.int32)
        has_row = (regions < len(self.rows.slot)) & (slots != 0)
        rows[has_row] = self.rows.pages[slots[has_row]]
        return rows

    def page_states(self, first_region: int, nr_regions: int) -> Bytes:
        """PAGE_HOLE, PAGE_PRESENT or PAGE_ABSENT of every 4K page of some regions, however they are mapped: uint8, flat."""
        regions = np.arange(first_region, first_region + nr_regions)
        levels = np.zeros(nr_regions, np.uint8)
        held = self.levels[first_region : first_region + nr_regions]
        levels[: len(held)] = held
        pages = self.rows_of(regions)
        pages[levels == Level.NONE] = PAGE_HOLE
        pages[levels & LARGE_ABSENT != 0] = PAGE_ABSENT
        return pages.ravel()

    def absent_rows(self) -> tuple[Ints, NDArray[np.bool_]] | None:
        """Regions with an absent page, ascending, and bool (n, 512): its absent pages. None where they are too many."""
        self.figures()
        regions = np.flatnonzero(self.levels & LARGE_ABSENT)
        n = self.rows.nr_slots
        slots = np.flatnonzero((self._slot_absent[:n] != 0) & (self.rows.region_of[:n] >= 0))
        if self.is_overfull or len(regions) + len(slots) > MAX_ROWS:
            return None
        both = np.concatenate([regions, self.rows.region_of[slots]])
        absent = np.concatenate([np.ones((len(regions), PAGES_PER_2M), np.bool_), self.rows.pages[slots] == PAGE_ABSENT])
        order = np.argsort(both, kind="stable")
        return both[order], absent[order]

    def wholly_present(self, regions: Ints) -> Ints:
        """Those of ``regions`` that have no absent page."""
        self.figures()
        inside: Ints = regions[regions < len(self.levels)]
        present: Ints = inside[((self.levels[inside] & LARGE_ABSENT) == 0) & (self._slot_absent[self.rows.slot[inside]] == 0)]
        return present

    def nr_still_split(self, regions: Ints) -> int:
        """How many of ``regions`` are mapped by 4K entries."""
        inside = regions[regions < len(self.levels)]
        return int(np.count_nonzero(self.levels[inside] == _K4))

    def region_table(self, cached_regions: Ints, nr_cached: NDArray[np.integer]) -> RegionTable:
        """Region by region; ``nr_cached``: pages free in the unmapped cache, for each of ``cached_regions``."""
        self.figures()
        n = self.nr_regions()
        level = grown(self.levels[:n], n)
        large = np.flatnonzero(level & LARGE_ABSENT)
        level[large] &= LEVEL_MASK
        absent = np.zeros(n, np.uint16)
        slots = np.flatnonzero(self.rows.region_of[1 : self.rows.nr_slots] >= 0) + 1
        regions = self.rows.region_of[slots]
        absent[regions[regions < n]] = self._slot_absent[slots[regions < n]]
        absent[large] = PAGES_PER_2M
        cached = np.zeros(n, np.uint16)
        inside = cached_regions < n
        cached[cached_regions[inside]] = nr_cached[inside]
        split = grown(self._was_split[:n], n)
        for array in (level, absent, cached, split):
            array.flags.writeable = False
        return RegionTable(level=level, nr_absent=absent, nr_cached=cached, was_split=split)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the untouched parts included."""
        arrays = (
            self.levels,
            self._was_split,
            self._was_absent,
            self._slot_absent,
            self._slot_present,
        )
        tables = sum(a.nbytes for a in arrays)
        return tables + self.rows.slot.nbytes + self.rows.pages.nbytes + self.rows.region_of.nbytes
