# SPDX-License-Identifier: Apache-2.0
"""The picture of the map before it is pixels or SVG: where the cells are, and the words around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import Level, pages_to_bytes
from uaptrace.views import map_grid, words
from uaptrace.views.map_grid import Cells

COLORS: Final = {Level.NONE: "#ececec", Level.G1: "#1f4e79", Level.M2: "#8fbde8", Level.K4: "#f6dc6b"}
"""Dark blue, light blue, yellow; absence goes from orange to dark red. They differ in lightness too."""
ABSENT_FEW: Final = (0xF0, 0x7B, 0x28)
ABSENT_ALL: Final = (0x7A, 0x06, 0x12)
RAMP_STEPS: Final = 8
INK: Final = "#222222"
FAINT: Final = "#666666"
ALARM: Final = "#a4001c"
PAPER: Final = "#ffffff"

GRID_WIDTH: Final = 1024
MAX_GRID_HEIGHT: Final = 1040
LEFT: Final = 92
RIGHT: Final = 24
FOLD_HEIGHT: Final = 22
SMALL_CELL: Final = 6
"""Cells smaller than this have no lines between them."""
_LABEL_DISTANCE: Final = 15
"""Pixels from one label of the address scale to the next, at least."""
GAP_WORD: Final = "without memory"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of one colour; ``outline`` draws only its edge."""

    x: int
    y: int
    width: int
    height: int
    color: str
    outline: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """Words; ``y`` is the middle of the line."""

    x: int
    y: int
    text: str
    size: int = 13
    color: str = INK
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of cells without a fold between them: ``classes`` uint8 of shape (rows, per_row), an index into PALETTE."""

    x: int
    y: int
    classes: NDArray[np.uint8]
    cell: int
    gap: int


@dataclass(slots=True)
class Scene:
    """All of the picture, in pixels from the top left."""

    width: int
    height: int = 0
    boxes: list[Box] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    marks: list[Box] = field(default_factory=list)


def _ramp() -> list[str]:
    out = []
    for step in range(RAMP_STEPS):
        part = step / (RAMP_STEPS - 1)
        out.append("#" + "".join(f"{round(few + (every - few) * part):02x}" for few, every in zip(ABSENT_FEW, ABSENT_ALL, strict=True)))
    return out


PALETTE: Final = [COLORS[Level.NONE], COLORS[Level.K4], COLORS[Level.M2], COLORS[Level.G1], *_ramp()]
"""Colours by class: 0 to 3 are levels with nothing absent, 4 and up are shares of absence."""


def classes(grid: Cells) -> NDArray[np.uint8]:
    """Class of each cell, uint8 of shape (n,): its level, or where something is absent the step of its share."""
    step = np.ceil(np.clip(grid.absent, 0, 1) * (RAMP_STEPS - 1)).astype(np.uint8)
    step = np.where((grid.absent > 0) & (grid.absent < 1) & (step == RAMP_STEPS - 1), RAMP_STEPS - 2, step)
    return np.where(
        (grid.absent > 0) & (grid.level != Level.NONE), 4 + np.where(grid.absent >= 1, RAMP_STEPS - 1, step - (step > 0)), grid.level
    ).astype(np.uint8)


def place(grid: Cells) -> tuple[int, int]:
    """(cells in a row, pixels of a cell): the largest square cells with which the grid is not too high."""
    for per_row in (32, 64, 128, 256, 512):
        cell = GRID_WIDTH // per_row
        if grid_height(grid, per_row, cell) <= (640 if per_row < 512 else MAX_GRID_HEIGHT):
            return per_row, cell
    return 512, 2


def grid_height(grid: Cells, per_row: int, cell: int) -> int:
    """Pixels that the rows take, folds included."""
    return sum(FOLD_HEIGHT if row.nr_rows else cell for row in map_grid.rows(grid, per_row))


def fits(grid: Cells) -> bool:
    """The grid fits into a picture at the smallest cells."""
    return grid_height(grid, 512, 2) <= MAX_GRID_HEIGHT


def draw_grid(scene: Scene, grid: Cells, top: int, *, by_pfn: bool, mark_pfn: int | None = None, gap_word: str = GAP_WORD) -> int:
    """Puts cells, folds, the address scale and the mark into the scene; returns the y below it."""
    per_row, cell = place(grid)
    gap = 1 if cell >= SMALL_CELL else 0
    every = classes(grid)
    pad = -len(every) % per_row
    table = np.pad(every, (0, pad)).reshape(-1, per_row)
    y = top
    start: int | None = None
    last_label = -_LABEL_DISTANCE

    def flush(end: int) -> None:
        nonlocal start
        if start is not None and start < end:
            scene.blocks.append(Block(LEFT, y - (end - start) * cell, table[start:end], cell, gap))
        start = None

    for row in map_grid.rows(grid, per_row):
        index = row.start // per_row
        if row.nr_rows:
            flush(index)
            gap_words = words.pages(row.nr_rows * per_row * grid.pages_per_cell)
            scene.labels.append(Label(LEFT + GRID_WIDTH // 2, y + FOLD_HEIGHT // 2, f"{gap_words} {gap_word}", 11, FAINT, "middle"))
            y += FOLD_HEIGHT
            last_label = -_LABEL_DISTANCE
            continue
        if start is None:
            start = index
        pfn = grid.pfn(row.start)
        if y - last_label >= _LABEL_DISTANCE and _round_address(pfn, per_row * grid.pages_per_cell, cell):
            scene.labels.append(Label(LEFT - 8, y + max(cell, 2) // 2, _scale_text(pfn, by_pfn), 11, FAINT, "end"))
            scene.boxes.append(Box(LEFT - 5, y, 4, 1, FAINT))
            last_label = y
        if cell < SMALL_CELL and (table[index] >= 4).any():
            # A cell of two pixels is easily missed: the margin says in which rows something is absent.
            scene.boxes.append(Box(LEFT + GRID_WIDTH + 4, y, 8, max(2, cell), PALETTE[7]))
        column = -1 if mark_pfn is None else (mark_pfn - pfn) // grid.pages_per_cell
        _mark(scene, column, per_row, y, cell, gap)
        y += cell
        end = index + 1
        if end == len(table):
            flush(end)
    if start is not None:
        flush(_end_of(grid, per_row))
    return y


def _scale_text(pfn: int, by_pfn: bool) -> str:
    if by_pfn or not pfn:
        return str(pfn)
    return words.size(pages_to_bytes(pfn))


def _mark(scene: Scene, column: int, per_row: int, y: int, cell: int, gap: int) -> None:
    """Frames a cell of the row at ``y``, where it is in this row."""
    if 0 <= column < per_row:
        scene.marks.append(Box(LEFT + column * cell - 2, y - 2, cell + 3 - gap, cell + 3 - gap, "#000000", outline=True))


def _end_of(grid: Cells, per_row: int) -> int:
    """Row after the last one with memory."""
    return int(np.flatnonzero(grid.level)[-1]) // per_row + 1


def _round_address(pfn: int, row_pages: int, cell: int) -> bool:
    """Whether a row begins at an address that is a multiple of a power of two large enough for labels not to crowd."""
    step = row_pages
    while step // row_pages * cell < 15:
        step *= 2
    return pfn % step == 0
