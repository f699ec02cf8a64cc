# SPDX-License-Identifier: Apache-2.0
"""The kernel's direct map: the size of the mapping of every 2M region, and every page of those that are not wholly present.

A record says what is now, so applying one twice, or after a reading that already has it, changes nothing. Levels go down
only (1G to 2M to 4K); they come up by a reading. What a record contradicts is remembered as uncertain and must be read again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK
from uaptrace.abi.units import MAX_REGIONS, PAGES_PER_2M, PMD_ORDER, REGIONS_PER_1G, Level

from .codes import FlagCode, KindCode, MappingCode, kind_set
from .columns import Columns, Ints, distinct
from .map_regions import MapRegions
from .marks import Marks
from .ranges import expand, is_range, last_of_equals, runs, slices
from .updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT, MapReading

_K4: Final = int(Level.K4)
_M2: Final = int(Level.M2)
_G1: Final = int(Level.G1)
_PAGE_MASK: Final = PAGES_PER_2M - 1
_ROWS_AT_ONCE: Final = 8192
_NOT_DIRECT_MAP: Final = int(FlagCode.KERNEL_IMAGE | FlagCode.OTHER_MAPPING)
_PAGE_KINDS: Final = kind_set(KindCode.SET_DIRECT_MAP, KindCode.CPA)
_MAP_KINDS: Final = kind_set(KindCode.SPLIT, KindCode.SET_DIRECT_MAP, KindCode.CPA)
_MAX_RANGES: Final = 1024
_MIN_REACH: Final = 1 << 22
"""8 TiB."""
_MAX_PAGES: Final = 1 << 20
"""Of one record. Programs report longer changes as UNCERTAIN."""
_PAGES_AT_ONCE: Final = 1 << 22
_REGIONS_AT_ONCE: Final = 1 << 18
"""What is expanded to an array at a time: a kernel may send any number of records of any number of pages."""


class DirectMap(MapRegions):
    """Level and presence of every page of the direct map, by readings and records, and what of it is uncertain."""

    def __init__(self) -> None:
        super().__init__()
        # When a region became uncertain. Two tables: a record that shows 4K entries where the model has
        # a large one is settled by the SPLIT record that another processor is about to send; nothing but a reading settles the rest.
        self._uncertain = Marks()
        self._unsplit = Marks()
        self._any_uncertain = False
        self._all_uncertain_ns: int | None = None
        self._read_end_ns = 0
        self._reach = _MIN_REACH
        """Regions to which records are applied. Of one beyond, where no memory was, only a reading tells: a table for all in between
        would be made for it."""
        self.is_read = False
        """A complete reading was taken in."""
        self.bad_records = 0
        """Records of pages that no x86-64 physical address reaches."""

    # Readings

    def load(self, reading: MapReading) -> None:
        """Replace what is held for the regions of the reading, or everything where it is complete."""
        first, n = reading.first_region, len(reading.levels)
        self._cover(first + n)
        if reading.complete:
            self._forget(slice(0, first))
            self._forget(slice(first + n, len(self.levels)))
        span = slice(first, first + n)
        kept = np.zeros(n, np.bool_)
        whole = np.zeros(len(reading.split_regions), np.bool_)
        for at in range(0, len(whole), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            whole[part] = (reading.pages[part] == PAGE_PRESENT).all(axis=1)
        kept[reading.split_regions[~whole] - first] = True
        self.is_overfull &= not reading.complete
        nr_kept = int(np.count_nonzero(kept))
        if self.is_overfull or self._is_too_much(nr_kept):
            self._drop_rows()
            kept[:] = False
            whole[:] = True
        slots = self.rows.slot[span]
        self.rows.give_back(np.flatnonzero((slots != 0) & ~kept) + first)
        fresh = np.flatnonzero((slots == 0) & kept) + first
        self.rows.take(fresh)
        self._cover_slots()
        for at in range(0, len(whole), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            keep = ~whole[part]
            if keep.any():
                regions, rows = reading.split_regions[part][keep], reading.pages[part][keep]
                slots_now = self.rows.slot[regions]
                self.rows.pages[slots_now] = rows
                self.rows.dirty[slots_now] = True
                self._was_absent[regions[(rows == PAGE_ABSENT).any(axis=1)]] = True
        self.levels[span] = reading.levels
        large = (reading.levels & LEVEL_MASK) != _K4
        self._was_split[span][large] = False
        self._was_absent[span][large] = (reading.levels[large] & LARGE_ABSENT) != 0
        self._settle(span, reading.begin_ns)
        if reading.complete:
            self.is_read = True
            self._reach = max(_MIN_REACH, 2 * (first + n))
            self._settle(slice(None), reading.begin_ns)
            if self._all_uncertain_ns is not None and self._all_uncertain_ns <= reading.begin_ns:
                self._all_uncertain_ns = None
        self._read_end_ns = max(self._read_end_ns, reading.end_ns)
        self._figures = None

    def _settle(self, span: slice, begin_ns: int) -> None:
        if self._any_uncertain:
            for marks in (self._uncertain, self._unsplit):
                marks.settle(span, begin_ns)

    # Records

    def apply(self, columns: Columns) -> None:
        """Take in the SPLIT, SET_DIRECT_MAP, CPA and UNCERTAIN records of a chunk; the other kinds are passed over."""
        if columns.count(KindCode.UNCERTAIN):
            self._apply_uncertain(columns)
        nr_splits = columns.count(KindCode.SPLIT)
        if not nr_splits + columns.count(KindCode.SET_DIRECT_MAP) + columns.count(KindCode.CPA):
            return
        self._figures = None
        if nr_splits:
            self._apply_chunk_with_splits(columns)
        else:
            self._apply_pages(columns, columns.index_of(_PAGE_KINDS))

    def _apply_chunk_with_splits(self, columns: Columns) -> None:
        index = columns.index_of(_MAP_KINDS)
        after = columns.of("after", index)
        is_split = columns.kind[index] == KindCode.SPLIT
        # Splits and writes of 4K pages of one region commute: a split changes no page's presence, and a page that was
        # written before its region's split record came is not touched by it. Writes of large entries do not commute.
        large = ~is_split & (((after & LEVEL_MASK) >= _M2) | is_range(columns, index))
        for run, run_is_large in runs(large):
            part = index[run]
            if run_is_large:
                self._apply_pages(columns, part)
            else:
                splits = is_split[run]
                self._apply_splits(columns, part[splits])
                self._apply_pages(columns, part[~splits])

    def _apply_splits(self, columns: Columns, index: Ints) -> None:
        if not len(index):
            return
        flags = columns.of("flags", index)
        index = self._known_pages(columns, index[(flags & _NOT_DIRECT_MAP) == 0])
        if not len(index):
            return
        regions = columns.of("pfn", index) >> PMD_ORDER
        before = columns.of("before", index) & LEVEL_MASK
        time_ns = columns.of("time_ns", index)
        huge = before == _G1
        if huge.any():
            firsts = distinct(regions[huge]) & -REGIONS_PER_1G
            self._cover(int(firsts.max()) + REGIONS_PER_1G)
            covered = (firsts[:, None] + np.arange(REGIONS_PER_1G)).reshape(-1)
            missing = covered[self.levels[covered] == 0]
            self._mark(self._uncertain, missing, np.full(len(missing), int(time_ns.max())))
            self._lower(covered, _M2)
            # Also where no mapping is known yet: a page that was written before its split's record came would be one.
            self._was_split[covered] = True
            self._unsplit.remove(covered[(self.levels[covered] & LEVEL_MASK) >= _M2])
            regions, time_ns = regions[~huge], time_ns[~huge]
        if len(regions):
            missing = self.levels[regions] == 0
            if missing.any():
                self._mark(self._uncertain, regions[missing], time_ns[missing])
                self._adopt(regions[missing])
            still_1g = (self.levels[regions] & LEVEL_MASK) == _G1
            if still_1g.any():
                self._lower_1g_unseen(regions[still_1g], time_ns[still_1g])
            self._lower(regions, _K4)
            self._was_split[regions] = True
            self._unsplit.remove(regions)

    def _apply_pages(self, columns: Columns, index: Ints) -> None:
        """SET_DIRECT_MAP and CPA records: pages, or large entries, that are present or absent now."""
        index = self._known_pages(columns, index)
        if not len(index):
            return
        after = columns.of("after", index)
        if (((after & (LEVEL_MASK | MappingCode.MIXED)) == _K4) & (columns.of("nr_pages", index) == 1)).all():
            self._write_pages(columns.of("pfn", index), after, columns.of("time_ns", index))
            return
        index = last_of_equals(columns, index)
        for run, run_of_ranges in runs(is_range(columns, index)):
            part = index[run]
            pfn, nr_pages, after, aux, time_ns = (columns.of(name, part) for name in ("pfn", "nr_pages", "after", "aux", "time_ns"))
            if not run_of_ranges:
                for some in slices(nr_pages, _PAGES_AT_ONCE):
                    self._apply_any_pages(pfn[some], nr_pages[some], after[some], time_ns[some])
                continue
            for i in range(len(part)):
                self._apply_range(int(pfn[i]), int(nr_pages[i]), int(after[i]), int(time_ns[i]), bool(aux[i]))

    def _apply_range(self, pfn: int, nr_pages: int, after: int, time_ns: int, failed: bool) -> None:
        """set_direct_map_valid_noflush() of several pages: what is known is the first page's mapping, and that all changed alike."""
        region = np.arange(pfn >> PMD_ORDER, ((pfn + nr_pages - 1) >> PMD_ORDER) + 1)
        times = np.full(len(region), time_ns)
        if failed or after & LEVEL_MASK == 0:
            self._mark(self._uncertain, region, times)
            return
        begin = np.maximum(pfn, region << PMD_ORDER)
        count = np.minimum(pfn + nr_pages, (region + 1) << PMD_ORDER) - begin
        held = (self.levels[region] & LEVEL_MASK).astype(np.int64)
        # An entry that is changed as a whole keeps its size; one that is changed in part was split.
        level = np.where(held == _K4, _K4, np.where(count == PAGES_PER_2M, _M2, _K4))
        level[0] = after & LEVEL_MASK
        for at in (_K4, _M2, _G1):
            this = level == at
            if not this.any():
                continue
            if at == _K4:
                self._write_small(begin[this], count[this], np.full(int(this.sum()), after), times[this])
            else:
                self._write_large(region[this], at, np.full(int(this.sum()), after), times[this])

    def _apply_any_pages(self, pfn: Ints, nr_pages: Ints, after: Ints, time_ns: Ints) -> None:
        """The same for records of any length and level: cut at region boundaries, then level by level in ring order."""
        nr_pages = np.maximum(nr_pages, 1)
        first = pfn >> PMD_ORDER
        counts = ((pfn + nr_pages - 1) >> PMD_ORDER) - first + 1
        of, nth = expand(counts)
        region = first[of] + nth
        begin = np.maximum(pfn[of], region << PMD_ORDER)
        end = np.minimum(pfn[of] + nr_pages[of], (region + 1) << PMD_ORDER)
        after, time_ns = after[of], time_ns[of]
        level = after & LEVEL_MASK
        unread = (level == 0) | ((after & MappingCode.MIXED) != 0)
        klass = np.where(unread, 0, level)
        cuts = np.flatnonzero(np.diff(klass)) + 1
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(klass)], strict=True):
            run = slice(start, stop)
            of_run = int(klass[start])
            if of_run == 0:
                self._mark(self._uncertain, region[run], time_ns[run])
                known = level[run] != 0
                self._note_levels(region[run][known], level[run][known], time_ns[run][known])
            elif of_run == _K4:
                self._write_small(begin[run], (end - begin)[run], after[run], time_ns[run])
            else:
                self._write_large(region[run], of_run, after[run], time_ns[run])

    def _write_small(self, begin: Ints, count: Ints, after: Ints, time_ns: Ints) -> None:
        """Ranges of pages, each within one region that is mapped by 4K entries: whole regions at once, the rest page by page."""
        for run, whole in runs(count == PAGES_PER_2M):
            if whole:
                self._write_regions(begin[run] >> PMD_ORDER, after[run], time_ns[run])
            else:
                of, page = expand(count[run])
                self._write_pages(begin[run][of] + page, after[run][of], time_ns[run][of])

    def _write_regions(self, region: Ints, after: Ints, time_ns: Ints) -> None:
        """All pages of regions that are mapped by 4K entries: present or absent, the last one of a region wins."""
        slot, absent = self._slots_to_write(region, after, time_ns)
        some = slot != 0
        slot, absent, region = slot[some], absent[some], region[some]
        self.rows.pages[slot] = (absent.view(np.uint8) + np.uint8(PAGE_PRESENT))[:, None]
        self.rows.dirty[slot] = True
        self._was_absent[region[absent]] = True

    def _slots_to_write(self, region: Ints, after: Ints, time_ns: Ints) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Slots of regions in which pages at 4K are written, 0 where nothing new is said, and whether absent is what is written."""
        absent = (after & MappingCode.ABSENT) != 0
        not_4k = self.levels[region] != _K4
        if not_4k.any():
            self._note_levels(region[not_4k], np.full(int(not_4k.sum()), _K4), time_ns[not_4k])
        slot = self.rows.slot[region]
        if not slot.all():
            # A page that is present in a region without a row says nothing new, unless it is followed by an absent one.
            self._give_rows(distinct(region[(slot == 0) & absent]))
            slot = self.rows.slot[region]
        return slot, absent

    def _write_pages(self, pfn: Ints, after: Ints, time_ns: Ints) -> None:
        """Pages that are mapped by 4K entries: present or absent, the last one of a page wins."""
        region = pfn >> PMD_ORDER
        slot, absent = self._slots_to_write(region, after, time_ns)
        if not slot.all():
            some = slot != 0
            slot, pfn, absent, region = slot[some], pfn[some], absent[some], region[some]
        at = (slot.astype(np.int64) << PMD_ORDER) | (pfn & _PAGE_MASK)
        self.rows.flat[at] = absent.view(np.uint8) + np.uint8(PAGE_PRESENT)
        self.rows.dirty[slot] = True
        self._was_absent[region[absent]] = True

    def _write_large(self, region: Ints, level: int, after: Ints, time_ns: Ints) -> None:
        """2M or 1G entries that are present or absent now."""
        self._note_levels(region, np.full(len(region), level), time_ns)
        fits = (self.levels[region] & LEVEL_MASK) == level
        region, absent = region[fits], (after[fits] & MappingCode.ABSENT) != 0
        if level == _G1:
            first = region & -REGIONS_PER_1G
            news = np.ones(len(first), np.bool_)  # a record of 1G came in 512 pieces that say the same
            news[1:] = (first[1:] != first[:-1]) | (absent[1:] != absent[:-1])
            first, absent = first[news], absent[news]
            of, nth = expand(np.full(len(first), REGIONS_PER_1G))
            region, absent = first[of] + nth, absent[of]
            self._cover(int(region.max(initial=0)) + 1)
            inside = (self.levels[region] & LEVEL_MASK) == _G1
            region, absent = region[inside], absent[inside]
        self.levels[region] = np.where(absent, level | LARGE_ABSENT, level).astype(np.uint8)
        self._was_absent[region[absent]] = True

    def _note_levels(self, region: Ints, level: Ints, time_ns: Ints) -> None:
        """Regions that a record found at a level the model does not have them at."""
        held = (self.levels[region] & LEVEL_MASK).astype(np.int64)
        higher = (level > held) & (held != 0) & (time_ns > self._read_end_ns)
        if higher.any():
            # Mappings became larger (a collapse, or memory that was replaced): what is there now was not read.
            self._mark(self._uncertain, region[higher], time_ns[higher])
        unknown = held == 0
        if unknown.any():
            self._mark(self._uncertain, region[unknown], time_ns[unknown])
            large = unknown & (level > _K4)
            self.levels[region[large]] = level[large]
            self._adopt(region[unknown & (level == _K4)])
        huge = (held == _G1) & (level < _G1)
        if huge.any():
            self._lower_1g_unseen(region[huge], time_ns[huge])
        lower = (level == _K4) & (held > _K4)
        if lower.any():
            self._mark(self._unsplit, region[lower], time_ns[lower])
            self._lower(region[lower], _K4)

    def _lower_1g_unseen(self, region: Ints, time_ns: Ints) -> None:
        of, nth = expand(np.full(len(region), REGIONS_PER_1G))
        covered = (region & -REGIONS_PER_1G)[of] + nth
        self._cover(int(covered.max()) + 1)
        inside = (self.levels[covered] & LEVEL_MASK) == _G1
        self._mark(self._unsplit, covered[inside], time_ns[of][inside])
        self._lower(covered[inside], _M2)

    def _lower(self, regions: Ints, level: int) -> None:
        """Bring regions that are mapped larger than ``level`` down to it."""
        held = self.levels[regions]
        change = (held & LEVEL_MASK) > level
        regions, held = regions[change], held[change]
        if level == _M2:
            self.levels[regions] = (held & LARGE_ABSENT) | _M2
            return
        self.levels[regions] = _K4
        absent = distinct(regions[(held & LARGE_ABSENT) != 0])
        if len(absent):
            self._give_rows(absent)
            self.rows.pages[self.rows.slot[absent]] = PAGE_ABSENT

    def _adopt(self, regions: Ints) -> None:
        """Regions that the model has no mapping for turn out to be mapped by 4K entries: of which nothing is known yet."""
        regions = distinct(regions)
        regions = regions[self.levels[regions] == 0]
        self._give_rows(regions)
        self.rows.pages[self.rows.slot[regions]] = PAGE_HOLE
        self.levels[regions] = _K4

    def _apply_uncertain(self, columns: Columns) -> None:
        index = columns.index(KindCode.UNCERTAIN)
        nr_pages = columns.of("nr_pages", index)
        time_ns = columns.of("time_ns", index)
        unbounded = nr_pages == 0
        if unbounded.any():
            self.doubt_all(int(time_ns[unbounded].max()))
        index = index[~unbounded]
        if len(index):
            pfn, nr_pages, time_ns = (columns.of(name, index) for name in ("pfn", "nr_pages", "time_ns"))
            self._doubt(pfn >> PMD_ORDER, (np.maximum(pfn, 0) + nr_pages - 1) >> PMD_ORDER, time_ns)

    def _doubt(self, first: Ints, last: Ints, time_ns: Ints) -> None:
        """Regions ``first`` to ``last`` of each record may have changed."""
        first, last = np.clip(first, 0, len(self.levels)), np.minimum(last, len(self.levels) - 1)
        counts = np.maximum(last - first + 1, 0)
        if int(counts.sum()) <= _REGIONS_AT_ONCE:
            of, nth = expand(counts)
            self._mark(self._uncertain, first[of] + nth, time_ns[of])
            return
        # So many cannot be told apart: what overlaps is uncertain since the last of it.
        order = np.argsort(first[counts > 0], kind="stable")
        first, last, time_ns = (array[counts > 0][order] for array in (first, last, time_ns))
        reach = np.maximum.accumulate(last)
        heads = np.flatnonzero(np.concatenate([[True], first[1:] > reach[:-1]]))
        ends = reach[np.append(heads[1:], len(first)) - 1]
        latest = np.maximum(np.maximum.reduceat(time_ns, heads), 1)
        self._any_uncertain = True
        for begin, end, since_ns in zip(first[heads].tolist(), ends.tolist(), latest.tolist(), strict=True):
            self._uncertain.add_span(begin, end + 1, since_ns)

    def _known_pages(self, columns: Columns, index: Ints) -> Ints:
        """Positions of records whose pages can exist; room is made for them."""
        if not len(index):
            return index
        pfn, nr_pages = columns.of("pfn", index), columns.of("nr_pages", index)
        if int(nr_pages.max()) > _MAX_PAGES or int(pfn.min()) < 0 or int(pfn.max()) >> PMD_ORDER >= MAX_REGIONS:
            good = (nr_pages <= _MAX_PAGES) & (pfn >= 0) & (pfn >> PMD_ORDER < MAX_REGIONS)
            self.bad_records += int(len(index) - good.sum())
            index, pfn, nr_pages = index[good], pfn[good], nr_pages[good]
        if len(index) and int(pfn.max()) >> PMD_ORDER >= self._reach:
            near = pfn >> PMD_ORDER < self._reach
            self.doubt_all(int(columns.of("time_ns", index[~near]).max()))
            index, pfn, nr_pages = index[near], pfn[near], nr_pages[near]
        if len(index):
            self._cover((int((pfn + nr_pages).max()) >> PMD_ORDER) + 1)
        return index

    def _mark(self, marks: Marks, regions: Ints, time_ns: Ints) -> None:
        if len(regions):
            self._any_uncertain = True
            marks.add(regions, time_ns)

    def doubt_all(self, time_ns: int) -> None:
        """Anything may have changed until ``time_ns``: records were lost, or splits were not seen."""
        self._all_uncertain_ns = max(time_ns, self._all_uncertain_ns or 0)

    # What must be read again

    def uncertain_ranges(self) -> str | list[tuple[int, int]] | None:
        """What must be read again: None, "all", or (first region, number of regions) ascending."""
        if self._all_uncertain_ns is not None:
            return "all"
        if not self._any_uncertain:
            return None
        regions = self._marked()
        if not len(regions):
            self._any_uncertain = False
            return None
        starts = np.flatnonzero(np.diff(regions, prepend=-2) != 1)
        if len(starts) > _MAX_RANGES:
            return "all"
        lengths = np.diff(starts, append=len(regions))
        return list(zip(regions[starts].tolist(), lengths.tolist(), strict=True))

    def nr_uncertain_regions(self) -> int:
        """Number of 2M regions that must be read again (0 where all are)."""
        return len(self._marked()) if self._any_uncertain else 0

    def _marked(self) -> Ints:
        return distinct(np.concatenate([self._uncertain.regions(), self._unsplit.regions()]))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the untouched parts included."""
        return super().nbytes + self._uncertain.nbytes + self._unsplit.nbytes
