# SPDX-License-Identifier: Apache-2.0
"""What a trial comes to: for each kernel what was checked, for each candidate the rows of its table, and one status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from uaptrace.trial.conditions import Condition
from uaptrace.trial.judgement import Row, compare
from uaptrace.trial.status import WORST_FIRST, TrialStatus
from uaptrace.trial.trial_plan import Plan


@dataclass(frozen=True, slots=True)
class Ended:
    """One run: the kernel's number, and the guest's document, or why there is none."""

    kernel: int
    result: Mapping[str, Any] | None
    error: str = ""
    status: TrialStatus = TrialStatus.OK


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was to be true of a kernel. ``problem`` is empty where it is."""

    title: str
    problem: str
    status: TrialStatus
    """Of the trial, where there is a problem."""


@dataclass(frozen=True, slots=True)
class KernelOutcome:
    """Of one kernel. ``rows`` compare it with the baseline; the baseline itself has none."""

    label: str
    releases: tuple[str, ...]
    """What ``uname -r`` said."""
    nr_runs: int
    """That ended with a result."""
    checks: tuple[Check, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the trial. ``is_whole``: every run of the plan was made."""

    plan: Plan
    kernels: tuple[KernelOutcome, ...]
    is_whole: bool

    @property
    def status(self) -> TrialStatus:
        found = {check.status for kernel in self.kernels for check in kernel.checks if check.problem}
        return next((status for status in WORST_FIRST if status in found), TrialStatus.OK)


def judge(plan: Plan, runs: Sequence[Ended], conditions: Sequence[Condition]) -> Outcome:
    """What the runs come to."""
    by_kernel = [[run for run in runs if run.kernel == number] for number in range(len(plan.kernels))]
    figures = [[run.result["figures"] for run in mine if run.result is not None] for mine in by_kernel]
    outcomes = []
    for number, (kernel, mine) in enumerate(zip(plan.kernels, by_kernel, strict=True)):
        results = [run.result for run in mine if run.result is not None]
        rows = tuple(compare(figures[0], figures[number])) if number else ()
        checks = [*_checks(mine, results, plan), *(_conditions(rows, conditions) if number else ())]
        releases = tuple(sorted({result["kernel_release"] for result in results}))
        outcomes.append(KernelOutcome(kernel.label, releases, len(results), tuple(checks), rows))
    return Outcome(plan, tuple(outcomes), len(runs) == len(plan.runs()))


def _checks(runs: Sequence[Ended], results: Sequence[Mapping[str, Any]], plan: Plan) -> Iterator[Check]:
    failed = [run for run in runs if run.result is None]
    yield Check(
        f"{len(runs)} of {plan.repeat} runs were made, each to its end",
        "; ".join(dict.fromkeys(run.error for run in failed)),
        next((status for status in WORST_FIRST if status in {run.status for run in failed}), TrialStatus.KERNEL_FAILED),
    )
    if not results:
        return
    yield Check("no invariant of the unmapped cache is broken", _broken(results), TrialStatus.INVARIANT_BROKEN)
    yield Check("no page differs from an independent reading", _differing(results), TrialStatus.PAGES_DIFFER)
    doubts = dict.fromkeys(doubt for result in results for doubt in result["doubts"])
    yield Check("that is proven: every hook is attached, and the state is exact", "; ".join(doubts), TrialStatus.CANNOT_TRACE)


def _broken(results: Sequence[Mapping[str, Any]]) -> str:
    found: dict[int, tuple[str, int]] = {}
    for result in results:
        for row in result["audit"]["invariants"]:
            if row["violated"]:
                number = row["number"]
                found[number] = (row["title"], found.get(number, ("", 0))[1] + row["violated"])
    return "; ".join(f"invariant {number} ({title}) is broken {times} times" for number, (title, times) in sorted(found.items()))


def _differing(results: Sequence[Mapping[str, Any]]) -> str:
    found: dict[str, int] = {}
    for result in results:
        for verdict in result["verify"]:
            found[verdict["oracle"]] = found.get(verdict["oracle"], 0) + verdict["differing_pages"]
    return "; ".join(f"{pages} pages differ from {oracle}" for oracle, pages in found.items() if pages)


def _conditions(rows: Sequence[Row], conditions: Sequence[Condition]) -> Iterator[Check]:
    by_name = {row.figure.name: row for row in rows}
    for condition in conditions:
        row = by_name.get(condition.name)
        problem = ""
        if condition.fails(row):
            problem = f"it is {'not known' if row is None or row.candidate.median is None else f'{row.candidate.median:g}'}"
            if row is not None and row.baseline.median is not None:
                problem += f", and of the baseline {row.baseline.median:g}"
        yield Check(f"not: {condition.text}", problem, TrialStatus.CONDITION_FAILED)
