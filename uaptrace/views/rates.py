# SPDX-License-Identifier: Apache-2.0
"""Rates per second out of two snapshots, and the short history that sparklines show."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

from uaptrace.abi.units import Level
from uaptrace.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over ``interval_s``. None: not known (no such counter, no such cache, or the counter began anew)."""

    interval_s: float
    allocations: float | None
    hits: float | None
    refills: float | None
    frees: float | None
    releases: float | None
    splits_2m: float | None
    splits_1g: float | None
    set_invalid: float | None
    set_default: float | None
    cpa: float | None
    shrinker_runs: float | None
    events: float | None

    def as_dict(self) -> dict[str, float | None]:
        """By name, ``interval_s`` left out."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "interval_s"}

    @property
    def splits(self) -> float | None:
        """Splits of both levels."""
        return _plus(self.splits_2m, self.splits_1g)

    @property
    def set_direct_map(self) -> float | None:
        """set_direct_map calls of both directions."""
        return _plus(self.set_invalid, self.set_default)


def totals(snapshot: Snapshot) -> dict[str, int | None]:
    """The cumulative counts that rates are differences of, under the names of Rates."""
    cache = snapshot.cache
    return {
        "allocations": _calls(snapshot, "cache_alloc"),
        "hits": cache.hits if cache else None,
        "refills": cache.refills if cache else None,
        "frees": _calls(snapshot, "cache_free"),
        "releases": _calls(snapshot, "cache_release"),
        "splits_2m": snapshot.splits.by_level(Level.M2),
        "splits_1g": snapshot.splits.by_level(Level.G1),
        "set_invalid": _calls(snapshot, "set_invalid"),
        "set_default": _calls(snapshot, "set_default"),
        "cpa": _calls(snapshot, "cpa"),
        "shrinker_runs": snapshot.shrinker.runs if snapshot.shrinker else None,
        "events": snapshot.loss.events_taken,
    }


@dataclass(frozen=True, slots=True)
class Moment:
    """What rates need of a snapshot, so that no whole snapshot has to be kept."""

    time_ns: int
    tracing: tuple[int, str]
    """Start of tracing and boot: counts of different ones do not compare."""
    totals: Mapping[str, int | None]


def moment(snapshot: Snapshot) -> Moment:
    """The moment of a snapshot."""
    return Moment(snapshot.time_ns, (snapshot.start_time_ns, snapshot.host.boot_id), totals(snapshot))


def rates_between(earlier: Snapshot | None, later: Snapshot) -> Rates | None:
    """Rates from ``earlier`` to ``later``.

    None where they are not two moments, in order, of one tracing (first snapshot, a step back in a replay, another boot).
    """
    return _rates(moment(earlier), moment(later)) if earlier is not None else None


def _rates(earlier: Moment, later: Moment) -> Rates | None:
    if later.time_ns <= earlier.time_ns or earlier.tracing != later.tracing:
        return None
    interval_s = (later.time_ns - earlier.time_ns) / 1e9
    return Rates(interval_s, **{name: _rate(earlier.totals[name], value, interval_s) for name, value in later.totals.items()})


@dataclass(frozen=True, slots=True)
class Sample:
    """What the history keeps of one snapshot."""

    moment: Moment
    large_share: float | None
    absent_bytes: int
    rates: Rates | None

    @property
    def time_ns(self) -> int:
        return self.moment.time_ns


class History:
    """The newest samples, oldest first; a step back in time forgets what is later."""

    def __init__(self, capacity: int = 240) -> None:
        self._samples: deque[Sample] = deque(maxlen=capacity)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)

    @property
    def rates(self) -> Rates | None:
        """Of the newest interval."""
        return self._samples[-1].rates if self._samples else None

    def add(self, snapshot: Snapshot) -> Rates | None:
        """Takes a new snapshot in; returns the rates since the one before it."""
        now = moment(snapshot)
        if self._samples and self._samples[-1].moment.tracing != now.tracing:
            self._samples.clear()
        while self._samples and self._samples[-1].time_ns >= now.time_ns:
            self._samples.pop()
        rates = _rates(self._samples[-1].moment, now) if self._samples else None
        view = snapshot.direct_map
        self._samples.append(Sample(now, view.large_share, view.absent_bytes, rates))
        return rates


def _calls(snapshot: Snapshot, name: str) -> int | None:
    operation = snapshot.operations.get(name)
    return operation.calls if operation is not None else None


def _rate(before: int | None, after: int | None, interval_s: float) -> float | None:
    if before is None or after is None or after < before:
        return None
    return (after - before) / interval_s


def _plus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right
