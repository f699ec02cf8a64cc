# SPDX-License-Identifier: Apache-2.0
"""``uaptrace map``: the direct map as terminal cells, PNG, SVG and JSON, with the figures that say the same in numbers."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import UsageError
from uaptrace.abi.units import PAGES_PER_2M, Level
from uaptrace.model.snapshot import RegionTable, Snapshot
from uaptrace.model.updates import PAGE_ABSENT, PAGE_HOLE
from uaptrace.process.files import write_whole
from uaptrace.reports import map_scene
from uaptrace.reports.documents import SCHEMA, snapshot_head
from uaptrace.reports.map_scene import FAINT, GRID_WIDTH, INK, LEFT, PALETTE, PAPER, RIGHT, Block, Box, Label, Scene
from uaptrace.views import map_grid, panels, words
from uaptrace.views.lines import Line, ansi, fit, heading, line, paragraph, plain, wrap
from uaptrace.views.map_grid import Cells, MapFigures, NamedRange

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MapPicture", "NamedRange"]

MAX_VECTOR_RUNS: Final = 20_000
"""A grid with more runs of equal cells is put into the SVG as an image: smaller, and quick to draw."""


class MapPicture:
    """The map of one snapshot, all of it or a part.

    ``ranges``: only the 2M regions that overlap these parts of physical memory (zones, nodes).
    ``around_pfn``: only the ``window_regions`` 2M regions around this page, one cell for each 4K page; ``pages`` is what is known of
    single pages: (first_pfn, uint8 array of PAGE_HOLE, PAGE_PRESENT or PAGE_ABSENT). Pages of a partly absent region that it does
    not cover are shaded by the region's share.
    Raises UsageError where the snapshot has no map, or there is no memory in what was asked for.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        ranges: Sequence[NamedRange] = (),
        around_pfn: int | None = None,
        pages: tuple[int, NDArray[np.uint8]] | None = None,
        window_regions: int = 16,
    ) -> None:
        table = snapshot.regions
        if table is None or not table.level.any():
            raise UsageError("there is no map in this snapshot: the page tables were not read")
        self.snapshot = snapshot
        self.ranges = tuple(ranges)
        self.around_pfn = around_pfn
        self._pages = pages
        if around_pfn is not None:
            region = around_pfn // PAGES_PER_2M
            if not 0 <= region < len(table.level) or table.level[region] == Level.NONE:
                raise UsageError(
                    f"pfn {around_pfn} is not in the direct map; give one below {len(table.level) * PAGES_PER_2M} that has memory"
                )
            first = max(0, min(region - window_regions // 2, len(table.level) - window_regions))
            end = min(len(table.level), first + window_regions)
            self.ranges = (NamedRange(f"around pfn {around_pfn}", first * PAGES_PER_2M, end * PAGES_PER_2M),)
        if not map_grid.select(table, self.ranges).any():
            names = ", ".join(r.name for r in self.ranges)
            raise UsageError(f"there is no memory in {names}; give one that this host has")
        self.table: RegionTable = table

    @property
    def figures(self) -> MapFigures:
        """The map in numbers. Over the whole map, stranded regions are the model's, which knows each page's past."""
        figures = map_grid.figures(self.table, self.ranges)
        if self.ranges:
            return figures
        return replace(figures, nr_regions_stranded=self.snapshot.direct_map.nr_regions_stranded)

    @property
    def _gap_word(self) -> str:
        return "not shown" if self.ranges else map_scene.GAP_WORD

    @property
    def title(self) -> str:
        """What is shown: host and part."""
        host = words.host(self.snapshot.host)
        part = ", ".join(words.clean(r.name) for r in self.ranges)
        return f"Direct map of {host}" + (f": {part}" if part else "")

    @property
    def subtitle(self) -> str:
        """Kernel, moment and exactness."""
        return f"{self._moment()} · {panels.exactness_words(self.snapshot)}"

    def _moment(self) -> str:
        snapshot = self.snapshot
        moment = datetime.fromtimestamp(snapshot.wall_time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        traced = words.clock((snapshot.time_ns - snapshot.start_time_ns) / 1e9)
        kernel = words.kernel(snapshot.host)
        return f"{kernel} · {moment} · {traced} after tracing began"

    def figure_words(self) -> list[str]:
        """The figures as phrases."""
        f = self.figures
        each = f.absent_pages_per_touched_region
        return [
            f"{words.size(f.total_bytes)}, {words.percent(f.large_share)} in 2M and 1G mappings",
            f"absent {words.size(f.absent_bytes)}" + (f" ({words.size(f.cached_bytes)} free in the cache)" if f.cached_bytes else ""),
            f"{f.nr_regions_touched:,} of {words.plural(f.nr_regions, '2M region')} touched"
            + (f", {each:.1f} absent pages each" if each is not None else ""),
            f"{f.nr_regions_split:,} in 4K, {f.nr_regions_stranded:,} stranded",
            f"largest intact run {words.size(f.largest_intact_bytes)}",
        ]

    # Terminal

    def to_lines(self, width: int = 80, height: int | None = 24) -> list[Line]:
        """The picture in characters, in at most ``height`` lines (None: one 2M region in each cell, as many lines as that takes)."""
        out = [heading(self.title, width)]
        out += paragraph(self.subtitle, width, style="" if self.snapshot.exactness.exact else "warn")
        tail = [*wrap([map_grid.verdict(self.figures)], width), *wrap(self.figure_words(), width)]
        per_row = max(p for p in (16, 32, 64, 128, 256) if p == 16 or p <= width - 15)
        if self.around_pfn is not None:
            grid = self._page_cells()
            if height is not None:
                grid = _coarser(grid, per_row, height - len(out) - len(tail) - 1)
        elif height is None:
            grid = map_grid.cells(self.table, 1, self.ranges)
        else:
            scale = map_grid.fitting_scale(self.table, per_row, max(1, height - len(out) - len(tail) - 1), self.ranges)
            grid = map_grid.cells(self.table, scale, self.ranges)
        cursor = (self.around_pfn - grid.first_pfn) // grid.pages_per_cell if self.around_pfn is not None else None
        out += [map_grid.row_line(grid, row, per_row, cursor, self._gap_word) for row in map_grid.rows(grid, per_row)]
        out.append(line(" ", *map_grid.legend(grid)))
        return [a_line if height is None else fit(a_line, width) for a_line in [*out, *tail]]

    def to_text(self, width: int = 80, height: int | None = 24, *, color: bool = False) -> str:
        """``to_lines`` as text, with ANSI attributes where ``color``."""
        lines = self.to_lines(width, height)
        return ansi(lines) if color else plain(lines)

    # JSON

    def to_json(self) -> dict[str, Any]:
        """Figures and runs of equal regions; docs/json.md describes the keys."""
        f = self.figures
        out: dict[str, Any] = {
            **snapshot_head(self.snapshot),
            "schema": SCHEMA,
            "selection": [{"name": r.name, "start_pfn": r.start_pfn, "end_pfn": r.end_pfn} for r in self.ranges],
            "figures": {
                "total_bytes": f.total_bytes,
                "present_bytes": {level.label: size for level, size in f.present_bytes.items()},
                "absent_bytes": f.absent_bytes,
                "cached_bytes": f.cached_bytes,
                "large_share": f.large_share,
                "regions": f.nr_regions,
                "regions_split": f.nr_regions_split,
                "regions_touched": f.nr_regions_touched,
                "regions_stranded": f.nr_regions_stranded,
                "touched_runs": f.nr_touched_runs,
                "regions_needed": f.nr_regions_needed,
                "packing": f.packing,
                "absent_pages_per_touched_region": f.absent_pages_per_touched_region,
                "largest_intact_bytes": f.largest_intact_bytes,
            },
            "verdict": map_grid.verdict(f),
            "ranges": map_grid.ranges_of(self.table, self.ranges),
            "pages": None,
        }
        if self.around_pfn is not None and self._pages is not None:
            first_pfn, states = self._pages
            out["pages"] = _page_runs(first_pfn, states)
        return out

    # Pictures

    def write_png(self, path: str | os.PathLike[str]) -> None:
        """Writes a PNG. Raises UsageError where it cannot be written."""
        write_whole(path, self.to_png())

    def write_svg(self, path: str | os.PathLike[str]) -> None:
        """Writes an SVG that needs nothing beside it. Raises UsageError where it cannot be written."""
        write_whole(path, self.to_svg().encode(errors="replace"))

    def to_png(self) -> bytes:
        """The picture as PNG."""
        from PIL import Image, ImageDraw, ImageFont

        scene = self.scene()
        image = Image.new("RGB", (scene.width, scene.height), PAPER)
        draw = ImageDraw.Draw(image)
        for block in scene.blocks:
            image.paste(_block_image(block), (block.x, block.y))
        for box in (*scene.boxes, *scene.marks):
            area = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
            if box.outline:
                draw.rectangle(area, outline=box.color, width=2)
            else:
                draw.rectangle(area, fill=box.color)
        anchors = {"start": "lm", "middle": "mm", "end": "rm"}
        for label in scene.labels:
            font = ImageFont.load_default(label.size)
            stroke = 0.25 if label.bold else 0
            draw.text(
                (label.x, label.y), label.text, label.color, font, anchors[label.anchor], stroke_width=stroke, stroke_fill=label.color
            )
        out = io.BytesIO()
        image.save(out, "PNG", optimize=True)
        return out.getvalue()

    def to_svg(self) -> str:
        """The picture as SVG text."""
        scene = self.scene()
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{scene.width}" height="{scene.height}" '
            f'viewBox="0 0 {scene.width} {scene.height}" font-family="system-ui, sans-serif" role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<desc>{escape(self.subtitle)}. {escape(map_grid.verdict(self.figures))}.</desc>",
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        ]
        for block in scene.blocks:
            out.extend(_block_svg(block))
        for box in (*scene.boxes, *scene.marks):
            paint = f'fill="none" stroke="{box.color}" stroke-width="2"' if box.outline else f'fill="{box.color}"'
            out.append(f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" {paint}/>')
        for label in scene.labels:
            weight = ' font-weight="bold"' if label.bold else ""
            out.append(
                f'<text x="{label.x}" y="{label.y}" dy="0.35em" font-size="{label.size}" fill="{label.color}" '
                f'text-anchor="{label.anchor}"{weight}>{escape(label.text)}</text>'
            )
        out.append("</svg>\n")
        return "\n".join(out)

    def scene(self) -> Scene:
        """The picture as boxes, cells and labels."""
        scene = Scene(LEFT + GRID_WIDTH + RIGHT)
        snapshot = self.snapshot
        grid = self._page_cells() if self.around_pfn is not None else self._picture_cells()
        scene.labels.append(Label(LEFT, 26, self.title, 20, INK, bold=True))
        verdict = map_grid.verdict(self.figures)
        exactness = panels.exactness_words(snapshot)
        scene.labels.append(
            Label(LEFT, 52, words.shorten(self._moment() + (" · EXACT" if snapshot.exactness.exact else ""), 140), 13, FAINT)
        )
        y = 78
        if not snapshot.exactness.exact:
            scene.labels.append(Label(LEFT, 74, words.shorten(exactness, 110), 14, map_scene.ALARM, bold=True))
            y = 100
        scene.labels.append(Label(LEFT, y, verdict[:1].upper() + verdict[1:], 16, INK, bold=True))
        phrases = self.figure_words()
        scene.labels.append(Label(LEFT, y + 22, " · ".join(phrases[:3]), 13))
        scene.labels.append(Label(LEFT, y + 41, " · ".join(phrases[3:]), 13))
        y = self._share_bar(scene, y + 58) + 14
        y = map_scene.draw_grid(scene, grid, y, by_pfn=self.around_pfn is not None, mark_pfn=self.around_pfn, gap_word=self._gap_word)
        scene.height = self._legend(scene, grid, y + 22) + 20
        return scene

    def _share_bar(self, scene: Scene, y: int) -> int:
        """All of memory as one bar by level; what is not nothing has at least two pixels."""
        f = self.figures
        parts = [(PALETTE[level], f.present_bytes[level]) for level in (Level.G1, Level.M2, Level.K4)]
        parts.append((PALETTE[6], f.absent_bytes))
        widths = [max(2, round(size / f.total_bytes * GRID_WIDTH)) if size else 0 for _, size in parts]
        widths[int(np.argmax(widths))] -= sum(widths) - GRID_WIDTH
        x = LEFT
        for (color, _), width in zip(parts, widths, strict=True):
            if width:
                scene.boxes.append(Box(x, y, width, 10, color))
                x += width
        return y + 10

    def _legend(self, scene: Scene, grid: Cells, y: int) -> int:
        x = LEFT
        for color, text in (
            (PALETTE[Level.G1], "1G mapping"),
            (PALETTE[Level.M2], "2M"),
            (PALETTE[Level.K4], "4K, all present"),
        ):
            scene.boxes.append(Box(x, y - 7, 14, 14, color))
            scene.labels.append(Label(x + 20, y, text, 13))
            x += 34 + 8 * len(text)
        for i in range(map_scene.RAMP_STEPS):
            scene.boxes.append(Box(x + 14 * i, y - 7, 14, 14, PALETTE[4 + i]))
        x += 14 * map_scene.RAMP_STEPS + 6
        scene.labels.append(Label(x, y, "absent: few to all of the cell's pages", 13))
        per_row, size = map_scene.place(grid)
        cell, row = words.pages(grid.pages_per_cell), words.pages(per_row * grid.pages_per_cell)
        note = f"One cell is {cell} and shows its smallest mapping; a row is {row}."
        if size < map_scene.SMALL_CELL:
            note += " Ticks at the right: rows with absences."
        if self.around_pfn is not None:
            note = f"One cell is a 4K page, a row is {words.pages(per_row)}; the scale is in pfn."
            if ((grid.absent > 0) & (grid.absent < 1)).any():
                note += " Where single pages were not read, the shade is the share of the 2M region."
        scene.labels.append(Label(LEFT, y + 22, note, 12, FAINT))
        return y + 28

    def _picture_cells(self) -> Cells:
        scale = 1
        grid = map_grid.cells(self.table, scale, self.ranges)
        while not map_scene.fits(grid):
            scale *= 2
            grid = map_grid.cells(self.table, scale, self.ranges)
        return grid

    def _page_cells(self) -> Cells:
        """The window around a page, one cell for each 4K page."""
        window = self.ranges[0]
        first, end = window.start_pfn // PAGES_PER_2M, window.end_pfn // PAGES_PER_2M
        level = np.repeat(self.table.level[first:end], PAGES_PER_2M)
        absent = np.repeat(self.table.nr_absent[first:end] / np.float32(PAGES_PER_2M), PAGES_PER_2M).astype(np.float32)
        cached = np.repeat(self.table.nr_cached[first:end] / np.float32(PAGES_PER_2M), PAGES_PER_2M).astype(np.float32)
        if self._pages is not None:
            start, states = self._pages
            low, high = max(start, window.start_pfn), min(start + len(states), window.end_pfn)
            if low < high:
                here = states[low - start : high - start]
                at = slice(low - window.start_pfn, high - window.start_pfn)
                absent[at] = here == PAGE_ABSENT
                level[at] = np.where(here == PAGE_HOLE, Level.NONE, level[at])
        return Cells(window.start_pfn, 1, level, absent, cached)


def _coarser(grid: Cells, per_row: int, nr_rows: int) -> Cells:
    """Cells of more pages each, so that at most ``nr_rows`` rows are needed."""
    while len(grid) > per_row * max(1, nr_rows) and len(grid) % 2 == 0:
        pairs = grid.level.reshape(-1, 2)
        level = np.where(pairs == Level.NONE, 255, pairs).min(axis=1)
        grid = Cells(
            grid.first_pfn,
            grid.pages_per_cell * 2,
            np.where(level == 255, 0, level).astype(np.uint8),
            grid.absent.reshape(-1, 2).mean(axis=1, dtype=np.float32),
            grid.cached.reshape(-1, 2).mean(axis=1, dtype=np.float32),
        )
    return grid


def _page_runs(first_pfn: int, states: NDArray[np.uint8]) -> list[dict[str, int | str]]:
    """Runs of equal pages: start_pfn, nr_pages, state."""
    if not len(states):
        return []
    names = {PAGE_HOLE: "hole", PAGE_ABSENT: "absent"}
    starts = np.concatenate(([0], np.flatnonzero(states[1:] != states[:-1]) + 1))
    ends = np.append(starts[1:], len(states))
    return [
        {"start_pfn": first_pfn + int(s), "nr_pages": int(e - s), "state": names.get(int(states[s]), "present")}
        for s, e in zip(starts, ends, strict=True)
    ]


def _block_image(block: Block) -> Image:
    from PIL import Image

    colors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in PALETTE], np.uint8)
    pixels = np.repeat(np.repeat(colors[block.classes], block.cell, axis=0), block.cell, axis=1)
    if block.gap:
        pixels[block.cell - block.gap :: block.cell, :] = 255
        pixels[:, block.cell - block.gap :: block.cell] = 255
    return Image.fromarray(pixels)


def _block_svg(block: Block) -> list[str]:
    """One path for each colour, of runs of equal cells; an image where these are too many."""
    rows, per_row = block.classes.shape
    flat = block.classes.reshape(-1).astype(np.int16)
    change = np.flatnonzero((flat[1:] != flat[:-1]) | (np.arange(1, flat.size) % per_row == 0)) + 1
    starts = np.concatenate(([0], change))
    if len(starts) > MAX_VECTOR_RUNS:
        out = io.BytesIO()
        _block_image(block).save(out, "PNG", optimize=True)
        data = base64.b64encode(out.getvalue()).decode()
        return [
            f'<image x="{block.x}" y="{block.y}" width="{per_row * block.cell}" height="{rows * block.cell}" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        ]
    ends = np.append(starts[1:], flat.size)
    paths: dict[int, list[str]] = {}
    height = block.cell - block.gap
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        x, y = block.x + start % per_row * block.cell, block.y + start // per_row * block.cell
        width = (end - start) * block.cell - block.gap
        paths.setdefault(int(flat[start]), []).append(f"M{x} {y}h{width}v{height}h-{width}z")
    out_paths = [f'<path fill="{PALETTE[kind]}" d="{"".join(parts)}"/>' for kind, parts in sorted(paths.items())]
    if block.gap:
        # The lines between cells, which runs do not have.
        lines = "".join(f"M{block.x + i * block.cell - block.gap} {block.y}v{rows * block.cell}" for i in range(1, per_row))
        out_paths.append(f'<path stroke="{PAPER}" stroke-width="{block.gap}" transform="translate(0.5 0)" d="{lines}"/>')
    return out_paths
