# SPDX-License-Identifier: Apache-2.0
"""Regions that are marked with a time: nothing is known of them since."""

from __future__ import annotations

import numpy as np

from uaptrace.abi.units import REGIONS_PER_1G

from .columns import Ints
from .region_pages import grown


class Marks:
    """The latest time of each region, 0 where it is not marked. It takes room for the regions up to the last one that ever was."""

    def __init__(self) -> None:
        self._since: Ints = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """How many are marked."""
        return int(np.count_nonzero(self._since))

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._since.nbytes

    def add(self, regions: Ints, time_ns: Ints) -> None:
        """Mark regions, each with its time; one may come again."""
        self._cover(int(regions.max()) + 1)
        np.maximum.at(self._since, regions, np.maximum(time_ns, 1))

    def add_span(self, begin: int, end: int, time_ns: int) -> None:
        """Mark regions from ``begin`` on, below ``end``."""
        self._cover(end)
        span = self._since[begin:end]
        np.maximum(span, max(time_ns, 1), out=span)

    def remove(self, regions: Ints) -> None:
        """They are not marked any more."""
        self._since[regions[regions < len(self._since)]] = 0

    def settle(self, span: slice, time_ns: int) -> None:
        """Those of a span whose time is not later are not marked any more."""
        since = self._since[span]
        marked = np.flatnonzero(since)
        since[marked[since[marked] <= time_ns]] = 0

    def regions(self) -> Ints:
        """All that are marked, ascending."""
        return np.flatnonzero(self._since)

    def _cover(self, nr_regions: int) -> None:
        if nr_regions > len(self._since):
            room = max(nr_regions, len(self._since) * 5 // 4)
            self._since = grown(self._since, -(-room // REGIONS_PER_1G) * REGIONS_PER_1G)
