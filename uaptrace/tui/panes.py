# SPDX-License-Identifier: Apache-2.0
"""The four views of the screen. Each shows what it is given, and works only when it is on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import DataTable, Static

from uaptrace.model.snapshot import Snapshot, SplitRow
from uaptrace.tui.styles import to_text
from uaptrace.tui.tables import Table, waiting_words
from uaptrace.views import map_grid, words
from uaptrace.views.lines import Line, beside, fit, heading, line, paragraph
from uaptrace.views.overview import overview
from uaptrace.views.rates import Rates, Sample

SIDE_BY_SIDE = 112
"""Screen width from which panes are shown beside each other."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is to show."""

    snapshot: Snapshot
    rates: Rates | None
    samples: tuple[Sample, ...]


class OverviewPane(VerticalScroll, can_focus=True):
    """View 1."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.picture: Picture | None = None
        self._text = Static(id="overview-text")

    def compose(self) -> ComposeResult:
        yield self._text

    def show(self, picture: Picture) -> None:
        """Shows a new picture."""
        self.picture = picture
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        if self.picture is None or not self.size.width:
            return
        p = self.picture
        self._text.update(to_text(overview(p.snapshot, p.rates, p.samples, self.size.width, self.size.height)))


class TablePane(Vertical):
    """Views 2 and 3: a table with a sort order and a filter; the rows' detail beside it where there is room."""

    class Chosen(Message):
        """Enter was pressed on a row."""

        def __init__(self, pane: TablePane, row: Any) -> None:
            super().__init__()
            self.pane = pane
            self.row = row

    def __init__(
        self,
        *,
        id: str,
        what: str,
        rows: Callable[[Snapshot], Sequence[Any]],
        table: Callable[[Snapshot], Table[Any]],
        detail: Callable[[Any, Snapshot, int], list[Line]] | None = None,
    ) -> None:
        super().__init__(id=id)
        self.what = what
        self.pattern = ""
        self.sort: int | None = None
        self.picture: Picture | None = None
        self._rows_of = rows
        self._table_of = table
        self._detail = detail
        self._rows: list[Any] = []
        self._shown: list[tuple[str, ...]] = []
        self._keys: list[str] = []
        self._columns: tuple[tuple[int, int], ...] = ()
        self._title = Static(classes="table-title")
        self._beside = Static(classes="table-detail")
        self.data: DataTable[Text] = DataTable(cursor_type="row", cell_padding=0, zebra_stripes=False, show_cursor=True)

    def compose(self) -> ComposeResult:
        yield self._title
        with Horizontal():
            yield self.data
            if self._detail is not None:
                yield self._beside

    def show(self, picture: Picture) -> None:
        """Shows a new picture; the cursor stays on its row."""
        self.picture = picture
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def next_sort(self) -> None:
        """Sorts by the next column."""
        if self.picture is None:
            return
        table = self._table_of(self.picture.snapshot)
        self.sort = table.next_sort(self.sort if self.sort is not None else table.default_sort)
        self._columns = ()
        self._draw()

    def set_filter(self, pattern: str) -> None:
        """Shows only rows that have all words of ``pattern``."""
        self.pattern = pattern
        self._draw()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        if 0 <= event.cursor_row < len(self._rows):
            self.post_message(self.Chosen(self, self._rows[event.cursor_row]))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._draw_detail()

    def _draw(self) -> None:
        if self.picture is None or not self.size.width:
            return
        snapshot = self.picture.snapshot
        table = self._table_of(snapshot)
        sort = self.sort if self.sort is not None else table.default_sort
        every = self._rows_of(snapshot)
        self._rows = table.arrange(every, sort, self.pattern)
        column = table.columns[sort]
        facts = [f"{len(self._rows)} of {len(every)}", f"by {column.title} {'↓' if column.numeric else '↑'}"]
        if self.pattern:
            facts.append(f"filter: {words.clean(self.pattern)}")
        self._title.update(to_text([heading(self.what, self.size.width, " · ".join(facts))]))
        width = self._lay_out(table, sort)
        keys = table.keys(self._rows)
        cells = [tuple(c.cell(row) for i, c in enumerate(table.columns) if self._has(i)) for row in self._rows]
        self._fill(table, keys, cells, width)
        if not self._rows:
            self.data.display = False
            empty = waiting_words(snapshot, self.what.lower(), self.pattern)
            self._title.update(to_text([heading(self.what, self.size.width, " · ".join(facts)), *paragraph(empty, self.size.width)]))
        else:
            self.data.display = True
        self._draw_detail()

    def _has(self, index: int) -> bool:
        return any(i == index for i, _ in self._columns)

    def _lay_out(self, table: Table[Any], sort: int) -> int:
        """Columns for the present width; returns the width of the last one."""
        wide = self._detail is not None and self.size.width >= SIDE_BY_SIDE
        if self._detail is not None:
            self._beside.display = wide
        room = self.size.width * 3 // 5 if wide else self.size.width
        chosen = [(i, c) for i, c in enumerate(table.columns) if c.from_width <= self.size.width]
        if wide:
            chosen.pop()  # the detail beside it says it
        fixed = sum(c.width + 1 for _, c in chosen[:-1])
        last = max(8, room - fixed - 2)
        columns = (*((i, c.width) for i, c in chosen[:-1]), (chosen[-1][0], last))
        if columns != self._columns:
            self._columns = columns
            data = self.data
            data.clear(columns=True)
            self._keys, self._shown = [], []
            for i, width in columns:
                column = table.columns[i]
                title = column.title + (("↓" if column.numeric else "↑") if i == sort and len(column.title) < width else "")
                head = title.rjust(width) if column.numeric else title.ljust(width)
                data.add_column(Text(head + " "), width=width + 1, key=str(i))
        self.data.styles.width = room
        return last

    def _fill(self, table: Table[Any], keys: list[str], cells: list[tuple[str, ...]], last: int) -> None:
        data = self.data
        numeric = [table.columns[i].numeric for i, _ in self._columns]
        widths = [width for _, width in self._columns]

        def cell(j: int, value: str) -> Text:
            shorten = words.shorten_path if value.startswith("/") else words.shorten
            text = shorten(value, widths[j])
            return Text(text.rjust(widths[j]) if numeric[j] else text, no_wrap=True)

        if keys == self._keys:
            for key, old, new in zip(keys, self._shown, cells, strict=True):
                for j, (before, after) in enumerate(zip(old, new, strict=True)):
                    if before != after:
                        data.update_cell(key, str(self._columns[j][0]), cell(j, after))
        else:
            at = data.cursor_row
            current = self._keys[at] if 0 <= at < len(self._keys) else None
            data.clear()
            for key, row in zip(keys, cells, strict=True):
                data.add_row(*(cell(j, value) for j, value in enumerate(row)), key=key)
            if current in keys:
                data.move_cursor(row=keys.index(current), scroll=True)
        self._keys, self._shown = keys, cells

    def _draw_detail(self) -> None:
        if self._detail is None or self.picture is None:
            return
        if not self._beside.display:
            return
        at = self.data.cursor_row
        width = max(20, self.size.width - self.size.width * 3 // 5 - 2)
        lines = self._detail(self._rows[at], self.picture.snapshot, width) if 0 <= at < len(self._rows) else []
        self._beside.update(to_text(lines))


def split_detail(row: SplitRow, snapshot: Snapshot, width: int) -> list[Line]:
    """One row of the ledger with its whole stack."""
    start = snapshot.start_time_ns
    first, last = ((t - start) / 1e9 for t in (row.first_time_ns, row.last_time_ns))
    out = [heading("Split", width, f"{words.LEVEL_WORDS[row.level]} by {row.cause.value}, {words.plural(row.count, 'time')}")]
    out.append(line(" process  ", words.clean(row.comm) or words.UNKNOWN, f" [{row.tgid}]"))
    out.append(line(" cgroup   ", words.shorten_path(row.cgroup, width - 10) if row.cgroup else f"{words.UNKNOWN} (id {row.cgroup_id})"))
    out.append(line(f" when     first +{first:.3f} s, last +{last:.3f} s"))
    for i, a_line in enumerate(paragraph(", ".join(f"pfn {pfn}" for pfn in row.pfns) or words.UNKNOWN, width - 9, indent="")):
        out.append(line(" pages    " if i == 0 else " " * 10, *a_line))
    out.append(line((" stack, innermost first", "dim")))
    if not row.stack:
        out.append(line(("   none was taken", "dim")))
    out.extend(line("   ", words.shorten(frame, max(8, width - 3))) for frame in row.stack)
    return out


def _no_map(was_read: bool, width: int) -> list[Line]:
    why = "No memory is known yet." if was_read else "The map is read when it is first looked at; it comes with the next snapshot."
    return [heading("The direct map", width), *paragraph(why, width)]


class MapPane(Widget, can_focus=True):
    """View 4: the direct map as a picture with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1, 0)", show=False),
        Binding("down", "move(1, 0)", show=False),
        Binding("left,comma", "move(0, -1)", show=False),
        Binding("right,full_stop", "move(0, 1)", show=False),
        Binding("pageup", "move(-8, 0)", show=False),
        Binding("pagedown", "move(8, 0)", show=False),
        Binding("z", "zoom(1)", show=False),
        Binding("Z,x", "zoom(-1)", show=False),
        Binding("n", "next_absent", show=False),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.picture: Picture | None = None
        self.cursor_pfn = 0
        self.zoom = 0
        """Powers of two below the scale that fits the screen."""
        self._text = Text("")
        self._grid: map_grid.Cells | None = None
        self._per_row = 64
        self._nr_rows = 16

    def show(self, picture: Picture) -> None:
        """Shows a new picture; cursor and zoom stay."""
        self.picture = picture
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def render(self) -> Text:
        return self._text

    def action_move(self, rows: int, columns: int) -> None:
        """Moves the cursor by rows and cells; over folded rows in one step."""
        if self._grid is None:
            return
        index = self._index() + rows * self._per_row + columns
        step = 1 if rows + columns > 0 else -1
        occupied = [row.start for row in map_grid.rows(self._grid, self._per_row) if not row.nr_rows]
        if not occupied:
            return
        row_start = index // self._per_row * self._per_row
        if row_start not in occupied:
            further = [s for s in occupied if (s > row_start) == (step > 0) and s != row_start]
            if not further:
                return
            near = min(further) if step > 0 else max(further)
            index = near + index % self._per_row
        self.cursor_pfn = self._grid.pfn(max(0, min(len(self._grid) - 1, index)))
        self._draw()

    def action_zoom(self, by: int) -> None:
        """Zooms in or out around the cursor."""
        self.zoom = max(0, self.zoom + by)
        self._draw()

    def action_next_absent(self) -> None:
        """Moves the cursor to the next cell with absent pages, round the end."""
        if self._grid is None:
            return
        found = self._grid.absent.nonzero()[0]
        if len(found):
            later = found[found > self._index()]
            self.cursor_pfn = self._grid.pfn(int(later[0] if len(later) else found[0]))
            self._draw()

    def _index(self) -> int:
        assert self._grid is not None
        return max(0, min(len(self._grid) - 1, self.cursor_pfn // self._grid.pages_per_cell))

    def _draw(self) -> None:
        if self.picture is None or not self.size.width or not self.size.height:
            return
        self._text = to_text(self._lines(self.picture.snapshot, self.size.width, self.size.height))
        self.refresh()

    def _lines(self, snapshot: Snapshot, width: int, height: int) -> list[Line]:
        table = snapshot.regions
        if table is None or not table.level.any():
            self._grid = None
            return _no_map(table is not None, width)
        side = 36 if width >= SIDE_BY_SIDE else 0
        room = width - side - 17 if side else width - 15
        self._per_row = max(p for p in (16, 32, 64, 128, 256) if p == 16 or p <= room)
        figures = map_grid.figures(table)
        top = [heading("The direct map", width, map_grid.verdict(figures))]
        bottom_height = 2 if side else 3
        self._nr_rows = max(1, height - len(top) - bottom_height)
        fitting = map_grid.fitting_scale(table, self._per_row, self._nr_rows)
        scale = max(1, fitting >> self.zoom)
        self.zoom = min(self.zoom, fitting.bit_length() - 1)
        self._grid = grid = map_grid.cells(table, scale)
        cursor = self._index()
        picture = self._rows_around(grid, cursor)
        if side:
            picture = beside([(picture, 15 + self._per_row), (self._facts(snapshot, figures, side), side)])
        picture += [()] * (self._nr_rows - len(picture))
        bottom: list[Line] = [((" ", "dim"), *map_grid.legend(grid))]
        if not side:
            bottom.append(self._short_facts(snapshot, figures))
        bottom.append(line(" ▸ ", (map_grid.describe(table, grid, cursor), "strong")))
        return [fit(a_line, width) for a_line in [*top, *picture[: self._nr_rows], *bottom]]

    def _rows_around(self, grid: map_grid.Cells, cursor: int) -> list[Line]:
        """As many rows as there is room for, the cursor's in the middle where possible."""
        rows = map_grid.rows(grid, self._per_row)
        at = next((i for i, row in enumerate(rows) if row.start <= cursor < row.start + self._per_row * max(1, row.nr_rows)), 0)
        first = max(0, min(at - self._nr_rows // 2, len(rows) - self._nr_rows))
        return [map_grid.row_line(grid, row, self._per_row, cursor) for row in rows[first : first + self._nr_rows]]

    def _short_facts(self, snapshot: Snapshot, figures: map_grid.MapFigures) -> Line:
        return line(
            f" {words.percent(figures.large_share)} in 2M and 1G, absent {words.size(figures.absent_bytes)}"
            f" ({words.size(figures.cached_bytes)} cached), stranded {snapshot.direct_map.nr_regions_stranded:,}"
        )

    def _facts(self, snapshot: Snapshot, figures: map_grid.MapFigures, width: int) -> list[Line]:
        view = snapshot.direct_map
        each = figures.absent_pages_per_touched_region
        facts = [
            ("in 2M and 1G mappings", words.percent(figures.large_share)),
            ("absent", words.size(figures.absent_bytes)),
            ("  of it in the cache", words.size(figures.cached_bytes)),
            ("2M regions", words.number(figures.nr_regions)),
            ("  mapped by 4K", words.number(view.nr_regions_split)),
            ("  touched", words.number(view.nr_regions_touched)),
            ("  in places", words.number(figures.nr_touched_runs)),
            ("  packed, would need", words.number(figures.nr_regions_needed)),
            ("  stranded", words.number(view.nr_regions_stranded)),
            ("absent pages per touched", f"{each:.1f}" if each is not None else words.UNKNOWN),
            ("largest intact run", words.size(view.largest_intact_bytes)),
            ("TLB entries to cover it", words.number(view.nr_entries)),
            ("  with no 2M split", words.number(view.nr_entries_unsplit)),
            ("the TLB holds at most", words.size(snapshot.tlb_reach_bytes)),
        ]
        out = [line(f"{name:<26}{value:>{width - 26}}") for name, value in facts]
        out += [(), line(("arrows move   z, x zoom in, out", "dim")), line(("n next absence", "dim"))]
        return out


class LinesScreen(ModalScreen[None]):
    """Lines in front of the view: help, audit, a stack. The lines are made anew for each new picture."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,h,question_mark,a", "dismiss_screen", show=False),
    ]

    def __init__(self, lines: Callable[[Picture | None, int], list[Line]], picture: Picture | None, wide: bool = False) -> None:
        super().__init__()
        self._lines = lines
        self._picture = picture
        self._text = Static(id="lines-text")
        self._box = VerticalScroll(self._text, id="lines", classes="wide" if wide else "")

    def compose(self) -> ComposeResult:
        yield self._box

    def on_mount(self) -> None:
        self._box.focus()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._draw)

    def show(self, picture: Picture) -> None:
        """A new picture came."""
        self._picture = picture
        self._draw()

    def action_dismiss_screen(self) -> None:
        """Back to the view."""
        self.dismiss()

    def _draw(self) -> None:
        width = self._box.size.width
        if width:
            self._text.update(to_text(self._lines(self._picture, width)))
