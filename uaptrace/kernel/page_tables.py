# SPDX-License-Identifier: Apache-2.0
"""The direct map read from the kernel's own page tables (arch/x86/include/asm/pgtable_types.h; Intel SDM vol. 3, 4.5).

An entry is a hole (zero), present, or absent: not zero and not present, with its page number inverted (L1TF,
6b28baca9b1f). Tables change while they are read: one that cannot be read any more is read again from its parent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import PAGE_SHIFT, REGIONS_PER_1G, Level
from uaptrace.kernel.kcore import KernelMemory
from uaptrace.model.updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT, MapReading

ENTRIES: Final = 512
PRESENT: Final = 1
LEAF: Final = 0x80
_PUD_SHIFT: Final = 30
_P4D_SHIFT: Final = 39
_PGD_SHIFT: Final = 48
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class PagingLayout:
    """Where the tables are: virtual address of the top table, of the direct map, and how entries are read."""

    init_pgd: int
    page_offset: int
    direct_map_bytes: int
    """How far the direct map can reach (the room that the kernel keeps for it)."""
    levels: int
    pfn_mask: int
    """Bits of an entry that are the physical address: without the encryption bit."""


class PageTableReader:
    """Reads the direct map. ``now_ns`` is a clock (CLOCK_MONOTONIC) given by the caller."""

    def __init__(self, memory: KernelMemory, layout: PagingLayout, now_ns: Callable[[], int]) -> None:
        self._memory = memory
        self._layout = layout
        self._now_ns = now_ns

    def read_all(self) -> MapReading:
        """The whole direct map."""
        begin = self._now_ns()
        chunks = self._gigabytes()
        nr = (max(chunks) + 1) * REGIONS_PER_1G if chunks else 0
        return self._reading(begin, chunks, 0, nr, complete=True)

    def read_part(self, first_region: int, max_tables: int, end_region: int) -> MapReading:
        """From ``first_region`` on, as far as reading ``max_tables`` tables goes. Where that is to the end of the map, the reading
        goes on to ``end_region``: what was mapped there and is no longer shows as holes."""
        begin = self._now_ns()
        chunks = self._gigabytes(first_region // REGIONS_PER_1G)
        stop = self._part_end(chunks, first_region, max_tables)
        if stop is None:
            stop = max(end_region, (max(chunks) + 1) * REGIONS_PER_1G if chunks else 0, first_region + 1)
        return self._reading(begin, chunks, first_region, stop - first_region, complete=False)

    def _part_end(self, chunks: dict[int, int], first_region: int, max_tables: int) -> int | None:
        """The region before which ``max_tables`` tables have been read; None where that is the end."""
        for number in sorted(chunks):
            region = number * REGIONS_PER_1G
            try:
                levels, entries = self._gigabyte(chunks[number], number)
            except (OSError, LookupError):
                continue  # _reading() says so
            at = max(first_region - region, 0)
            if entries is None or at >= REGIONS_PER_1G:
                continue
            split = np.flatnonzero(levels[at:] == Level.K4) + at
            max_tables -= 1
            if len(split) >= max_tables:
                return region + (int(split[max_tables - 1]) if max_tables > 0 else at) + 1
            max_tables -= len(split)
        return None

    def read_regions(self, first_region: int, nr_regions: int) -> MapReading:
        """A part: 2M regions [first_region, first_region + nr_regions)."""
        begin = self._now_ns()
        first = first_region // REGIONS_PER_1G
        last = (first_region + nr_regions - 1) // REGIONS_PER_1G
        chunks = {number: entry for number, entry in self._gigabytes(first, last).items() if first <= number <= last}
        return self._reading(begin, chunks, first_region, nr_regions, complete=False)

    # ---- upper levels: physical gigabyte -> its PUD entry ----

    def _gigabytes(self, first: int = 0, last: int | None = None) -> dict[int, int]:
        layout = self._layout
        low = layout.page_offset + (first << _PUD_SHIFT)
        high = layout.page_offset + (layout.direct_map_bytes if last is None else min((last + 1) << _PUD_SHIFT, layout.direct_map_bytes))
        found: dict[int, int] = {}
        for p4d_start, p4d_table in self._top_tables(low, high):
            for index, entry in self._entries(p4d_table, _P4D_SHIFT, p4d_start, low, high):
                if not entry & PRESENT:
                    continue
                pud_start = (p4d_start & -(1 << _PGD_SHIFT)) + (index << _P4D_SHIFT)
                table = self._table(entry)
                for pud_index, pud in self._entries(table, _PUD_SHIFT, pud_start, low, high):
                    address = pud_start + (pud_index << _PUD_SHIFT)
                    found[(address - layout.page_offset) >> _PUD_SHIFT] = pud
        return found

    def _top_tables(self, low: int, high: int) -> list[tuple[int, int]]:
        """Tables of 512G entries that the range needs: (first address, address of the table)."""
        layout = self._layout
        if layout.levels == 4:
            # 512 entries of 512G: the range lies in the upper half of the one table.
            return [(low & -(1 << _PGD_SHIFT), layout.init_pgd)]
        tables = []
        for index, entry in self._entries(layout.init_pgd, _PGD_SHIFT, low & -(1 << (_PGD_SHIFT + 9)), low, high):
            if entry & PRESENT:
                tables.append(((low & -(1 << (_PGD_SHIFT + 9))) + (index << _PGD_SHIFT), self._table(entry)))
        return tables

    def _entries(self, table: int, shift: int, start: int, low: int, high: int) -> list[tuple[int, int]]:
        """(index, entry) of entries that are not zero and lie in [low, high). ``start``: an address in the table's span."""
        span_start = start & -(1 << (shift + 9))
        entries = self._read(table)
        out = []
        for index in np.flatnonzero(entries).tolist():
            address = span_start + (index << shift)
            if address + (1 << shift) > low and address < high:
                out.append((index, int(entries[index])))
        return out

    # ---- lower levels ----

    def _reading(self, begin: int, chunks: dict[int, int], first_region: int, nr_regions: int, *, complete: bool) -> MapReading:
        levels = np.zeros(nr_regions, np.uint8)
        split: list[NDArray[np.int64]] = []
        pages: list[NDArray[np.uint8]] = []
        unreadable: list[int] = []
        for number in sorted(chunks):
            region = number * REGIONS_PER_1G
            low, high = max(region, first_region), min(region + REGIONS_PER_1G, first_region + nr_regions)
            if low >= high:
                continue
            try:
                chunk, tables = self._gigabyte(chunks[number], number)
            except (OSError, LookupError):
                unreadable += range(low, high)
                continue
            levels[low - first_region : high - first_region] = chunk[low - region : high - region]
            if tables is None:
                continue
            which = np.flatnonzero(chunk[low - region : high - region] == Level.K4) + (low - region)
            kept, states = self._pages(tables, which, number, levels, first_region)
            unreadable += [r for r in (which + region).tolist() if levels[r - first_region] == Level.NONE]
            split.append(kept + region)
            pages.append(states)
        return MapReading(
            begin_ns=begin,
            end_ns=self._now_ns(),
            first_region=first_region,
            levels=levels,
            split_regions=np.concatenate(split) if split else np.empty(0, np.int64),
            pages=np.concatenate(pages) if pages else np.empty((0, ENTRIES), np.uint8),
            complete=complete,
            unreadable=tuple(unreadable),
        )

    def _gigabyte(self, pud: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint64] | None]:
        """Levels of a gigabyte's 512 regions, and its table of 2M entries (None where it has none)."""
        if not pud:
            return np.zeros(REGIONS_PER_1G, np.uint8), None
        present = bool(pud & PRESENT)
        if pud & LEAF or not present:
            return np.full(REGIONS_PER_1G, Level.G1 | (0 if present else LARGE_ABSENT), np.uint8), None
        entries = self._read(self._table(pud)).copy()
        levels = np.zeros(REGIONS_PER_1G, np.uint8)
        is_present = (entries & np.uint64(PRESENT)) != 0
        is_leaf = (entries & np.uint64(LEAF)) != 0
        levels[is_leaf & is_present] = Level.M2
        levels[(entries != 0) & ~is_present] = Level.M2 | LARGE_ABSENT
        levels[is_present & ~is_leaf] = Level.K4
        return levels, entries

    def _pages(
        self, tables: NDArray[np.uint64], which: NDArray[np.int64], number: int, levels: NDArray[np.uint8], first_region: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Page states of the regions ``which`` of one gigabyte; regions that turn out not to be split any more are dropped, and so
        are those that cannot be read, whose level becomes NONE."""
        entries = np.empty((len(which), ENTRIES), np.uint64)
        keep = np.ones(len(which), bool)
        for i, index in enumerate(which.tolist()):
            entry = int(tables[index])
            for _ in range(_TRIES):
                try:
                    self._memory.read_table(self._table(entry), entries[i])
                    break
                except (OSError, LookupError):
                    # The table went away under us: take the entry anew from its parent.
                    fresh, again = self._gigabyte(self._gigabytes(number, number).get(number, 0), number)
                    levels[number * REGIONS_PER_1G + index - first_region] = fresh[index]
                    if again is None or fresh[index] != Level.K4:
                        keep[i] = False
                        break
                    entry = int(again[index])
            else:
                keep[i] = False
                levels[number * REGIONS_PER_1G + index - first_region] = Level.NONE
        entries = entries[keep]
        states = np.full(entries.shape, PAGE_ABSENT, np.uint8)
        states[(entries & np.uint64(PRESENT)) != 0] = PAGE_PRESENT
        states[entries == 0] = PAGE_HOLE
        return which[keep], states

    def _table(self, entry: int) -> int:
        return self._layout.page_offset + (entry & self._layout.pfn_mask)

    def _read(self, table: int) -> NDArray[np.uint64]:
        out = np.empty(ENTRIES, np.uint64)
        self._memory.read_table(table, out)
        return out


def physical_bytes(reading: MapReading) -> int:
    """Bytes of memory that the reading maps, present or absent."""
    large = int(np.count_nonzero((reading.levels & 0x7F) >= Level.M2)) * ENTRIES
    small = int(np.count_nonzero(reading.pages != PAGE_HOLE))
    return (large + small) << PAGE_SHIFT
