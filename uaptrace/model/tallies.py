# SPDX-License-Identifier: Apache-2.0
"""How often things happened: the kernel's own counters as they were last read, and before the first reading what records tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from uaptrace.abi.events import HISTOGRAM_BUCKETS, SCALAR_COUNTERS, Counter, HistogramId, Kind
from uaptrace.abi.hooks import HOOKS, counted_alone
from uaptrace.abi.units import NR_ORDERS

from .columns import Columns, Ints
from .hook_status import HookStatus, attached_labels
from .snapshot import Histogram, OperationView, ShrinkerView
from .updates import CountersReading

_BY_RECORDS: Final = {
    Counter.REQUEST: Kind.REQUEST,
    Counter.CACHE_ALLOC: Kind.ALLOC,
    Counter.CACHE_REFILL: Kind.REFILL,
    Counter.CACHE_REFILL_UNDONE: Kind.REFILL_UNDONE,
    Counter.CACHE_FREE: Kind.FREE,
    Counter.CACHE_RELEASE: Kind.RELEASE,
    Counter.SHRINK_SCAN: Kind.SHRINK,
}
"""Counters that are a number of records, as long as the counters themselves have not been read."""

_ORDERS_BY_RECORDS: Final = {Counter.ALLOC_ORDER: Kind.ALLOC, Counter.FREE_ORDER: Kind.FREE}
"""The same for counters by order."""


class Tallies:
    """``by_order``: records of the cache by kind and order, which are counted elsewhere."""

    def __init__(self, hooks: tuple[HookStatus, ...], by_order: Mapping[int, Ints]) -> None:
        self.taken: Ints = np.zeros(256, np.int64)
        """Records by kind."""
        self.unknown_kinds = 0
        self._by_order = by_order
        self._words: Ints | None = None
        self._not_counted = _not_counted(hooks)

    def apply(self, columns: Columns) -> None:
        """Take in a chunk of records."""
        self.taken += columns.counts
        self.unknown_kinds += columns.unknown_kinds

    def take(self, reading: CountersReading) -> None:
        """No count falls: not below an earlier reading, nor below the records that were counted before the first one."""
        words = reading.words.astype(np.int64)
        if self._words is None:
            self._words = np.zeros(len(words), np.int64)
            for counter, kind in _BY_RECORDS.items():
                self._words[counter] = self.taken[kind]
            for counter, kind in _ORDERS_BY_RECORDS.items():
                self._words[counter : counter + NR_ORDERS] = self._by_order[kind]
        self._words = np.maximum(self._words, words)

    def count(self, counter: Counter) -> int:
        """The kernel's count of every call; of records, as long as it has not been read."""
        if self._words is not None:
            return int(self._words[counter])
        kind = _BY_RECORDS.get(counter)
        return int(self.taken[kind]) if kind is not None else 0

    def count_by_order(self, counter: Counter) -> tuple[int, ...]:
        """The same for one that is kept by order; ``counter`` is the word of order 0."""
        if self._words is not None:
            return tuple(self._words[counter : counter + NR_ORDERS].tolist())
        return tuple(self._by_order[_ORDERS_BY_RECORDS[counter]].tolist())

    def histogram(self, histogram: HistogramId) -> Histogram:
        """Durations in nanoseconds, empty as long as they have not been read."""
        if self._words is None:
            return Histogram()
        first = Counter.HISTOGRAM + HISTOGRAM_BUCKETS * histogram
        return Histogram(
            tuple(self._words[first : first + HISTOGRAM_BUCKETS].tolist()), int(self._words[Counter.HISTOGRAM_SUM + histogram])
        )

    def operations(self) -> dict[str, OperationView]:
        """Calls, and those that failed, by name."""
        return {
            name: OperationView(self.count(calls), self.count(failed) if failed is not None else 0)
            for name, calls, failed in (
                ("set_invalid", Counter.SET_INVALID, Counter.SET_INVALID_FAILED),
                ("set_default", Counter.SET_DEFAULT, Counter.SET_DEFAULT_FAILED),
                ("cpa", Counter.CPA, Counter.CPA_FAILED),
                ("cache_alloc", Counter.CACHE_ALLOC, Counter.CACHE_ALLOC_FAILED),
                ("cache_free", Counter.CACHE_FREE, None),
                ("cache_release", Counter.CACHE_RELEASE, None),
                ("cache_refill", Counter.CACHE_REFILL, Counter.CACHE_REFILL_UNDONE),
            )
        }

    def latency(self) -> dict[str, Histogram]:
        """All histograms by name."""
        return {h.name.lower(): self.histogram(h) for h in HistogramId}

    def counters(self) -> dict[str, int]:
        """All scalar counters that something counts, by name."""
        return {c.name.lower(): self.count(c) for c in SCALAR_COUNTERS if c not in self._not_counted}

    def shrinker(self) -> ShrinkerView:
        """What the shrinker did."""
        return ShrinkerView(
            runs=self.count(Counter.SHRINK_SCAN),
            counts=self.count(Counter.SHRINK_COUNT),
            asked_pages=self.count(Counter.SHRINK_ASKED_PAGES),
            released_pages=self.count(Counter.SHRINK_RELEASED_PAGES),
        )


def _not_counted(hooks: tuple[HookStatus, ...]) -> frozenset[Counter]:
    """Counters that nothing counts: their zero would be no figure."""
    if not hooks:
        return frozenset()  # not known: an input that does not say what was attached
    return counted_alone({hook.label for hook in HOOKS}) - counted_alone(attached_labels(hooks))
