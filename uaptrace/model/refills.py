# SPDX-License-Identifier: Apache-2.0
"""Refills of the unmapped cache that are under way.

That a chunk was given back is known only when the call that refilled it returns, and by then another processor may have
refilled the same pages. The records then come as REFILL a, REFILL b, REFILL_UNDONE a: b is no contradiction, and
the undoing of a speaks only of what b did not take.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .codes import FlagCode, KindCode
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
        self.index: Ints = columns.index(KindCode.REFILL)
        self._pfn = columns.of("pfn", self.index)
        self._nr_pages = columns.of("nr_pages", self.index)
        self._tid = columns.of("tid", self.index)
        self._end = np.full(len(self.index), len(columns), np.int64)
        self._carried_end: dict[int, int] = {}
        task = columns.by_task
        kind = columns.kind[task]
        failed = (columns.of("flags", task) & FlagCode.FAILED) != 0
        marks = (kind == KindCode.REFILL) | (kind == KindCode.REFILL_UNDONE) | ((kind == KindCode.ALLOC) & ~failed)
        task, kind = task[marks], kind[marks]
        if len(task):
            tid = columns.of("tid", task)
            same = tid[1:] == tid[:-1]
            followed = np.flatnonzero((kind[:-1] == KindCode.REFILL) & same)
            self._end[np.searchsorted(self.index, task[followed])] = task[followed + 1]
            if carried:
                first = np.concatenate([[True], ~same])
                self._carried_end = {t: i for t, i in zip(tid[first].tolist(), task[first].tolist(), strict=True) if t in carried}

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
