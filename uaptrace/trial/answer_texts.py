# SPDX-License-Identifier: Apache-2.0
"""The answer of a trial as text for mail (72 columns), as Markdown, and as JSON. Pure."""

from __future__ import annotations

import textwrap
from typing import Any, Final

from uaptrace import __version__
from uaptrace.process.plain import plain
from uaptrace.trial.judgement import Row, Spread
from uaptrace.trial.outcome import KernelOutcome, Outcome
from uaptrace.trial.trial_plan import Plan

SCHEMA: Final = 1
COLUMNS: Final = 72
_TEXT, _VALUE, _DIFFERENCE = 32, 13, 14
_NOTE: Final = (
    "Medians, and from lowest to highest where the runs of a kernel differ. * = the runs of the two kernels do not overlap; "
    "? = one run only, so that is not known."
)
_UNKNOWN: Final = "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}".rstrip("0").rstrip(".")


def _value(spread: Spread) -> str:
    return _UNKNOWN if spread.median is None else _number(spread.median)


def _range(spread: Spread) -> str:
    if spread.low is None or spread.high is None or not spread.is_range:
        return ""
    return f"{_number(spread.low)}..{_number(spread.high)}"


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    mark = {True: "*", False: "", None: "?"}[row.is_outside] if row.difference else ""
    if not row.difference:
        return "0"
    if row.baseline.median:
        return f"{row.difference / row.baseline.median:+.1%}{mark}"
    return f"{'+' if row.difference > 0 else '-'}{_number(abs(row.difference))}{mark}"


def conditions_of(plan: Plan) -> list[tuple[str, str]]:
    """(what, value) of what the runs have in common."""
    counted = "counted (QEMU -icount)" if plan.count_instructions else "not counted"
    here = plan.kernels[0].is_here
    machine = "this host" if here else "QEMU"
    order = "" if here else ", forwards and backwards in turn"
    return [
        ("work", "; ".join(work.label for work in plan.workloads)),
        ("runs", f"{plan.repeat} of each kernel{order}, seed {plan.seed}"),
        ("machine", f"{machine}, {plan.memory} of memory, {plan.cpus} CPUs; instructions {counted}"),
        ("tool", f"uaptrace {__version__}: all events from before the work to after it, audit, verify"),
    ]


def to_text(outcome: Outcome) -> str:
    """The mail: no line is longer than COLUMNS."""
    lines: list[str] = []
    for what, value in conditions_of(outcome.plan):
        lines += _wrapped(f"{what:<8} ", value)
    for kernel in outcome.kernels:
        what = "baseline" if kernel is outcome.kernels[0] else "kernel"
        release = f" ({', '.join(kernel.releases)})" if kernel.releases else ""
        lines += _wrapped(f"{what:<8} ", f"{kernel.label}{release}")
    for kernel in outcome.kernels[1:]:
        lines += ["", *_table(outcome.kernels[0], kernel)]
    lines += ["", *_wrapped("", _NOTE), ""]
    for kernel in outcome.kernels:
        lines.append(_cut(f"{kernel.label}:"))
        for check in kernel.checks:
            lines += _wrapped("  FAILED " if check.problem else "  ok     ", check.title + (f": {check.problem}" if check.problem else ""))
    if not outcome.is_whole:
        lines += ["", "Not every run was made: uaptrace trial --resume goes on with it."]
    return "\n".join(lines) + "\n"


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(plain(text), COLUMNS, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def _cut(text: str) -> str:
    text = plain(text)
    return text if len(text) <= COLUMNS else text[: COLUMNS - 3] + "..."


def _short(label: str) -> str:
    label = plain(label)
    # Of two kernels that differ by an argument, the end tells which is which.
    return label if len(label) < _VALUE else ".." + label[3 - _VALUE :]


def _table(baseline: KernelOutcome, kernel: KernelOutcome) -> list[str]:
    if not kernel.rows:
        return [_cut(f"{kernel.label}: no run gave figures")]
    head = f"{'':<{_TEXT}}{_short(baseline.label):>{_VALUE}}{_short(kernel.label):>{_VALUE}}{'difference':>{_DIFFERENCE}}"
    lines = [head, "-" * COLUMNS]
    for row in kernel.rows:
        values = f"{_value(row.baseline):>{_VALUE}}{_value(row.candidate):>{_VALUE}}{_difference(row):>{_DIFFERENCE}}"
        lines.append(f"{row.figure.text:<{_TEXT}}{values}".rstrip())
        ranges = [_range(row.baseline), _range(row.candidate)]
        if any(ranges):
            wide = max(map(len, ranges)) >= _VALUE
            lines += (
                [f"{'':<4}{'  and  '.join(filter(None, ranges))}".rstrip()]
                if wide
                else [f"{'':<{_TEXT}}{ranges[0]:>{_VALUE}}{ranges[1]:>{_VALUE}}".rstrip()]
            )
    return lines


def to_markdown(outcome: Outcome) -> str:
    """The same for a web page or a merge request."""
    lines = [f"- {what}: {_escaped(value)}" for what, value in conditions_of(outcome.plan)]
    baseline = outcome.kernels[0]
    for kernel in outcome.kernels[1:]:
        lines += ["", f"| | {_escaped(baseline.label)} | {_escaped(kernel.label)} | difference |", "|---|--:|--:|--:|"]
        for row in kernel.rows:
            cells = [f"{_value(side)}{f' ({_range(side)})' if _range(side) else ''}" for side in (row.baseline, row.candidate)]
            lines.append(f"| {row.figure.text.strip()} | {cells[0]} | {cells[1]} | {_escaped(_difference(row))} |")
    lines += ["", _NOTE.replace("*", "\\*"), ""]
    for kernel in outcome.kernels:
        for check in kernel.checks:
            problem = f": {_escaped(check.problem)}" if check.problem else ""
            lines.append(f"- {'**failed**' if check.problem else 'ok'}: {_escaped(kernel.label)}: {_escaped(check.title)}{problem}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(f"\\{char}" if char in "|*_`<>\\" else char for char in plain(text))


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values; docs/trial.md has the fields."""
    return {
        "schema": SCHEMA,
        "uaptrace": __version__,
        "plan": outcome.plan.to_json(),
        "status": int(outcome.status),
        "is_whole": outcome.is_whole,
        "kernels": [
            {
                "label": kernel.label,
                "releases": list(kernel.releases),
                "nr_runs": kernel.nr_runs,
                "checks": [{"title": check.title, "ok": not check.problem, "problem": check.problem} for check in kernel.checks],
                "figures": {row.figure.name: _row_to_json(row) for row in kernel.rows},
            }
            for kernel in outcome.kernels
        ],
    }


def _row_to_json(row: Row) -> dict[str, Any]:
    sides = {name: {"median": side.median, "low": side.low, "high": side.high, "nr_runs": side.nr_runs}
             for name, side in (("baseline", row.baseline), ("candidate", row.candidate))}  # fmt: skip
    return {
        "text": row.figure.text.strip(),
        **sides,
        "difference": row.difference,
        "is_outside_spread": row.is_outside,
        "is_better": row.is_better,
    }
