# SPDX-License-Identifier: Apache-2.0
"""Refills of the unmapped cache that are under way.

That a chunk was given back is known only when the call that refilled it returns, and by then another processor may have
refilled the same pages. The records then come as REFILL a, REFILL b, REFILL_UNDONE a: b is no contradiction, and
the undoing of a speaks only of what b did not take.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import loops
from .codes import KindCode
from .columns import Columns, Ints

Range = tuple[int, int]
"""First page and number of pages."""


@dataclass(slots=True)
class Refill:
    """A refill whose unmapped_pages_alloc() has not returned yet."""

    pfn: int
    nr_pages: int
    time_ns: int
    elsewhere: list[Range] = field(default_factory=list)
    """What other tasks refilled of it since."""


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
        loops.refill_ends(columns.fields, tids, refs, len(carried), index, ends, carried_ends)
        self._carried_end = {t: end for t, end in zip(carried, carried_end.tolist(), strict=True) if end >= 0}
        self._pfn = columns.of("pfn", self.index)
        self._nr_pages = columns.of("nr_pages", self.index)
        self._tid = columns.of("tid", self.index)

    def under_way(self, position: int, pfn: int) -> bool:
        """Whether an earlier refill of the page had not ended when the record at ``position`` came."""
        if bool(((self.index < position) & (self._end >= position) & (self._pfn <= pfn) & (pfn < self._pfn + self._nr_pages)).any()):
            return True
        return any(r.pfn <= pfn < r.pfn + r.nr_pages and self._carried_end.get(t, position) >= position for t, r in self._carried.items())

    def elsewhere(self, position: int, tid: int, pfn: int, nr_pages: int) -> list[Range]:
        """What others refilled of the pages between this task's refill and the record at ``position`` that undoes it."""
        own = self.index[(self._tid == tid) & (self.index < position)]
        since = int(own[-1]) if len(own) else -1
        earlier = self._carried[tid].elsewhere if since < 0 and tid in self._carried else []
        return earlier + self._overlaps((self.index > since) & (self.index < position), pfn, nr_pages)

    def _overlaps(self, wanted: np.ndarray[tuple[int], np.dtype[np.bool_]], pfn: int, nr_pages: int) -> list[Range]:
        hit = wanted & (self._pfn < pfn + nr_pages) & (pfn < self._pfn + self._nr_pages)
        return list(zip(self._pfn[hit].tolist(), self._nr_pages[hit].tolist(), strict=True))

    def carry(self, columns: Columns) -> dict[int, Refill]:
        """Those that are under way at the end of the chunk, by tid."""
        carried = {t: r for t, r in self._carried.items() if t not in self._carried_end}
        for refill in carried.values():
            refill.elsewhere += self._overlaps(self.index >= 0, refill.pfn, refill.nr_pages)
        for at in np.flatnonzero(self._end == len(columns)).tolist():
            position, pfn, nr_pages = int(self.index[at]), int(self._pfn[at]), int(self._nr_pages[at])
            later = self._overlaps(self.index > position, pfn, nr_pages)
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
