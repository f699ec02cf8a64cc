# SPDX-License-Identifier: Apache-2.0
"""Refills of the unmapped cache that are under way.

That a chunk was given back is known only when the call that refilled it returns, and by then another processor may have
refilled the same pages. The records then come as REFILL a, REFILL b, REFILL_UNDONE a: b is no contradiction, and
the undoing of a speaks only of what b did not take.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import loops
from .codes import KindCode
from .columns import Columns, Ints

Range = tuple[int, int]
"""First page and number of pages."""


_NEVER: Final = (1 << 63) - 1


@dataclass(slots=True)
class Refill:
    """A refill whose unmapped_pages_alloc() has not returned yet."""

    pfn: int
    nr_pages: int
    time_ns: int
    elsewhere: list[Range] = field(default_factory=list)
    """What other tasks refilled of it since: ranges apart from each other."""


class ChunkRefills:
    """The refills of one chunk of records, and those carried into it."""

    def __init__(self, columns: Columns, carried: dict[int, Refill]) -> None:
        self._carried = carried
        nr = columns.count(KindCode.REFILL)
        self.index: Ints = np.empty(nr, np.int64)
        self._end = np.full(nr, len(columns), np.int64)
        carried_end = np.full(len(carried), -1, np.int64)
        # Those under way: the carried ones, then what the chunk adds.
        open_tid = np.empty(len(carried) + nr, np.int64)
        open_tid[: len(carried)] = list(carried)
        open_ref = -1 - np.arange(len(open_tid))
        arrays = (open_tid, open_ref, self.index, self._end, carried_end)
        tids, refs, index, ends, carried_ends = (loops.view(array) for array in arrays)
        self.nr_dropped = loops.refill_ends(columns.fields, tids, refs, len(carried), index, ends, carried_ends)
        """Refills that were given up, since too many were under way."""
        self._carried_end = {t: end for t, end in zip(carried, carried_end.tolist(), strict=True) if end >= 0}
        self._pfn = columns.of("pfn", self.index)
        self._nr_pages = columns.of("nr_pages", self.index)
        self._tid = columns.of("tid", self.index)

    def under_way(self, positions: Ints, pfns: Ints) -> NDArray[np.bool_]:
        """Whether an earlier refill of each page had not ended when the record at its position (ascending) came."""
        before = list(self._carried.items())
        begin = np.concatenate([np.full(len(before), -1, np.int64), self.index])
        end = np.concatenate([np.array([self._carried_end.get(t, _NEVER) for t, _ in before], np.int64), self._end])
        first = np.concatenate([np.array([r.pfn for _, r in before], np.int64), self._pfn])
        size = np.concatenate([np.array([r.nr_pages for _, r in before], np.int64), self._nr_pages])
        found = np.zeros(len(positions), np.uint8)
        arrays = (begin, end, first, size, positions, pfns, found, np.empty(len(begin), np.int64))
        loops.refills_under_way(*(loops.view(np.ascontiguousarray(array)) for array in arrays))
        return found.view(np.bool_)

    def elsewhere(self, position: int, tid: int, pfn: int, nr_pages: int) -> list[Range]:
        """What others refilled of the pages between this task's refill and the record at ``position`` that undoes it."""
        own = self.index[(self._tid == tid) & (self.index < position)]
        since = int(own[-1]) if len(own) else -1
        earlier = self._carried[tid].elsewhere if since < 0 and tid in self._carried else []
        return self._overlaps(since + 1, position, pfn, nr_pages, earlier)

    def _overlaps(self, begin: int, end: int, pfn: int, nr_pages: int, earlier: list[Range]) -> list[Range]:
        """What of the pages the refills by the records from ``begin`` on have, or ``earlier``: apart from each other, ascending."""
        some = slice(*np.searchsorted(self.index, (begin, end)).tolist())
        first = np.append(self._pfn[some], np.array([f for f, _ in earlier], np.int64))
        after = first + np.append(self._nr_pages[some], np.array([n for _, n in earlier], np.int64))
        hit = (first < pfn + nr_pages) & (pfn < after)
        if not hit.any():
            return []
        begins, ends = np.maximum(first[hit] - pfn, 0), np.minimum(after[hit] - pfn, nr_pages)
        depth = np.cumsum(np.bincount(begins, minlength=nr_pages + 1) - np.bincount(ends, minlength=nr_pages + 1))
        edges = np.flatnonzero(np.diff((depth > 0).astype(np.int8), prepend=np.int8(0)))
        return [(pfn + a, b - a) for a, b in edges.reshape(-1, 2).tolist()]

    def carry(self, columns: Columns) -> dict[int, Refill]:
        """Those that are under way at the end of the chunk, by tid."""
        nr = len(columns)
        carried = {t: r for t, r in self._carried.items() if t not in self._carried_end}
        for refill in carried.values():
            refill.elsewhere = self._overlaps(0, nr, refill.pfn, refill.nr_pages, refill.elsewhere)
        for at in np.flatnonzero(self._end == nr).tolist():
            position, pfn, nr_pages = int(self.index[at]), int(self._pfn[at]), int(self._nr_pages[at])
            if pfn >= 0 and loops.is_good_block(pfn, nr_pages):
                later = self._overlaps(position + 1, nr, pfn, nr_pages, [])
                carried[int(self._tid[at])] = Refill(pfn, nr_pages, int(columns.column("time_ns")[position]), later)
        return carried


def subtract(pfn: int, nr_pages: int, taken: list[Range]) -> list[Range]:
    """The parts of a range of pages that none of the other ranges covers."""
    rest = []
    at, end = pfn, pfn + nr_pages
    for first, n in sorted(taken):
        if first > at:
            rest.append((at, min(first, end) - at))
        at = max(at, first + n)
        if at >= end:
            return rest
    rest.append((at, end - at))
    return rest
