# SPDX-License-Identifier: Apache-2.0
"""Records of ranges of pages, worked on as ranges: a kernel may send any number of them, of any number of pages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .codes import KindCode
from .columns import Columns, Ints


def last_of_equals(columns: Columns, index: Ints) -> Ints:
    """Of neighbours that say the same of the same pages only the last: a record says what is now."""
    if len(index) < 2:
        return index
    same = columns.kind[index[1:]] == columns.kind[index[:-1]]
    for name in ("pfn", "nr_pages", "after", "aux"):
        if not same.any():
            return index
        values = columns.of(name, index)
        same &= values[1:] == values[:-1]
    time_ns = columns.of("time_ns", index)
    last: Ints = index[np.append(~(same & (time_ns[1:] >= time_ns[:-1])), True)]
    return last


def slices(sizes: Ints, most: int) -> list[slice]:
    """Consecutive slices with sizes of ``most`` in sum, or of one element that is larger."""
    total = np.cumsum(sizes)
    if not len(total) or int(total[-1]) <= most:
        return [slice(0, len(sizes))]
    found, begin, before = [], 0, 0
    while begin < len(sizes):
        end = max(int(np.searchsorted(total, before + most, side="right")), begin + 1)
        found.append(slice(begin, end))
        begin, before = end, int(total[end - 1])
    return found


def expand(counts: Ints) -> tuple[Ints, Ints]:
    """For counts (2, 3): which (0, 0, 1, 1, 1) and the how-manieth (0, 1, 0, 1, 2)."""
    which = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    return which, np.arange(len(which)) - (ends - counts)[which]


def is_range(columns: Columns, index: Ints) -> NDArray[np.bool_]:
    """Which records are set_direct_map calls of several pages."""
    ranges: NDArray[np.bool_] = (columns.kind[index] == KindCode.SET_DIRECT_MAP) & (columns.of("nr_pages", index) > 1)
    return ranges


def runs(mask: NDArray[np.bool_]) -> list[tuple[slice, bool]]:
    """Slices of equal elements, in order."""
    cuts = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(mask)]
    return [(slice(a, b), bool(mask[a])) for a, b in pairwise(cuts) if a < b]
