# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown and as JSON, for the logs and the artefacts of a CI run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from uaptrace.abi.units import LEVELS, Level
from uaptrace.model.snapshot import Cause, Snapshot
from uaptrace.process.plain import plain
from uaptrace.reports.documents import snapshot_to_json
from uaptrace.reports.page import figures as key
from uaptrace.reports.page.gather import Point, Recorded
from uaptrace.views import words

SCHEMA: Final = 1
MAX_ROWS: Final = 10


def report_to_json(recordeds: Sequence[Recorded]) -> dict[str, Any]:
    """All that the page shows, in numbers. Within one ``schema`` keys are only added; what is not known is null.

    ``recordings``: for each its facts, ``figures`` (value by key), ``begin`` and ``end`` (the document of ``top --once --json``), and
    ``points`` over time. ``differences``: for two recordings, key, both values, change and verdict.
    """
    out: dict[str, Any] = {"schema": SCHEMA, "recordings": [_recording(r) for r in recordeds]}
    if len(recordeds) == 2:
        out["summary"] = key.comparison(recordeds[0], recordeds[1])
        out["differences"] = [
            {"key": d.first.key, "first": d.first.value, "second": d.second.value, "change": d.change, "verdict": d.verdict or None}
            for d in key.differences(recordeds[0], recordeds[1])
        ]
    return out


def _recording(recorded: Recorded) -> dict[str, Any]:
    return {
        "file": recorded.name,
        "summary": key.sentence(recorded),
        "length_s": recorded.length_s,
        "begin_s": recorded.begin_s,
        "exact": recorded.end.exactness.exact,
        "missing": list(recorded.info.missing),
        "figures": {figure.key: figure.value for figure in key.figures(recorded)},
        "begin": snapshot_to_json(recorded.begin),
        "end": snapshot_to_json(recorded.end),
        "points": [_point(point) for point in recorded.points],
    }


def _point(point: Point) -> dict[str, Any]:
    splits: dict[str, int] = {}
    for (_, cause), number in point.splits.items():
        splits[cause.value] = splits.get(cause.value, 0) + number
    present = point.present_bytes
    return {
        "time_s": point.time_s,
        "exact": point.exact,
        "present_bytes": None if present is None else {level.label: present[level] for level in LEVELS},
        "absent_bytes": point.absent_bytes,
        "splits_by_cause": splits,
        "splits_unexplained": point.unexplained,
        "cache_free_blocks": None if point.cache_free is None else list(point.cache_free),
        "events_lost": point.events_lost,
    }


def report_to_markdown(recordeds: Sequence[Recorded]) -> str:
    """The key figures, causes, stacks, audit and losses, as tables."""
    if len(recordeds) == 2:
        first, second = recordeds
        out = [f"# {_text(first.name)} and {_text(second.name)}", "", f"**{_text(key.comparison(first, second))}**", ""]
        rows = [(d.first.label, d.first.text, d.second.text, d.text, d.verdict) for d in key.differences(first, second)]
        out += _table(("", first.name, second.name, "change", ""), rows)
        level = 2
    else:
        out, level = [], 1
    for recorded in recordeds:
        out += _one(recorded, level, figures=len(recordeds) == 1)
    return "\n".join(out).rstrip() + "\n"


def _one(recorded: Recorded, level: int, *, figures: bool) -> list[str]:
    end = recorded.end
    state = "exact" if end.exactness.exact else "not exact: " + "; ".join(end.exactness.reasons)
    out = ["", f"{'#' * level} {_text(recorded.name)}", "", _text(key.sentence(recorded)), ""]
    facts = f"{words.host(end.host)}, Linux {end.host.kernel_release or 'unknown'}, {key.spoken(recorded.length_s)}"
    out += [_text(f"{facts}. State: {state}. {words.plural(end.loss.total, 'event')} lost."), ""]
    if figures:
        out += _table(("", ""), [(f.label, f.text) for f in key.figures(recorded) if f.value is not None])
    for title, lines in (
        ("Splits by cause", _splits(end)),
        ("Audit", _audit(end)),
        ("Missing", [f"- {_text(sentence)}" for sentence in recorded.info.missing]),
    ):
        if lines:
            out += ["", f"{'#' * (level + 1)} {title}", "", *lines]
    return out


def _splits(end: Snapshot) -> list[str]:
    """Splits by cause and the first rows of the ledger; empty where nothing was split."""
    rows = []
    for cause in Cause:
        numbers = [end.splits.by_cause.get((level, cause), 0) for level in (Level.M2, Level.G1)]
        if any(numbers):
            rows.append((cause.value, *map(words.number, numbers)))
    if not rows:
        return []
    stacks = [
        (
            words.number(row.count),
            words.LEVEL_WORDS[row.level],
            row.comm or str(row.tgid),
            " ← ".join(frame.split("+0x", 1)[0] for frame in row.stack[:6]) or "no stack",
        )
        for row in end.split_rows[:MAX_ROWS]
    ]
    return [*_table(("cause", "2M", "1G"), rows), "", *_table(("splits", "of", "process", "stack, innermost first"), stacks)]


def _audit(end: Snapshot) -> list[str]:
    """How many invariants were checked, and those that are broken; empty where none was checked."""
    broken = [row for row in end.audit if row.violated]
    nr_checked = sum(row.checked > 0 for row in end.audit)
    if not nr_checked:
        return []
    said = [f"{nr_checked} of {len(end.audit)} invariants were checked, {len(broken)} broken."]
    if not broken:
        return said
    rows = [(str(row.number), row.title, words.number(row.checked), words.number(row.violated)) for row in broken]
    return [*said, "", *_table(("", "invariant", "checked", "broken"), rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(_text(cell) for cell in head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]


def _text(said: str) -> str:
    """Names come from the traced host: what Markdown or HTML would take for markup is taken out of effect."""
    out = "".join(f"\\{c}" if c in "|\\`*[]" else c for c in plain(said))
    return out.replace("<", "&lt;").replace(">", "&gt;")
