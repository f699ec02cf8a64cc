# SPDX-License-Identifier: Apache-2.0
"""The direct map as a grid of cells, and as figures: what the screen, the pictures and the JSON of the map are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.model.snapshot import RegionTable
from uaptrace.views import words
from uaptrace.views.charts import EIGHTHS_UP
from uaptrace.views.lines import Line, Span, Style

GLYPHS: dict[Level, str] = {Level.NONE: " ", Level.G1: "═", Level.M2: "─", Level.K4: "╌"}
"""Intact mappings are thin lines, so that absences, which are blocks, stand out without any colour."""
STYLES: dict[Level, Style] = {Level.NONE: "", Level.G1: "g1", Level.M2: "m2", Level.K4: "k4"}


@dataclass(frozen=True, slots=True)
class NamedRange:
    """A zone, a node or any other part of physical memory: pages ``start_pfn`` to ``end_pfn`` (exclusive)."""

    name: str
    start_pfn: int
    end_pfn: int


@dataclass(frozen=True, slots=True)
class MapFigures:
    """What the map says in numbers. Shares are None where there is no memory."""

    total_bytes: int
    present_bytes: dict[Level, int]
    absent_bytes: int
    cached_bytes: int
    """Of the absent: free in the unmapped cache."""
    nr_regions: int
    nr_regions_split: int
    nr_regions_touched: int
    nr_regions_stranded: int
    nr_touched_runs: int
    """Runs of neighbouring touched regions: 1 where all absences are together."""
    nr_regions_needed: int
    """2M regions that the absent pages would fill if they were packed."""
    largest_intact_bytes: int

    @property
    def absent_pages_per_touched_region(self) -> float | None:
        return self.absent_bytes / PAGE_SIZE / self.nr_regions_touched if self.nr_regions_touched else None

    @property
    def packing(self) -> float | None:
        """Needed by touched regions: 1 is grouped as well as can be, near 0 is scattered; None where nothing is absent."""
        return self.nr_regions_needed / self.nr_regions_touched if self.nr_regions_touched else None

    @property
    def large_share(self) -> float | None:
        """Share of memory in present 2M and 1G mappings."""
        return (self.present_bytes[Level.M2] + self.present_bytes[Level.G1]) / self.total_bytes if self.total_bytes else None


def select(table: RegionTable, ranges: Sequence[NamedRange] = ()) -> NDArray[np.bool_]:
    """Which 2M regions hold memory and overlap one of ``ranges`` (all with memory where there is none). Shape (n,)."""
    memory: NDArray[np.bool_] = table.level != Level.NONE
    if not ranges:
        return memory
    inside = np.zeros(len(memory), np.bool_)
    for a_range in ranges:
        inside[a_range.start_pfn // PAGES_PER_2M : -(-a_range.end_pfn // PAGES_PER_2M)] = True
    return memory & inside


def figures(table: RegionTable, ranges: Sequence[NamedRange] = ()) -> MapFigures:
    """Figures of the map, or of the 2M regions that overlap ``ranges``.

    A region counts with all of its 512 pages; a region of 4K entries that has holes (the first one, mostly) counts a little too much.
    Stranded: mapped by 4K entries, none absent, and split while it was watched.
    """
    chosen = select(table, ranges)
    absent = np.where(chosen, table.nr_absent, 0)
    present = {}
    for level in (Level.K4, Level.M2, Level.G1):
        of_level = chosen & (table.level == level)
        present[level] = (int(np.count_nonzero(of_level)) * PAGES_PER_2M - int(absent[of_level].sum(dtype=np.int64))) * PAGE_SIZE
    touched = absent > 0
    intact = chosen & (table.level >= Level.M2) & ~touched
    split = chosen & (table.level == Level.K4)
    nr_absent = int(absent.sum(dtype=np.int64))
    return MapFigures(
        total_bytes=int(np.count_nonzero(chosen)) * PAGES_PER_2M * PAGE_SIZE,
        present_bytes=present,
        absent_bytes=nr_absent * PAGE_SIZE,
        cached_bytes=int(np.where(chosen, table.nr_cached, 0).sum(dtype=np.int64)) * PAGE_SIZE,
        nr_regions=int(np.count_nonzero(chosen)),
        nr_regions_split=int(np.count_nonzero(split)),
        nr_regions_touched=int(np.count_nonzero(touched)),
        nr_regions_stranded=int(np.count_nonzero(split & ~touched & table.was_split)),
        nr_touched_runs=len(_runs(touched)),
        nr_regions_needed=-(-nr_absent // PAGES_PER_2M),
        largest_intact_bytes=max((int(end - start) for start, end in _runs(intact)), default=0) * PAGES_PER_2M * PAGE_SIZE,
    )


def verdict(figures_: MapFigures) -> str:
    """Grouped or scattered, in words."""
    if figures_.nr_regions_touched == 0:
        return "nothing is absent"
    packing = figures_.packing or 0.0
    word = "grouped" if packing >= 0.5 else "partly grouped" if packing >= 0.2 else "scattered"
    touched = words.plural(figures_.nr_regions_touched, "2M region")
    places = words.plural(figures_.nr_touched_runs, "place")
    return f"{word}: {touched} touched in {places} (packed: {figures_.nr_regions_needed:,})"


@dataclass(frozen=True, slots=True)
class Cells:
    """Equal parts of physical memory, one array element each, from ``first_pfn`` on. Arrays are of shape (n,).

    ``level`` uint8: the smallest mapping in the cell (a few splits among much that is intact must not vanish), NONE without memory.
    ``absent``, ``cached`` float32: share of the cell's pages that are absent, or free in the unmapped cache.
    """

    first_pfn: int
    pages_per_cell: int
    level: NDArray[np.uint8]
    absent: NDArray[np.float32]
    cached: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.level)

    def pfn(self, index: int) -> int:
        return self.first_pfn + index * self.pages_per_cell


def cells(table: RegionTable, regions_per_cell: int, ranges: Sequence[NamedRange] = ()) -> Cells:
    """The table in cells of ``regions_per_cell`` 2M regions each, from physical 0."""
    chosen = select(table, ranges)
    number = -(-len(chosen) // regions_per_cell)
    pad = number * regions_per_cell - len(chosen)

    def block(array: NDArray[np.generic], fill: int) -> NDArray[np.generic]:
        return np.pad(array, (0, pad), constant_values=fill).reshape(number, regions_per_cell)

    here = block(chosen, 0)
    level = np.where(here, block(table.level, 0), 255).min(axis=1, initial=255)
    nr_pages = np.maximum(np.count_nonzero(here, axis=1) * PAGES_PER_2M, 1)
    absent = np.where(here, block(table.nr_absent, 0), 0).sum(axis=1, dtype=np.int64) / nr_pages
    cached = np.where(here, block(table.nr_cached, 0), 0).sum(axis=1, dtype=np.int64) / nr_pages
    return Cells(
        0,
        regions_per_cell * PAGES_PER_2M,
        np.where(level == 255, 0, level).astype(np.uint8),
        absent.astype(np.float32),
        cached.astype(np.float32),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the grid, or (``nr_rows`` not 0) that many rows without memory folded into one."""

    start: int
    """Index of the first cell."""
    nr_rows: int = 0


def rows(grid: Cells, per_row: int) -> list[Row]:
    """Rows of ``per_row`` cells; rows without any memory are folded, those before the first and after the last left out."""
    out: list[Row] = []
    padded = np.pad(grid.level, (0, -len(grid) % per_row)).reshape(-1, per_row)
    for row in np.flatnonzero(padded.any(axis=1)).tolist():
        next_row = (out[-1].start // per_row) + 1 if out else row
        if row > next_row:
            out.append(Row(next_row * per_row, row - next_row))
        out.append(Row(row * per_row))
    return out


def fitting_scale(table: RegionTable, per_row: int, nr_rows: int, ranges: Sequence[NamedRange] = ()) -> int:
    """The smallest power of two of 2M regions for one cell with which the whole grid has at most ``nr_rows`` rows."""
    needed = int(np.count_nonzero(select(table, ranges))) / max(1, per_row * nr_rows)
    regions_per_cell = 1
    while regions_per_cell * 2 <= needed:
        regions_per_cell *= 2
    while regions_per_cell * per_row < max(1, len(table.level)):
        if len(rows(cells(table, regions_per_cell, ranges), per_row)) <= nr_rows:
            break
        regions_per_cell *= 2
    return regions_per_cell


def glyph(level: int, absent: float) -> Span:
    """The character of a cell: a line for what is present, a block as high as the share that is absent."""
    if level == Level.NONE:
        return " ", ""
    if absent > 0:
        return EIGHTHS_UP[min(7, int(absent * 8))], "absent"
    return GLYPHS[Level(level)], STYLES[Level(level)]


def row_line(grid: Cells, row: Row, per_row: int, cursor: int | None = None, gap_word: str = "without memory") -> Line:
    """One row: physical address of its first cell, then the cells. ``cursor``: index of the cell to mark."""
    label = f"{words.address(grid.pfn(row.start)):>14} "
    if row.nr_rows:
        gap = words.pages(row.nr_rows * per_row * grid.pages_per_cell)
        return ((label, "dim"), (f"··· {gap} {gap_word} ···"[:per_row], "dim"))
    spans: list[Span] = [(label, "dim")]
    text, style = "", ""
    for i in range(row.start, min(row.start + per_row, len(grid))):
        char, char_style = glyph(int(grid.level[i]), float(grid.absent[i]))
        if i == cursor:
            char_style = "cursor"
            char = char if char != " " else "·"
        if char_style != style and text:
            spans.append((text, style))  # type: ignore[arg-type]
            text = ""
        style = char_style
        text += char
    spans.append((text, style))  # type: ignore[arg-type]
    return tuple(spans)


def legend(grid: Cells) -> list[Span]:
    """The meaning of the characters, and the scale."""
    return [
        ("═", "g1"),
        (" 1G  ", ""),
        ("─", "m2"),
        (" 2M  ", ""),
        ("╌", "k4"),
        (" 4K  ", ""),
        ("▁▄█", "absent"),
        (" absent share  ", ""),
        (f"1 cell = {words.pages(grid.pages_per_cell)}", "strong"),
    ]


def describe(table: RegionTable, grid: Cells, index: int) -> str:
    """One cell in words."""
    first = (grid.pfn(index)) // PAGES_PER_2M
    last = min(len(table.level), first + max(1, grid.pages_per_cell // PAGES_PER_2M))
    level = table.level[first:last]
    where = f"{words.address(grid.pfn(index))} pfn {grid.pfn(index)}"
    if not (level != Level.NONE).any():
        return f"{where}: no memory"
    if last - first == 1:
        nr_absent, nr_cached = int(table.nr_absent[first]), int(table.nr_cached[first])
        out = f"{where}: {words.LEVEL_WORDS[Level(int(level[0]))]}"
        if nr_absent:
            return out + f", {nr_absent} of 512 pages absent, {nr_cached} of them in the cache"
        return out + (", all present (stranded)" if table.was_split[first] and level[0] == Level.K4 else ", all present")
    parts = [f"{np.count_nonzero(level == lv)} × {words.LEVEL_WORDS[lv]}" for lv in (Level.G1, Level.M2, Level.K4) if (level == lv).any()]
    nr_absent = int(table.nr_absent[first:last].sum(dtype=np.int64))
    return f"{where}: regions {', '.join(parts)}" + (f"; {nr_absent:,} pages absent" if nr_absent else "; all present")


def ranges_of(table: RegionTable, ranges: Sequence[NamedRange] = ()) -> list[dict[str, int | str | bool]]:
    """The map as runs of equal regions: start_pfn, nr_pages, level, nr_absent and nr_cached (pages in the whole run), was_split."""
    chosen = select(table, ranges)
    if not chosen.any():
        return []
    columns = (np.where(chosen, table.level, 0), table.nr_absent, table.nr_cached, table.was_split)
    differs = np.zeros(max(len(chosen) - 1, 0), np.bool_)
    for column in columns:
        differs |= column[1:] != column[:-1]
    starts = np.concatenate(([0], np.flatnonzero(differs) + 1))
    ends = np.append(starts[1:], len(chosen))
    out: list[dict[str, int | str | bool]] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        level, nr_absent, nr_cached, was_split = (int(column[start]) for column in columns)
        if level == Level.NONE:
            continue
        length = end - start
        out.append(
            {
                "start_pfn": start * PAGES_PER_2M,
                "nr_pages": length * PAGES_PER_2M,
                "level": Level(level).label,
                "nr_absent": nr_absent * length,
                "nr_cached": nr_cached * length,
                "was_split": bool(was_split),
            }
        )
    return out


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    cuts = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    first, last = (0,) * int(len(mask) and mask[0]), (len(mask),) * int(len(mask) and mask[-1])
    edges = np.concatenate((np.array(first, np.int64), cuts, np.array(last, np.int64)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
