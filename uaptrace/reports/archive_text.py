# SPDX-License-Identifier: Apache-2.0
"""What an archive answers, as text for a terminal and as JSON. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from uaptrace.archive.answer import Answer, StackRow, Totals, UpdateRow
from uaptrace.views import words

SCHEMA: Final = 1
COLUMNS: Final = 80
MAX_NAME: Final = 28
_GAP: Final = 2

Table = tuple[Sequence[str], list[Sequence[str]]]
"""Head and rows. The first column is text, the others are figures."""


def totals_in_words(totals: Totals) -> list[str]:
    """What was asked, and what makes its figures less than they seem; a sentence each."""
    days = f"{totals.first_day}" if totals.first_day == totals.last_day else f"{totals.first_day} to {totals.last_day}"
    watched = words.clock(totals.watched_s)
    exact = totals.watched_exact_s / totals.watched_s if totals.watched_s else None
    said = [
        f"{words.plural(totals.nr_hosts, 'host')}, {words.plural(totals.nr_host_days, 'host-day')}, {days}, watched for {watched}, "
        f"{words.percent(exact)} of it exact."
    ]
    if totals.events_lost:
        said.append(f"{words.plural(totals.events_lost, 'event')} lost: what happened then is counted by the kernel only.")
    if totals.nr_without_map:
        said.append(
            f"In {totals.nr_without_map:,} of {words.plural(totals.nr_recordings, 'row')} the page tables were not read: "
            "their large mappings are not known."
        )
    if totals.nr_overlaps:
        said.append(
            f"{words.plural(totals.nr_overlaps, 'row')} of the same host and boot overlap in time: what happened then is counted twice."
        )
    return said


def causes_table(answer: Answer) -> Table:
    """Splits by cause."""
    rows = [
        (
            row.cause,
            words.number(row.splits_2m),
            words.number(row.splits_1g),
            words.percent(row.splits / answer.splits),
            f"{row.nr_hosts:,}",
        )
        for row in answer.causes
    ]
    return ("cause", "2M", "1G", "share", "hosts"), list(rows)


def kernels_table(answer: Answer) -> Table:
    """Kernels, the one that was watched longest first."""
    rows = [
        (
            words.clean(row.kernel_release) or "unknown kernel",
            f"{row.nr_hosts:,}",
            words.clock(row.watched_s),
            words.per_second(row.splits_per_day),
            signed_loss(row.lost_bytes_per_day),
        )
        for row in answer.kernels
    ]
    return ("kernel", "hosts", "watched", "splits a day", "lost a day"), list(rows)


def updates_table(answer: Answer) -> Table:
    """What became of splits when hosts went from one kernel to another."""
    rows = []
    for row in answer.updates:
        before, after = row.splits_per_day
        names = f"{words.clean(row.before) or 'unknown kernel'} to {words.clean(row.after) or 'unknown kernel'}"
        rows.append(
            (
                names,
                f"{row.nr_hosts:,}",
                words.per_second(before),
                words.per_second(after),
                change_in_words(row),
                f"{row.nr_fewer:,}",
                f"{row.nr_more:,}",
            )
        )
    return ("update", "hosts", "before", "after", "change", "fewer", "more"), list(rows)


def hosts_table(answer: Answer) -> Table:
    """Hosts that lost most of their large mappings."""
    rows = [
        (
            words.clean(row.hostname),
            words.clean(row.kernel_release) or "unknown kernel",
            signed_loss(row.lost_bytes),
            words.percent(row.large_share_begin),
            words.percent(row.large_share_end),
            words.number(row.splits),
        )
        for row in answer.hosts
    ]
    return ("host", "kernel", "lost", "large then", "now", "splits"), list(rows)


def processes_table(answer: Answer) -> Table:
    """Processes that split most."""
    rows = [(words.clean(row.comm) or "?", words.number(row.splits), f"{row.nr_hosts:,}", row.cause) for row in answer.processes]
    return ("process", "splits", "hosts", "most by"), list(rows)


def audit_table(answer: Answer) -> Table:
    """Invariants of the unmapped cache."""
    rows = [
        (f"{row.number} {row.title}", words.number(row.checked), words.number(row.violated), f"{row.nr_hosts:,}") for row in answer.audit
    ]
    return ("invariant", "checked", "broken", "on hosts"), list(rows)


def change_in_words(row: UpdateRow) -> str:
    """Of the splits a day on a host, relative to before."""
    before, after = row.splits_per_day
    if before is None or after is None:
        return words.UNKNOWN
    if not before:
        return "the same" if not after else f"+{words.per_second(after)}"
    return f"{(after - before) / before:+.1%}".replace("-", "−")


def signed_loss(lost_bytes: float | None) -> str:
    """Bytes of large mappings that went; with a plus where more came than went."""
    if lost_bytes is None:
        return words.UNKNOWN
    size = words.size(round(abs(lost_bytes)))
    return f"+{size}" if lost_bytes < 0 else size


def archive_to_text(answer: Answer, limit: int) -> str:
    """The answer in COLUMNS columns; ``limit``: rows of each table."""
    lines = [words.clean(answer.place), *_wrapped(totals_in_words(answer.totals))]
    lines += _section("Splits by cause", causes_table(answer), limit, "No large mapping was split.")
    lines += _section("Kernels: splits and bytes of large mappings lost, on one host", kernels_table(answer), limit)
    if answer.updates:
        lines += _section("Kernel updates: splits a day on one host, and hosts with fewer or more", updates_table(answer), limit)
    lines += _section("Hosts that lost most of their large mappings", hosts_table(answer), limit)
    if answer.processes:
        lines += _section("Processes", processes_table(answer), limit)
        lines += ["", "Stacks, innermost function first", *_stacks(answer.stacks[:limit])]
        if not answer.stacks_complete:
            lines += _wrapped(["Some recordings kept only their 256 most frequent groups of splits: rarer ones have a cause and no stack."])
    if answer.audit:
        lines += _section("Audit", audit_table(answer), len(answer.audit))
    return "\n".join(lines) + "\n"


def _section(title: str, table: Table, limit: int, nothing: str = "") -> list[str]:
    head, rows = table
    if not rows:
        return ["", title, f"  {nothing}"] if nothing else []
    shown = rows[:limit]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    text_columns = 2 if head[1] == "kernel" else 1
    spare = COLUMNS - sum(widths[text_columns:]) - _GAP * len(widths)
    for column in range(text_columns):
        widths[column] = min(widths[column], max(spare // text_columns, MAX_NAME // 2))
    lines = ["", title]
    for row in (head, *shown):
        cells = [
            words.shorten(cell, width).ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * _GAP + (" " * _GAP).join(cells)).rstrip())
    if len(rows) > limit:
        lines.append(f"  and {len(rows) - limit:,} more (--limit)")
    return lines


def _stacks(rows: Sequence[StackRow]) -> list[str]:
    lines = []
    for row in rows:
        lines.append(
            f"  {words.plural(row.splits, 'split')} of {row.level.upper()} on {words.plural(row.nr_hosts, 'host')}: "
            f"{row.cause}, {words.clean(row.comm) or '?'}"
        )
        frames = [words.clean(frame) for frame in reversed(row.stack)] or ["no stack"]
        line = "    "
        for i, frame in enumerate(frames):
            piece = frame if i == len(frames) - 1 else f"{frame} < "
            if len(line) + len(piece) > COLUMNS and line.strip():
                lines.append(line.rstrip())
                line = "    "
            line += piece
        lines.append(line.rstrip())
    return lines


def _wrapped(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in textwrap.wrap(sentence, COLUMNS)]


def archive_to_json(answer: Answer) -> dict[str, Any]:
    """docs/json.md has the keys. Within one ``schema`` keys are only added; what is not known is null."""
    totals = asdict(answer.totals)
    return {
        "schema": SCHEMA,
        "place": answer.place,
        **{key: str(value) if key.endswith("_day") else value for key, value in totals.items()},
        "causes": [asdict(row) for row in answer.causes],
        "kernels": [
            asdict(row) | {"splits_per_day": row.splits_per_day, "lost_bytes_per_day": row.lost_bytes_per_day} for row in answer.kernels
        ],
        "updates": [
            asdict(row) | dict(zip(("splits_per_day_before", "splits_per_day_after"), row.splits_per_day, strict=True))
            for row in answer.updates
        ],
        "hosts": [asdict(row) for row in answer.hosts],
        "processes": [asdict(row) for row in answer.processes],
        "stacks": [asdict(row) for row in answer.stacks],
        "stacks_complete": answer.stacks_complete,
        "days": [asdict(row) | {"day": str(row.day)} for row in answer.days],
        "audit": [asdict(row) for row in answer.audit],
    }
