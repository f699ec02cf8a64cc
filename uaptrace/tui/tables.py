# SPDX-License-Identifier: Apache-2.0
"""Rows of the tables: columns, orders and filters. Pure, so that what is shown can be tested without a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from uaptrace.model.snapshot import ProcessRow, Snapshot, SplitRow
from uaptrace.views import words
from uaptrace.views.split_panels import top_frame

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """``numeric`` columns are right-aligned; ``order`` is the sort key, largest first where ``numeric``; None: not sorted by."""

    title: str
    width: int
    cell: Callable[[Row], str]
    order: Callable[[Row], Any] | None
    numeric: bool = False
    from_width: int = 0
    """Width of the screen from which it is shown."""


@dataclass(frozen=True, slots=True)
class Table(Generic[Row]):
    """A kind of table. ``last`` column takes the room that is left; ``text`` is what a filter looks at."""

    columns: Sequence[Column[Row]]
    key: Callable[[Row], str]
    text: Callable[[Row], str]
    default_sort: int
    """Index of the column that it is sorted by at first."""

    def next_sort(self, current: int) -> int:
        """The next column that can be sorted by."""
        number = len(self.columns)
        for i in range(1, number + 1):
            if self.columns[(current + i) % number].order is not None:
                return (current + i) % number
        return current

    def keys(self, rows: Sequence[Row]) -> list[str]:
        """A key for each row, no two the same: rows that only details tell apart are numbered."""
        seen: dict[str, int] = {}
        keys = []
        for row in rows:
            key = self.key(row)
            number = seen[key] = seen.get(key, -1) + 1
            keys.append(f"{key}#{number}" if number else key)
        return keys

    def arrange(self, rows: Sequence[Row], sort: int, pattern: str) -> list[Row]:
        """Rows that have every word of ``pattern`` (case is ignored), in order; equal ones stay as they came."""
        wanted = pattern.lower().split()
        chosen = [row for row in rows if all(word in self.text(row).lower() for word in wanted)]
        column = self.columns[sort]
        if column.order is not None:
            chosen.sort(key=column.order, reverse=column.numeric)
        return chosen


PROCESSES: Table[ProcessRow] = Table(
    columns=(
        Column("pid", 7, lambda r: str(r.tgid), lambda r: r.tgid),
        Column("process", 15, lambda r: words.shorten(r.comm or words.UNKNOWN, 15), lambda r: r.comm),
        Column("events", 8, lambda r: words.compact(r.events, 8), lambda r: r.events, True),
        Column("alloc", 7, lambda r: words.compact(r.allocated_pages, 7), lambda r: r.allocated_pages, True),
        Column("freed", 7, lambda r: words.compact(r.freed_pages, 7), lambda r: r.freed_pages, True, 100),
        Column("set_dm", 7, lambda r: words.compact(r.set_direct_map_calls, 7), lambda r: r.set_direct_map_calls, True),
        Column("splits", 6, lambda r: words.compact(r.splits, 6), lambda r: r.splits, True),
        Column("refills", 7, lambda r: words.compact(r.refills, 7), lambda r: r.refills, True, 100),
        Column("cgroup", 0, lambda r: words.clean(r.cgroup) or words.UNKNOWN, lambda r: r.cgroup),
    ),
    key=lambda r: f"{r.tgid}/{r.started_ns}/{r.cgroup_id}",
    text=lambda r: f"{r.tgid} {r.comm} {r.cgroup}",
    default_sort=2,
)


def splits_table(start_time_ns: int) -> Table[SplitRow]:
    """The ledger; times are since ``start_time_ns``."""

    def since(time_ns: int) -> str:
        return words.clock((time_ns - start_time_ns) / 1e9)

    return Table(
        columns=(
            Column("count", 6, lambda r: words.compact(r.count, 6), lambda r: r.count, True),
            Column("of", 2, lambda r: words.LEVEL_WORDS[r.level], lambda r: int(r.level), True),
            Column("cause", 14, lambda r: r.cause.value, lambda r: r.cause.value),
            Column("process", 13, lambda r: words.shorten(r.comm or words.UNKNOWN, 13), lambda r: r.comm),
            Column("last", 8, lambda r: since(r.last_time_ns), lambda r: r.last_time_ns, True, 100),
            Column("by", 22, top_frame, top_frame),
            Column("cgroup", 0, lambda r: words.clean(r.cgroup) or words.UNKNOWN, lambda r: r.cgroup),
        ),
        key=lambda r: f"{int(r.level)}/{r.cause}/{r.tgid}/{r.started_ns}/{r.cgroup_id}/{r.stack_id}/{r.first_time_ns}",
        text=lambda r: f"{words.LEVEL_WORDS[r.level]} {r.cause.value} {r.tgid} {r.comm} {r.cgroup} {' '.join(r.stack)}",
        default_sort=0,
    )


def waiting_words(snapshot: Snapshot | None, what: str, pattern: str) -> str:
    """What an empty table says."""
    if snapshot is None:
        return ""
    return f"nothing matches {pattern!r} (Esc clears the filter)" if pattern else f"no {what} yet"
