# SPDX-License-Identifier: Apache-2.0
"""Splits of the direct map that no SPLIT record tells of, by what is mapped how now and was at the last reading that found it larger.

vmstat may count a split that is not of the direct map at all, and on such a kernel its counters alone do not tell whether
one of the direct map went unseen. The map does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK
from uaptrace.abi.units import PAGES_PER_1G, PMD_ORDER, REGIONS_PER_1G, Level

from .codes import FlagCode, KindCode
from .columns import Bytes, Columns, Ints
from .region_pages import grown

_M2 = int(Level.M2)
_G1 = int(Level.G1)
_NOT_DIRECT_MAP = int(FlagCode.KERNEL_IMAGE | FlagCode.OTHER_MAPPING)


class FoundSplits:
    """The largest mapping that each 2M region was read with, and which of them records told were split since."""

    def __init__(self) -> None:
        self._largest: Bytes = np.zeros(0, np.uint8)
        self._told_2m: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._told_1g: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def apply(self, columns: Columns) -> None:
        """Take in the SPLIT records of a chunk."""
        if not columns.count(KindCode.SPLIT):
            return
        index = columns.index(KindCode.SPLIT)
        index = index[(columns.of("flags", index) & _NOT_DIRECT_MAP) == 0]
        of_1g = (columns.of("before", index) & LEVEL_MASK) == _G1
        pfn = columns.of("pfn", index)
        _mark(self._told_2m, pfn[~of_1g] >> PMD_ORDER)
        _mark(self._told_1g, pfn[of_1g] // PAGES_PER_1G)

    def see(self, levels: Bytes, first: int, nr: int) -> None:
        """A reading of ``nr`` regions from ``first`` on was taken in; ``levels``: the direct map's, by region."""
        self._cover(len(levels))
        span = slice(first, first + nr)
        level = levels[span] & LEVEL_MASK
        np.maximum(self._largest[span], level, out=self._largest[span])
        # What is large now was not split, or has become large again since.
        self._told_2m[span] &= level < _M2
        self._told_1g[np.unique((np.flatnonzero(level == _G1) + first) // REGIONS_PER_1G)] = False

    def count(self, levels: Bytes) -> dict[Level, int]:
        """How many, with the direct map as it is now."""
        n = min(len(levels), len(self._largest))
        level, largest = levels[:n] & LEVEL_MASK, self._largest[:n]
        smaller_2m = (level == int(Level.K4)) & (largest >= _M2) & ~self._told_2m[:n]
        smaller_1g = np.unique(np.flatnonzero((level != 0) & (level < _G1) & (largest == _G1)) // REGIONS_PER_1G)
        return {Level.M2: int(np.count_nonzero(smaller_2m)), Level.G1: int(np.count_nonzero(~self._told_1g[smaller_1g]))}

    def _cover(self, nr_regions: int) -> None:
        if nr_regions > len(self._largest):
            room = -(-max(nr_regions, len(self._largest) * 5 // 4) // REGIONS_PER_1G) * REGIONS_PER_1G
            self._largest = grown(self._largest, room)
            self._told_2m = grown(self._told_2m, room)
            self._told_1g = grown(self._told_1g, room // REGIONS_PER_1G)


def _mark(told: NDArray[np.bool_], numbers: Ints) -> None:
    """Those that were never read are not marked: whatever they are read as, they were not larger before."""
    told[numbers[(numbers >= 0) & (numbers < len(told))]] = True
