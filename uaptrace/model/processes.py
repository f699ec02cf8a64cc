# SPDX-License-Identifier: Apache-2.0
"""What each process did, summed up without a Python object per record."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from . import loops
from .columns import Columns, Ints
from .names import Names, number_of
from .region_pages import grown
from .snapshot import ProcessRow

MAX_PROCESSES: Final = 4096
MAX_ROWS: Final = 64
_MAX_TGID: Final = 1 << 22
"""PID_MAX_LIMIT of 64-bit kernels."""

_OTHERS: Final = 0
"""Row of the processes that were merged; its tgid is 0."""


class Processes:
    """Sums by process. A table indexed by tgid finds the row of the process that has the tgid now; numpy takes memory for those parts of
    it that are used."""

    def __init__(self) -> None:
        self._row: NDArray[np.int32] = np.zeros(1 << 15, np.int32)
        self._process: Ints = np.zeros(256, np.int64)
        """Key (model.names) by row."""
        self._cgroup_id: Ints = np.zeros(256, np.int64)
        self._sums: Ints = np.zeros((256, loops.NR_SUMS), np.int64)
        self._nr_rows = 1

    def apply(self, columns: Columns) -> None:
        """Take in a chunk; TASK and STACK records are not what a process does."""
        at = 0
        while (at := self._count(columns, at)) < len(columns):
            self._add(columns, at)

    def take_over(self, process: int) -> None:
        """From now on the tgid is that of another process, given by its key."""
        tgid = number_of(process)
        if tgid < len(self._row):
            rows = np.flatnonzero(self._process[1 : self._nr_rows] == process)
            self._row[tgid] = rows[0] + 1 if len(rows) else 0

    def _count(self, columns: Columns, begin: int) -> int:
        return loops.count_by_process(columns.fields, begin, len(columns), _MAX_TGID, loops.view(self._row), loops.view(self._sums))

    def _add(self, columns: Columns, at: int) -> None:
        """A row for the process of the record at ``at``, which has none."""
        tgid = int(columns.batch["tgid"][at])
        if tgid >= _MAX_TGID:
            tgid = 0  # no kernel gives it: taken for the idle task's
        if tgid >= len(self._row):
            self._row = grown(self._row, min(1 << tgid.bit_length(), _MAX_TGID))
        if self._nr_rows + 1 > MAX_PROCESSES:
            self._merge()
        if self._nr_rows + 1 > len(self._process):
            size = 2 * len(self._process)
            self._process = grown(self._process, size)
            self._cgroup_id = grown(self._cgroup_id, size)
            self._sums = grown(self._sums, size)
        row = self._nr_rows
        self._row[tgid] = row
        self._process[row] = columns.processes.get(tgid, tgid)
        self._cgroup_id[row] = columns.batch["cgroup_id"][at : at + 1].astype(np.int64)[0]
        self._sums[row] = 0
        self._nr_rows += 1

    def _merge(self) -> None:
        """Keep the more active half; the rest goes into one row."""
        n = self._nr_rows
        keep = np.sort(np.argsort(self._sums[1:n, loops.EVENTS], kind="stable")[-MAX_PROCESSES // 2 :] + 1)
        gone = np.setdiff1d(np.arange(1, n), keep)
        self._sums[_OTHERS] += self._sums[gone].sum(axis=0)
        tgids = number_of(self._process[:n])
        current = self._row[tgids] == np.arange(n)  # not those whose tgid another process has now
        self._row[tgids[1:]] = 0
        self._process[1 : len(keep) + 1] = self._process[keep]
        self._cgroup_id[1 : len(keep) + 1] = self._cgroup_id[keep]
        self._sums[1 : len(keep) + 1] = self._sums[keep]
        self._nr_rows = len(keep) + 1
        rows = np.flatnonzero(current[keep])
        self._row[tgids[keep[rows]]] = rows + 1

    @property
    def processes(self) -> set[int]:
        """Keys of all that have a row."""
        return set(self._process[1 : self._nr_rows].tolist())

    @property
    def cgroups(self) -> set[int]:
        """Ids of their cgroups."""
        return set(self._cgroup_id[1 : self._nr_rows].tolist())

    def rows(self, names: Names) -> tuple[ProcessRow, ...]:
        """Most events first, at most MAX_ROWS; a row with tgid 0 and the name ``(others)`` has the processes that were merged."""
        n = self._nr_rows
        first = 0 if self._sums[_OTHERS].any() else 1
        order = np.lexsort((self._process[first:n], -self._sums[first:n, loops.EVENTS]))[:MAX_ROWS] + first
        return tuple(
            ProcessRow(
                tgid=number_of(process),
                comm=names.comm(process) if row != _OTHERS else "(others)",
                cgroup_id=int(self._cgroup_id[row]),
                cgroup=names.cgroup(int(self._cgroup_id[row])),
                events=sums[loops.EVENTS],
                allocated_pages=sums[loops.ALLOCATED],
                freed_pages=sums[loops.FREED],
                set_direct_map_calls=sums[loops.SET_DIRECT_MAP],
                splits=sums[loops.SPLITS],
                refills=sums[loops.REFILLS],
                started_ns=names.started_ns(process) if row != _OTHERS else None,
            )
            for row, process, sums in zip(order.tolist(), self._process[order].tolist(), self._sums[order].tolist(), strict=True)
            if sums[loops.EVENTS] or row == _OTHERS
        )
