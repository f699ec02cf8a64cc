# SPDX-License-Identifier: Apache-2.0
"""How a trial, or one run of it, can end."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class TrialStatus(IntEnum):
    """Exit status of ``uaptrace trial``; of several the first of WORST_FIRST."""

    OK = 0
    """Everything ran, nothing is broken, and no condition failed."""
    INVARIANT_BROKEN = 3
    PAGES_DIFFER = 5
    CONDITION_FAILED = 6
    KERNEL_FAILED = 7
    """A kernel did not boot, or crashed."""
    CANNOT_TRACE = 8
    """A kernel cannot be traced, or its state cannot be proven exact."""
    WORKLOAD_FAILED = 9
    TIMEOUT = 124


WORST_FIRST: Final = (
    TrialStatus.INVARIANT_BROKEN,
    TrialStatus.PAGES_DIFFER,
    TrialStatus.KERNEL_FAILED,
    TrialStatus.TIMEOUT,
    TrialStatus.CANNOT_TRACE,
    TrialStatus.WORKLOAD_FAILED,
    TrialStatus.CONDITION_FAILED,
)
"""A finding about a kernel comes before what only kept a run from its end."""
