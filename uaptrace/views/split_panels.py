# SPDX-License-Identifier: Apache-2.0
"""Panels of splits: by cause, and the ledger of who split what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uaptrace.abi.units import Level
from uaptrace.model.snapshot import (
    Cause,
    Snapshot,
    SplitRow,
    SplitsView,
)
from uaptrace.views import words
from uaptrace.views.charts import bar
from uaptrace.views.lines import Line, Style, heading, line, paragraph
from uaptrace.views.panels import LEVEL_STYLES


def splits_panel(snapshot: Snapshot, width: int) -> list[Line]:
    """Splits by cause since tracing began, what is unexplained, and what attaching did."""
    splits = snapshot.splits
    out = [heading("Splits by cause", width, f"2M: {splits.by_level(Level.M2):,} · 1G: {splits.by_level(Level.G1):,} since start")]
    causes = _splits_by_cause(splits)
    most = max((row.total for row in causes), default=0)
    out.append(line((f" {'':<22}{'2M':>9}{'1G':>9}", "dim")))
    for row in causes:
        chart = bar(row.total / most, max(0, width - 43)) if width >= 56 else ""
        out.append(line(row.text, (f"  {chart.replace('·', ' ')}", "k4")))
    out.extend(line((row.text, row.style)) for row in _splits_beside(splits))
    if splits.other_mappings:
        note = f"{splits.other_mappings:,} more outside the direct map (vmalloc, modules), which vmstat counts on some kernels only"
        out.extend(paragraph(note, width, style="dim"))
    return out


class _Splits(NamedTuple):
    """A row of the panel; None: not known."""

    name: str
    m2: int | None
    g1: int | None
    style: Style = ""

    @property
    def total(self) -> int:
        return (self.m2 or 0) + (self.g1 or 0)

    @property
    def text(self) -> str:
        return f" {self.name:<22}{words.number(self.m2):>9}{words.number(self.g1):>9}"


def _splits_by_cause(splits: SplitsView) -> list[_Splits]:
    """The largest first; causes that split nothing are left out."""
    rows = []
    for cause in Cause:
        name = cause.value + (" (uaptrace)" if cause == Cause.SELF else "")
        row = _Splits(name, splits.by_cause.get((Level.M2, cause), 0), splits.by_cause.get((Level.G1, cause), 0))
        if row.total:
            rows.append(row)
    return sorted(rows, key=lambda row: -row.total)


def _splits_beside(splits: SplitsView) -> list[_Splits]:
    """What is no cause: unexplained ones, those of attaching, and the kernel's own count."""

    def row(name: str, numbers: Mapping[Level, int]) -> _Splits:
        return _Splits(name, numbers.get(Level.M2), numbers.get(Level.G1))

    unexplained = row("unexplained", splits.unexplained)
    out = [unexplained._replace(style="warn" if unexplained.total else "")]
    if any(splits.undecided.values()):
        out.append(row("not decided yet", splits.undecided))
    out.append(row("while attaching", splits.during_attach))
    if splits.kernel_total is not None:
        out.append(row("vmstat, since boot", splits.kernel_total))
    if splits.kernel_collapses is not None and any(splits.kernel_collapses.values()):
        out.append(row("collapsed since boot", splits.kernel_collapses))
    return out


MECHANISM = ("__change_page_attr", "change_page_attr", "set_direct_map_", "__set_pages", "set_memory_", "set_pages_", "flush_tlb_all")


def telling_frame(stack: Sequence[str]) -> str:
    """The frame of a stack (innermost first) that says most: the innermost that is not part of the attribute change itself."""
    frame = next((f for f in stack if not f.startswith(MECHANISM)), stack[0] if stack else words.UNKNOWN)
    return words.clean(frame)


def top_frame(row: SplitRow) -> str:
    """The frame that says most of a row of the ledger."""
    return telling_frame(row.stack)


def ledger_panel(snapshot: Snapshot, width: int, rows: int = 8, *, keys: bool = True) -> list[Line]:
    """The first rows of the ledger."""
    out = [heading("Splits ledger", width, "most splits first" + (" · 3 for all" if keys else ""))]
    out.append(line((f" {'count':>6} of {'cause':<15}{'process':<16}by", "dim")))
    if not snapshot.split_rows:
        out.append(line((" no splits yet", "dim")))
    for row in snapshot.split_rows[:rows]:
        level = (words.LEVEL_WORDS[row.level], LEVEL_STYLES[row.level])
        who = f" {row.cause.value:<15}{words.shorten(row.comm or words.UNKNOWN, 15):<16}"
        out.append(line(f" {words.compact(row.count, 6):>6} ", level, who, words.shorten(top_frame(row), max(8, width - 42))))
    return out
