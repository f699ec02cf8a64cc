# SPDX-License-Identifier: Apache-2.0
"""The page of an archive: many hosts over days, in the style of the report of one recording, by the same templates and script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from typing import Final

from markupsafe import Markup

from uaptrace.archive.answer import DAY_S, Answer
from uaptrace.model.snapshot import Cause
from uaptrace.reports import archive_text as text
from uaptrace.reports.page.flame import NO_STACK, graph_of
from uaptrace.reports.page.page import document
from uaptrace.reports.page.parts import ABSENT_COLOR, CAUSE_COLORS, Charts, Section
from uaptrace.reports.page.templating import render
from uaptrace.views import words

_OTHER_COLOR: Final = "#444444"
_NO_SPLITS: Final = "No large mapping was split."


def archive_page(answer: Answer, limit: int) -> str:
    """The page; ``limit``: rows of each table."""
    charts = Charts()

    def table(
        of: text.Table,
        chart: Markup | str = "",
        keys: Sequence[str] = (),
        none: str = _NO_SPLITS,
        text_columns: int = 1,
        most: int = limit,
    ) -> Markup:
        head, rows = of
        more = f"and {len(rows) - most:,} more (--limit)" if len(rows) > most else ""
        shown = rows[:most]
        return render(
            "archive_table",
            chart=chart,
            head=head,
            rows=shown,
            keys=keys[: len(shown)],
            text_columns=text_columns,
            more=more,
            sentence=none,
        )

    causes = table(text.causes_table(answer), _splits_over_days(answer, charts), [_key(row.cause) for row in answer.causes])
    complete = answer.stacks_complete
    flame = render("flame", **graph_of(_paths(answer))._asdict(), complete=complete, incomplete=_INCOMPLETE)
    sections = [
        Section("causes", "Splits by cause", _CAUSE_WORDS, [causes]),
        Section("kernels", "Kernels", _KERNEL_WORDS, [table(text.kernels_table(answer))]),
        Section("updates", "Kernel updates", _UPDATE_WORDS, [table(text.updates_table(answer), none="No host changed its kernel.")]),
        Section("hosts", "Hosts", _HOST_WORDS, [table(text.hosts_table(answer), _large_over_days(answer, charts), text_columns=2)]),
        Section("processes", "Processes", "", [table(text.processes_table(answer))]),
        Section("flame", "Who splits: stacks", _FLAME_WORDS, [flame]),
        Section("audit", "Audit", "", [table(text.audit_table(answer), none="No host has the unmapped cache.", most=len(answer.audit))]),
    ]
    title = words.clean(answer.place)
    return document(f"uaptrace: {title}", _header(answer), sections, [title], charts)


_CAUSE_WORDS: Final = "Each split turns one large mapping into 512 smaller ones. Share is of all splits; hosts are those with at least one."
_KERNEL_WORDS: Final = "Splits, and bytes of large mappings lost, are for one host and one day of 24 hours watched."
_UPDATE_WORDS: Final = (
    "Hosts that ran one kernel and then another: splits a day on one host before and after, and on how many hosts there are fewer or more."
)
_HOST_WORDS: Final = "Bytes that were in 2M and 1G mappings when a recording began and no longer when it ended. A reboot gives them back."
_FLAME_WORDS: Final = (
    "Width is the number of splits on all hosts. From the top: all, cause, then the kernel stack from the outermost function inwards, then "
    "the process. Click a frame to enlarge it, the top one to go back."
)
_INCOMPLETE: Final = "Some recordings kept only their 256 most frequent groups of splits; rarer ones are not in this graph."


def _header(answer: Answer) -> Markup:
    totals = answer.totals
    broken = sum(row.violated for row in answer.audit)
    lost = [row.lost_bytes for row in answer.hosts if row.lost_bytes is not None]
    tiles: list[dict[str, object]] = [
        {"text": words.number(totals.nr_hosts), "label": "hosts", "note": f"{words.number(totals.nr_host_days)} host-days", "alarm": False},
        {"text": words.number(answer.splits), "label": "large mappings split", "note": "", "alarm": False},
        {"text": text.signed_loss(sum(lost)) if lost else words.UNKNOWN, "label": "lost from large mappings", "note": "", "alarm": False},
        {"text": words.number(broken), "label": "broken invariants", "note": "", "alarm": bool(broken)},
    ]
    return render("archive_header", place=answer.place, said=text.totals_in_words(totals), sentence=_sentence(answer), tiles=tiles)


def _sentence(answer: Answer) -> str:
    """What matters most."""
    if not answer.splits:
        return _NO_SPLITS
    most = answer.causes[0]
    said = f"{words.percent(most.splits / answer.splits)} of {words.plural(answer.splits, 'split')} are by {most.cause}"
    said += f", on {words.plural(most.nr_hosts, 'host')}."
    if answer.updates:
        update = answer.updates[0]
        change = text.change_in_words(update)
        said += f" From {words.clean(update.before)} to {words.clean(update.after)} splits a day change by {change}."
    return said


def _known(cause: str) -> Cause | None:
    """None: ``unexplained``, or one that a newer uaptrace wrote."""
    return Cause(cause) if cause in set(Cause) else None


def _key(cause: str) -> str:
    return f"c-{cause}" if _known(cause) else ""


def _seconds(answer: Answer) -> list[float]:
    """Midnights of the days, and that after the last, so that it is as wide as the others."""
    at = [datetime.combine(row.day, time(), UTC).timestamp() for row in answer.days]
    return [*at, at[-1] + DAY_S]


def _splits_over_days(answer: Answer, charts: Charts) -> Markup:
    if not answer.splits:
        return Markup()
    series = []
    for row in answer.causes:
        cause = _known(row.cause)
        color = CAUSE_COLORS[cause] if cause else _OTHER_COLOR
        values = [float(day.splits.get(row.cause, 0)) for day in answer.days]
        series.append((row.cause, color, [*values, values[-1]]))
    return charts.add("Splits of each day, all hosts", _seconds(answer), series, "count", days=True)


def _large_over_days(answer: Answer, charts: Charts) -> Markup:
    small = [None if day.large_share is None else 1 - day.large_share for day in answer.days]
    if not any(small):
        return Markup()
    label = "Share of all direct maps that is not in large mappings"
    return charts.add(label, _seconds(answer), [("not in 2M and 1G mappings", ABSENT_COLOR, [*small, small[-1]])], "share", days=True)


def _paths(answer: Answer) -> list[tuple[tuple[str, ...], Cause | None, int]]:
    paths = []
    for row in answer.stacks:
        process = f"{row.comm or 'process'} · {row.level.upper()}"
        paths.append(((row.cause, *(row.stack or (NO_STACK,)), process), _known(row.cause), row.splits))
    return paths
