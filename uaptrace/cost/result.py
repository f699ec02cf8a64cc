# SPDX-License-Identifier: Apache-2.0
"""What the times say: the difference of each round, and whether it is larger than its own spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import Level

LOW_PERCENT: Final = 10
HIGH_PERCENT: Final = 90
"""The middle of the rounds that counts as their spread: an interrupt in a round is no cost of its mapping."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of a figure over the rounds, and where the middle 80% of them lie. Nanoseconds a read."""

    median_ns: float
    low_ns: float
    high_ns: float

    @property
    def width_ns(self) -> float:
        """Between the two ends."""
        return self.high_ns - self.low_ns


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which it was measured."""

    processor: str
    virtual: bool
    """In a virtual machine: a walk goes through two sets of page tables."""
    emulated: bool
    """The processor itself is a program: what is timed are its look-ups."""
    cpu: int
    nr_rounds: int
    nr_pages: int
    """Read in a round, at each level."""
    nr_regions: Mapping[Level, int]
    """2M regions of the direct map by level."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured. ``reads`` and ``added`` are by level; ``added``: to a read in a 2M mapping, or in a 1G one without those."""

    conditions: Conditions
    reads: Mapping[Level, Spread]
    added: Mapping[Level, Spread]
    reference: Level | None
    doubt: str
    """Why nothing can be concluded; empty where the difference stands."""

    def to_json(self) -> dict[str, Any]:
        """Times in nanoseconds a read, by level (``1g``, ``2m``, ``4k``)."""
        conditions = self.conditions
        return {
            "conclusive": not self.doubt,
            "doubt": self.doubt,
            "processor": conditions.processor,
            "virtual": conditions.virtual,
            "emulated": conditions.emulated,
            "cpu": conditions.cpu,
            "rounds": conditions.nr_rounds,
            "nr_pages": conditions.nr_pages,
            "regions": {level.label: nr for level, nr in conditions.nr_regions.items()},
            "read_ns": {level.label: _spread_json(spread) for level, spread in self.reads.items()},
            "reference": self.reference.label if self.reference else None,
            "added_ns": {level.label: _spread_json(spread) for level, spread in self.added.items()},
        }


def conclude(conditions: Conditions, rounds: Mapping[Level, Sequence[float] | NDArray[np.float64]], doubt: str = "") -> Cost:
    """``rounds``: by level, the nanoseconds a read of each round, in the same order. ``doubt``: what is known to be wrong already."""
    times = {level: np.asarray(values, np.float64) for level, values in rounds.items()}
    reference = next((level for level in (Level.M2, Level.G1) if level in times), None)
    added = {} if reference is None else {level: _spread(times[level] - times[reference]) for level in times if level is not reference}
    reads = {level: _spread(values) for level, values in times.items()}
    return Cost(conditions, reads, added, reference, doubt or _doubt(conditions, added.get(Level.K4)))


def _doubt(conditions: Conditions, split: Spread | None) -> str:
    if split is None:
        return "there is nothing to compare"
    if conditions.emulated:
        return f"the processor is emulated ({conditions.processor}): these are times of the emulator, not of page walks"
    if split.width_ns >= abs(split.median_ns):
        return f"the rounds differ by {split.width_ns:.1f} ns, which is not less than the difference of {split.median_ns:.1f} ns"
    return ""


def _spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = np.percentile(values, (LOW_PERCENT, 50, HIGH_PERCENT))
    return Spread(float(median), float(low), float(high))


def _spread_json(spread: Spread) -> dict[str, float]:
    return {"median": round(spread.median_ns, 2), "p10": round(spread.low_ns, 2), "p90": round(spread.high_ns, 2)}
