# SPDX-License-Identifier: Apache-2.0
"""A row of bench/results.json, and the table made of all of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """``at_least`` or ``at_most`` a number."""

    number: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.number if self.at_least else value <= self.number

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.number:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """``value`` is the median of what was measured, in ``unit``; None where it could not be measured, and ``note`` says why."""

    name: str
    value: float | None
    unit: str
    min: float | None = None
    median: float | None = None
    max: float | None = None
    compared_with: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""


def row(name: str, values: Sequence[float], unit: str, *, compared_with: str = "", goal: Goal | None = None, note: str = "") -> Row:
    """A row out of measurements."""
    median = statistics.median(values)
    return Row(
        name,
        _short(median),
        unit,
        _short(min(values)),
        _short(median),
        _short(max(values)),
        compared_with,
        str(goal) if goal else "",
        goal.met(median) if goal else None,
        note,
    )


def not_measured(name: str, unit: str, why: str, goal: Goal | None = None) -> Row:
    """A row that says why there is no figure."""
    return Row(name, None, unit, goal=str(goal) if goal else "", note=why)


def emit(rows: Iterable[Row]) -> None:
    """One line of JSON for each row on standard output: what ``python -m bench`` gathers."""
    for one in rows:
        print(json.dumps(asdict(one)), flush=True)


def cpu_time_s(work: Callable[[], object]) -> float:
    """CPU time that the work took in this thread: what others do on a shared machine does not count."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def machine() -> dict[str, object]:
    """Where it was measured: facts that change figures, none that name the machine."""
    model = ""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return {
        "cpu": model,
        "nr_cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows for people: name, value with its range, goal, and whether it is met."""
    cells = [("name", "value", "min", "max", "unit", "goal", "met")]
    for one in rows:
        met = {True: "yes", False: "NO", None: ""}[one.met]
        cells.append((one.name, _text(one.value), _text(one.min), _text(one.max), one.unit, one.goal, met))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for n, line in enumerate(cells):
        parts = [
            text.rjust(width) if i in (1, 2, 3) else text.ljust(width) for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
        if n == 0:
            lines.append("  ".join("-" * width for width in widths))
    notes = [f"{one.name}: {one.note}" for one in rows if one.note]
    return "\n".join([*lines, "", *notes])


def _short(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 10000:
        return f"{value:,.0f}"
    return f"{value:g}"
