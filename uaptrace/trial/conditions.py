# SPDX-License-Identifier: Apache-2.0
"""Conditions on figures, as ``--fail-if`` takes them: ``splits.2m > baseline * 1.1``. Pure."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from uaptrace.abi.errors import UsageError
from uaptrace.model.snapshot import Cause
from uaptrace.trial.judgement import Row
from uaptrace.trial.measures import BY_CAUSE, FIGURES

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_CHANGE: Final[Mapping[str, Callable[[float, float], float]]] = {"*": operator.mul, "+": operator.add, "-": operator.sub}
_NUMBER: Final = r"\d+(?:\.\d+)?"
_FORM: Final = re.compile(
    rf"\s*(?P<name>[a-z][a-z0-9_.]*)\s*(?P<compare>>=|<=|==|!=|>|<)\s*"
    rf"(?:(?P<number>{_NUMBER})|baseline(?:\s*(?P<change>[*+-])\s*(?P<by>{_NUMBER}))?)\s*",
    re.ASCII,
)
NAMES: Final = tuple([figure.name for figure in FIGURES] + [f"{BY_CAUSE}{cause.value}" for cause in Cause])


@dataclass(frozen=True, slots=True)
class Condition:
    """A trial fails if it is true of a candidate. ``number`` is what the figure is compared with; None: with the baseline, changed by
    ``change`` and ``by``."""

    text: str
    name: str
    compare: str
    number: float | None
    change: str = "*"
    by: float = 1.0

    def fails(self, row: Row | None) -> bool:
        """Whether it is true of the medians. What is not known fails too: nothing was shown then."""
        if row is None or row.candidate.median is None:
            return True
        limit = self.number
        if limit is None:
            if row.baseline.median is None:
                return True
            limit = _CHANGE[self.change](row.baseline.median, self.by)
        return _COMPARE[self.compare](row.candidate.median, limit)


def parse_condition(text: str) -> Condition:
    """``FIGURE COMPARISON NUMBER``, or ``FIGURE COMPARISON baseline`` with ``* + -`` and a number after it. UsageError names what is
    wrong."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"not a condition: {text!r} (such as 'splits.2m > baseline * 1.1', or 'events.lost > 0')")
    if match["name"] not in NAMES:
        raise UsageError(f"no such figure: {match['name']} (there are {', '.join(NAMES)})")
    number = None if match["number"] is None else float(match["number"])
    by = float(match["by"] or 1)
    if not math.isfinite(by) or not math.isfinite(number or 0):
        raise UsageError(f"a number is too large: {text!r}")
    return Condition(text.strip(), match["name"], match["compare"], number, match["change"] or "*", by)
