# SPDX-License-Identifier: Apache-2.0
"""A Snapshot as text and as JSON, for ``uaptrace top --once``, ``splits`` and ``audit``. Pure functions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from uaptrace.model.snapshot import Snapshot
from uaptrace.reports.documents import (
    GROUPS,
    GroupBy,
    audit_to_json,
    snapshot_to_json,
    split_groups,
    splits_to_json,
)
from uaptrace.views import panels, split_panels, words
from uaptrace.views.lines import Line, ansi, heading, line, paragraph, plain
from uaptrace.views.overview import overview
from uaptrace.views.rates import Sample, rates_between

__all__ = [
    "GROUPS",
    "GroupBy",
    "audit_to_json",
    "audit_to_text",
    "folded_stacks",
    "snapshot_to_json",
    "snapshot_to_text",
    "splits_to_json",
    "splits_to_text",
]


def snapshot_to_text(snapshot: Snapshot, earlier: Snapshot | None = None, width: int = 80, *, color: bool = False) -> str:
    """All panels of the overview in ``width`` columns. ``earlier``: an earlier snapshot, for rates. ``color``: with ANSI attributes."""
    rates = rates_between(earlier, snapshot)
    samples: tuple[Sample, ...] = ()
    lines = [*_header(snapshot, width), *overview(snapshot, rates, samples, width, keys=False)]
    return ansi(lines) if color else plain(lines)


def audit_to_text(snapshot: Snapshot, width: int = 80, *, color: bool = False) -> str:
    """Every invariant with the first pages that break it."""
    lines = [*_header(snapshot, width), *panels.audit_detail(snapshot, width)]
    return ansi(lines) if color else plain(lines)


def splits_to_text(snapshot: Snapshot, group_by: GroupBy = "row", width: int = 80, *, stacks: bool = False, color: bool = False) -> str:
    """The ledger grouped by one of GROUPS, most splits first.

    ``stacks`` adds the whole stack where a row or a group has one.
    """
    splits = snapshot.splits
    lines = [*_header(snapshot, width), *split_panels.splits_panel(snapshot, width)]
    title = "Ledger" if group_by == "row" else f"Ledger by {group_by}"
    lines.append(heading(title, width, "most splits first"))
    if not snapshot.split_rows and not splits.by_cause:
        lines.append(line(" no splits since tracing began"))
    elif group_by == "row":
        lines.extend(_rows(snapshot, width, stacks))
    else:
        lines.append(line((f" {'2M':>8}{'1G':>8}  {'first':>9}{'last':>9}  {group_by}", "dim")))
        for group in split_groups(snapshot, group_by):
            times = f"{_since(snapshot, group['first_time_ns']):>9}{_since(snapshot, group['last_time_ns']):>9}"
            lines.append(line(f" {group['2m']:>8,}{group['1g']:>8,}  {times}  {words.shorten(_name(group, group_by), max(8, width - 39))}"))
            if stacks and group_by == "stack":
                lines.extend(line((f"{'':>22}{words.shorten(frame, max(8, width - 22))}", "dim")) for frame in group["stack"])
    if group_by != "cause" and not snapshot.ledger_is_complete:
        lines.extend(
            paragraph("The ledger has no room for all rows: the counts by cause above are whole, the rows are not.", width, style="warn")
        )
    return ansi(lines) if color else plain(lines)


def folded_stacks(snapshot: Snapshot) -> str:
    """The ledger in the folded form of flame graph tools: ``process;cause;2M;outermost;...;innermost count``.

    Offsets are left out, so that equal functions are one frame; a split without a stack ends in ``(no-stack)``.
    """
    counts: Counter[str] = Counter()
    for row in snapshot.split_rows:
        frames = [frame.split("+0x", 1)[0] for frame in reversed(row.stack)] or ["(no-stack)"]
        leading = [row.comm or "(unknown)", row.cause.value, words.LEVEL_WORDS[row.level]]
        counts[";".join(_frame(part) for part in (*leading, *frames))] += row.count
    return "".join(f"{stack} {count}\n" for stack, count in sorted(counts.items()))


def _frame(text: str) -> str:
    """A frame must have no separator of the format in it."""
    return "".join(":" if c == ";" else "_" if c.isspace() or not c.isprintable() else c for c in text)


def _header(snapshot: Snapshot, width: int) -> list[Line]:
    host = snapshot.host
    parts = [words.host(host), words.kernel(host)]
    parts.append(f"traced for {words.clock((snapshot.time_ns - snapshot.start_time_ns) / 1e9)}")
    out = [line(("uaptrace", "title"), words.shorten("".join(f" · {part}" for part in parts), max(8, width - 8)))]
    if snapshot.exactness.exact:
        out.append(line(("EXACT", "good"), f" · {snapshot.loss.events_taken:,} events, {snapshot.loss.total:,} lost"))
    else:
        out.extend(paragraph(panels.exactness_words(snapshot), width, indent="", style="warn"))
    return out


def _rows(snapshot: Snapshot, width: int, stacks: bool) -> list[Line]:
    out = [line((f" {'count':>7} of {'cause':<15}{'process':<23}{'last':>8}  by", "dim"))]
    for row in snapshot.split_rows:
        who = words.shorten(f"{row.comm or words.UNKNOWN} [{row.tgid}]", 22)
        level = words.LEVEL_WORDS[row.level]
        frame = words.shorten(split_panels.top_frame(row), max(8, width - 61))
        out.append(line(f" {row.count:>7,} {level} {row.cause.value:<15}{who:<23}{_since(snapshot, row.last_time_ns):>8}  {frame}"))
        if row.cgroup and stacks:
            out.append(line((f"{'':>12}cgroup {words.shorten_path(row.cgroup, max(8, width - 19))}", "dim")))
        if stacks:
            out.extend(line((f"{'':>12}{words.shorten(f, max(8, width - 12))}", "dim")) for f in row.stack)
    return out


def _since(snapshot: Snapshot, time_ns: int | None) -> str:
    return words.UNKNOWN if time_ns is None else f"+{words.clock((time_ns - snapshot.start_time_ns) / 1e9)}"


def _name(group: dict[str, Any], group_by: GroupBy) -> str:
    match group_by:
        case "process":
            return f"{group['comm'] or words.UNKNOWN} [{group['tgid']}]"
        case "cgroup":
            return group["cgroup"] or f"unknown (id {group['cgroup_id']})"
        case "stack":
            return f"{group['cause']}: {split_panels.telling_frame(group['stack'])}"
        case _:
            return str(group["cause"])
