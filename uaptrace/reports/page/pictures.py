# SPDX-License-Identifier: Apache-2.0
"""Maps for the page: one pixel for each cell, enlarged by the browser, in the colours of ``uaptrace map``."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from uaptrace.abi.units import format_bytes, pages_to_bytes
from uaptrace.model.snapshot import RegionTable
from uaptrace.reports import map_scene
from uaptrace.views import map_grid

SMALL_ROW, LARGE_ROW = 64, 128
MAX_ROWS = 48


@dataclass(frozen=True, slots=True)
class Picture:
    """A map. ``uri``: PNG of ``width`` by ``height`` cells; ``row_pfns``: first page of each row, -1 for a fold without memory."""

    uri: str
    width: int
    height: int
    row_pfns: tuple[int, ...]
    pages_per_cell: int

    @property
    def scale(self) -> str:
        """What a cell is, and a row."""
        cell = format_bytes(pages_to_bytes(self.pages_per_cell))
        return f"one cell is {cell}, one row {format_bytes(pages_to_bytes(self.pages_per_cell * self.width))}"


def picture(table: RegionTable | None) -> Picture | None:
    """The map of a snapshot; None where it has none."""
    if table is None or not table.level.any():
        return None
    per_row = SMALL_ROW if len(table.level) <= SMALL_ROW * MAX_ROWS else LARGE_ROW
    grid = map_grid.cells(table, map_grid.fitting_scale(table, per_row, MAX_ROWS))
    classes = map_scene.classes(grid)
    rows = map_grid.rows(grid, per_row)
    image = np.zeros((len(rows), per_row), np.uint8)
    for y, row in enumerate(rows):
        if not row.nr_rows:
            cells = classes[row.start : row.start + per_row]
            image[y, : len(cells)] = cells
    pfns = tuple(-1 if row.nr_rows else grid.pfn(row.start) for row in rows)
    return Picture(_uri(image), per_row, len(rows), pfns, grid.pages_per_cell)


def _uri(classes: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> str:
    from PIL import Image

    image = Image.fromarray(classes, "P")
    image.putpalette([int(color[i : i + 2], 16) for color in map_scene.PALETTE for i in (1, 3, 5)])
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, transparency=0)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
