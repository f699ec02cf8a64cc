# SPDX-License-Identifier: Apache-2.0
"""What each process did, summed up without a Python object per record."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .codes import FlagCode, KindCode
from .columns import Columns, Ints
from .names import Names
from .region_pages import grown
from .snapshot import ProcessRow

MAX_PROCESSES: Final = 4096
MAX_ROWS: Final = 64
_MAX_TGID: Final = 1 << 22
"""PID_MAX_LIMIT of 64-bit kernels."""

_EVENTS, _ALLOCATED, _FREED, _SET_DIRECT_MAP, _SPLITS, _REFILLS = range(6)
_OTHERS: Final = 0
"""Row of the processes that were merged; its tgid is 0."""


class Processes:
    """Sums by tgid. A table indexed by tgid finds the row; numpy takes memory for those parts of it that are used."""

    def __init__(self) -> None:
        self._row: NDArray[np.int32] = np.zeros(1 << 15, np.int32)
        self._tgid: Ints = np.zeros(256, np.int64)
        self._cgroup_id: Ints = np.zeros(256, np.int64)
        self._sums: Ints = np.zeros((256, 6), np.int64)
        self._nr_rows = 1

    def apply(self, columns: Columns) -> None:
        """Take in a chunk; TASK and STACK records are not what a process does."""
        if columns.count(KindCode.TASK) + columns.count(KindCode.STACK):
            # A STACK record has frames where others have the tgid.
            self._apply(columns, np.flatnonzero((columns.kind != KindCode.TASK) & (columns.kind != KindCode.STACK)))
        else:
            self._apply(columns, None)

    def _apply(self, columns: Columns, some: Ints | None) -> None:
        tgid = columns.column("tgid") if some is None else columns.of("tgid", some)
        if not len(tgid):
            return
        highest = int(tgid.max())
        if highest >= len(self._row):
            tgid = _in_table(tgid)
            highest = min(highest, _MAX_TGID - 1)
            self._row = grown(self._row, min(1 << highest.bit_length(), _MAX_TGID))
        row: NDArray[np.integer] = self._row[tgid]
        if not row.all():
            new = np.flatnonzero(row == 0)
            self._add(tgid[new], columns.column("cgroup_id")[new if some is None else some[new]])
            row = self._row[tgid]
        n = self._nr_rows
        sums = self._sums[:n]
        kind = columns.kind if some is None else columns.kind[some]
        table = np.bincount((row.astype(np.int64) << 4) | np.minimum(kind, 15), minlength=n << 4).reshape(n, 16)
        sums[:, _EVENTS] += table.sum(axis=1)
        sums[:, _SET_DIRECT_MAP] += table[:, KindCode.SET_DIRECT_MAP]
        sums[:, _SPLITS] += table[:, KindCode.SPLIT]
        sums[:, _REFILLS] += table[:, KindCode.REFILL]
        for of, column in ((KindCode.ALLOC, _ALLOCATED), (KindCode.FREE, _FREED)):
            if not columns.count(of):
                continue
            index = columns.index(of)
            pages = columns.of("nr_pages", index)
            if of == KindCode.ALLOC:
                pages = pages * ((columns.of("flags", index) & FlagCode.FAILED) == 0)
            if int(pages.min()) == int(pages.max()) == 1:
                sums[:, column] += table[:, of]
            else:
                # Sums of at most 16384 times 1024 pages are exact in a double.
                rows = self._row[_in_table(columns.of("tgid", index))]
                sums[:, column] += np.bincount(rows, weights=pages, minlength=n).astype(np.int64)

    def _add(self, tgid: Ints, cgroup_id: Ints) -> None:
        fresh, first = np.unique(tgid, return_index=True)
        order = np.argsort(first)
        fresh, first = fresh[order], first[order]
        if self._nr_rows + len(fresh) > MAX_PROCESSES:
            self._merge()
        while self._nr_rows + len(fresh) > len(self._tgid):
            size = 2 * len(self._tgid)
            self._tgid = grown(self._tgid, size)
            self._cgroup_id = grown(self._cgroup_id, size)
            self._sums = grown(self._sums, size)
        rows = np.arange(self._nr_rows, self._nr_rows + len(fresh))
        self._row[fresh] = rows
        self._tgid[rows] = fresh
        self._cgroup_id[rows] = cgroup_id[first]
        self._sums[rows] = 0
        self._nr_rows += len(fresh)

    def _merge(self) -> None:
        """Keep the more active half; the rest goes into one row."""
        n = self._nr_rows
        keep = np.sort(np.argsort(self._sums[1:n, _EVENTS], kind="stable")[-MAX_PROCESSES // 2 :] + 1)
        gone = np.setdiff1d(np.arange(1, n), keep)
        self._sums[_OTHERS] += self._sums[gone].sum(axis=0)
        self._row[self._tgid[1:n]] = 0
        self._tgid[1 : len(keep) + 1] = self._tgid[keep]
        self._cgroup_id[1 : len(keep) + 1] = self._cgroup_id[keep]
        self._sums[1 : len(keep) + 1] = self._sums[keep]
        self._nr_rows = len(keep) + 1
        self._row[self._tgid[1 : self._nr_rows]] = np.arange(1, self._nr_rows)

    def rows(self, names: Names) -> tuple[ProcessRow, ...]:
        """Most events first, at most MAX_ROWS; a row with tgid 0 and the name ``(others)`` has the processes that were merged."""
        n = self._nr_rows
        first = 0 if self._sums[_OTHERS].any() else 1
        order = np.lexsort((self._tgid[first:n], -self._sums[first:n, _EVENTS]))[:MAX_ROWS] + first
        return tuple(
            ProcessRow(
                tgid=int(self._tgid[row]),
                comm=names.comm(int(self._tgid[row])) if row != _OTHERS else "(others)",
                cgroup_id=int(self._cgroup_id[row]),
                cgroup=names.cgroup(int(self._cgroup_id[row])),
                events=sums[_EVENTS],
                allocated_pages=sums[_ALLOCATED],
                freed_pages=sums[_FREED],
                set_direct_map_calls=sums[_SET_DIRECT_MAP],
                splits=sums[_SPLITS],
                refills=sums[_REFILLS],
            )
            for row, sums in zip(order.tolist(), self._sums[order].tolist(), strict=True)
            if sums[_EVENTS] or row == _OTHERS
        )


def _in_table(tgid: Ints) -> Ints:
    """tgids that no kernel gives are taken for the idle task's."""
    return np.where(tgid < _MAX_TGID, tgid, 0)
