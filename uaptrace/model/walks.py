# SPDX-License-Identifier: Apache-2.0
"""Walks of page tables as the processor counts them, and what a counter says that shares its hardware with others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """What the kernel says of one counter: events, and for how long it was enabled and really counted."""

    value: int
    enabled_ns: int
    running_ns: int


class ScaledCount:
    """The total of a counter that counts only part of the time: each stretch counts for as long as it was enabled.

    It never goes down, as the kernel's own figure times enabled by running may.
    """

    def __init__(self) -> None:
        self.total = 0
        self._last = Count(0, 0, 0)

    def take(self, count: Count) -> None:
        """A later reading. Where nothing was counted since the one before, the next one speaks for that time too."""
        running_ns = count.running_ns - self._last.running_ns
        if running_ns <= 0:
            return
        self.total += (count.value - self._last.value) * (count.enabled_ns - self._last.enabled_ns) // running_ns
        self._last = count


@dataclass(frozen=True, slots=True)
class WalkCounts:
    """In kernel mode, on all CPUs that are counted, since counting began. ``walks`` are those for data."""

    cycles: int
    walks: int
    walk_cycles: int | None
    """In which at least one walk for a load, and one for a store, was going on; None where the processor does not count them."""
    nr_cpus: int
    counted_share: float
    """Of the time that the counters were to count, the part in which they did; the rest is estimated from it."""

    @property
    def walk_share(self) -> float | None:
        """Cycles of walks in cycles; a cycle with a load's walk and a store's counts twice. None where one is not known."""
        return None if self.walk_cycles is None or not self.cycles else self.walk_cycles / self.cycles
