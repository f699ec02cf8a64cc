# SPDX-License-Identifier: Apache-2.0
"""A trial of kernels that one host boots itself: the runs of each kernel in DIR/NAME, and all of them joined.

DIR/NAME is a trial's folder (boot.py) whose plan has one kernel. When its plan was written says which kernel was first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import UsageError
from uaptrace.trial.runs import PLAN, Run, file_name, folder_of, read_run
from uaptrace.trial.trial_plan import Kernel, Plan, Workload, plan_from_json

_SAME: Final = ("workloads", "repeat", "seed")
"""What the plans of kernels that are compared have in common."""


def plan_here(label: str, workloads: tuple[Workload, ...], repeat: int, seed: int, timeout_s: float) -> Plan:
    """For the kernel that runs now."""
    return Plan(
        (Kernel(label, None, None, ""),), workloads, repeat, seed, _memory(), os.cpu_count() or 1, timeout_s, count_instructions=False
    )


def folder_here(folder: Path, label: str) -> Path:
    """Where the runs of the kernel with that label are."""
    return folder / file_name(label)


def join(folder: Path, labels: Sequence[str]) -> tuple[Plan, list[Run]]:
    """All kernels of the folder as one trial, in the order in which their runs were begun, or that of ``labels``: the first is the
    baseline. UsageError where there are not two, or they were not given the same work."""
    plans = _chosen(_plans(folder), labels, folder)
    if len(plans) < 2:
        raise UsageError(
            f"{folder} has runs of {len(plans)} kernels: boot another one, and run uaptrace trial --here NAME -o {folder} there"
        )
    first = next(iter(plans.values()))
    for label, plan in plans.items():
        differing = [name for name in _SAME if plan[name] != first[name]]
        if differing:
            raise UsageError(f"{label} was given other {differing[0]} than {first['kernels'][0]}: only runs of the same work are compared")
    whole = replace(plan_from_json(first), kernels=tuple(Kernel(label, None, None, "") for label in plans))
    runs = []
    for number, kernel in enumerate(whole.kernels):
        for repetition in range(whole.repeat):
            run_folder = folder_of(folder_here(folder, kernel.label), repetition, kernel)
            if run_folder.exists():
                runs.append(read_run(kernel, run_folder, number, repetition))
    return whole, runs


def _chosen(plans: dict[str, dict[str, Any]], labels: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Those with these labels, in their order; all where there are no labels."""
    missing = [label for label in labels if label not in plans]
    if missing:
        raise UsageError(f"{folder} has no runs of {missing[0]} (it has {', '.join(plans) or 'none'})")
    return {label: plans[label] for label in labels} if labels else plans


def _plans(folder: Path) -> dict[str, dict[str, Any]]:
    """By label, those begun first first."""
    found = []
    for path in folder.glob(f"*/{PLAN}"):
        try:
            plan = json.loads(path.read_text())
            (label,) = plan["kernels"]
            plan_from_json(plan)
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{path} is not a plan of runs on a host") from None
        found.append((path.stat().st_mtime_ns, str(label), plan))
    return {label: plan for _, label, plan in sorted(found, key=lambda one: one[:2])}


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.1f} GiB"
