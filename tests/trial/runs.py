# SPDX-License-Identifier: Apache-2.0
"""What two real kernels left of a trial (tests/data/trial, with the command), and outcomes made of it."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uaptrace.trial.conditions import Condition
from uaptrace.trial.outcome import Ended, Outcome, judge
from uaptrace.trial.trial_plan import Kernel, Plan, Workload

FOLDER = Path(__file__).parents[1] / "data/trial"
LABELS = ("debian-6.1", "patched")
RUNS = ("1-debian-6.1", "2-patched", "3-patched", "4-debian-6.1")
"""In the order in which they ran."""


def plan(repeat: int = 2) -> Plan:
    kernels = tuple(Kernel(label, label, None, "") for label in LABELS)
    return Plan(kernels, (Workload("secretmem:pages=4096", ("kernel/workload", "secretmem")),), repeat, 1, "2G", 2, 900.0, False)


@functools.cache
def _result(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def ended() -> list[Ended]:
    """All four, each with a document of its own that a test may change."""
    return [Ended(LABELS.index(name.partition("-")[2]), copy.deepcopy(_result(name))) for name in RUNS]


def outcome(runs: Sequence[Ended] | None = None, conditions: Sequence[Condition] = ()) -> Outcome:
    return judge(plan(), ended() if runs is None else runs, conditions)
