# SPDX-License-Identifier: Apache-2.0
"""Holds the runs of one kernel against those of another. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from uaptrace.trial.measures import BY_CAUSE, Figure, Figures, described


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the runs of one kernel, of those that have it. All None where none has."""

    median: float | None
    low: float | None
    high: float | None
    nr_runs: int

    @property
    def is_range(self) -> bool:
        return self.low != self.high


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the baseline and of one candidate."""

    figure: Figure
    baseline: Spread
    candidate: Spread

    @property
    def difference(self) -> float | None:
        """Candidate minus baseline, of the medians; None where one is not known."""
        if self.baseline.median is None or self.candidate.median is None:
            return None
        return self.candidate.median - self.baseline.median

    @property
    def is_outside(self) -> bool | None:
        """Whether no run of one lies among the runs of the other. None where one of them ran once only, or is not known: then nobody
        can tell."""
        pair = (self.baseline, self.candidate)
        if any(spread.nr_runs < 2 or spread.low is None or spread.high is None for spread in pair):
            return None
        assert self.baseline.low is not None
        assert self.baseline.high is not None
        assert self.candidate.low is not None
        assert self.candidate.high is not None
        return self.candidate.low > self.baseline.high or self.candidate.high < self.baseline.low

    @property
    def is_better(self) -> bool | None:
        """Whether the candidate is better, beyond the spread of the runs. None: neither, or not known."""
        if self.difference is None or not self.difference or self.is_outside is not True or self.figure.lower_is_better is None:
            return None
        return (self.difference < 0) == self.figure.lower_is_better


def spread(values: Iterable[float | None]) -> Spread:
    """Of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return Spread(None, None, None, 0)
    return Spread(statistics.median(known), min(known), max(known), len(known))


def compare(baseline: Sequence[Figures], candidate: Sequence[Figures]) -> list[Row]:
    """A row for each figure that at least one run has."""
    names = {name for figures in (*baseline, *candidate) for name in figures}
    rows = []
    for figure in described(sorted(names)):
        # A cause that a run does not have has split nothing in it; any other figure that is missing is not known.
        missing = 0 if figure.name.startswith(BY_CAUSE) else None
        pair = [spread(figures.get(figure.name, missing) for figures in runs) for runs in (baseline, candidate)]
        if any(side.nr_runs for side in pair):
            rows.append(Row(figure, *pair))
    return rows
