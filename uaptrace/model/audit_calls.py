# SPDX-License-Identifier: Apache-2.0
"""Calls of a task that are judged by what the task does next: errors of set_direct_map, and scans of the shrinker. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .audit_findings import Finding, finding_of
from .codes import FlagCode, KindCode, kind_set
from .columns import Columns

_MAX_ERRORS_PER_TASK: Final = 64
_MAX_TASKS: Final = 4096
"""Tasks with errors, or releases, that are remembered; the oldest are forgotten."""
_ANY_RELEASE_PAGES: Final = 1 << 10
_IN_CACHE: Final = int(FlagCode.IN_CACHE | FlagCode.IN_SHRINK)
_OUTCOMES: Final = kind_set(
    KindCode.SET_DIRECT_MAP, KindCode.ALLOC, KindCode.REFILL, KindCode.RELEASE, KindCode.REFILL_UNDONE, KindCode.SHRINK
)


@dataclass(frozen=True, slots=True)
class ReturnedError:
    pfn: int
    nr_pages: int
    restoring: bool
    code: int
    time_ns: int
    process: int
    stack: int


class ReturnedErrors:
    """Invariant 4: what a task did after set_direct_map failed in the cache."""

    def __init__(self) -> None:
        self._by_task: dict[int, list[ReturnedError]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_task)

    def clear(self) -> None:
        """Forget all: a record was lost."""
        self._by_task.clear()

    def judge(self, columns: Columns) -> tuple[int, list[Finding]]:
        """How many calls of the chunk there were in the cache, and the errors of which it shows that they were ignored."""
        calls = columns.index(KindCode.SET_DIRECT_MAP)
        inside = calls[(columns.of("flags", calls) & _IN_CACHE) != 0]
        failed = inside[columns.of("aux", inside) != 0]
        if not len(failed) and not self._by_task:
            return len(inside), []
        tids = {*columns.of("tid", failed).tolist(), *self._by_task}
        outcome = columns.index_of(_OUTCOMES)
        outcome = outcome[np.isin(columns.of("tid", outcome), list(tids))]
        return len(inside), [finding for at in outcome.tolist() for finding in self._follow(columns, at)]

    def _follow(self, columns: Columns, at: int) -> list[Finding]:
        kind, tid, flags, pfn, nr_pages = (int(columns.column(name)[at]) for name in ("kind", "tid", "flags", "pfn", "nr_pages"))
        errors = self._by_task.get(tid, [])
        ignored: list[ReturnedError] = []
        if kind == KindCode.SET_DIRECT_MAP:
            if not flags & _IN_CACHE:
                return []
            # The same pages tried again: only the last try counts.
            errors = [e for e in errors if not overlap(e.pfn, e.nr_pages, pfn, nr_pages)]
            code = int(columns.column("aux")[at])
            if code and len(errors) < _MAX_ERRORS_PER_TASK:
                time_ns, restoring = int(columns.column("time_ns")[at]), bool(flags & FlagCode.DEFAULT)
                errors.append(ReturnedError(pfn, nr_pages, restoring, code, time_ns, columns.process(at), columns.stack(at)))
        else:
            errors, ignored = judged_errors(errors, kind, pfn, nr_pages, failed=bool(flags & FlagCode.FAILED))
        self._by_task.pop(tid, None)
        if errors:
            self._by_task[tid] = errors  # the newest come last
            if len(self._by_task) > _MAX_TASKS:
                del self._by_task[next(iter(self._by_task))]
        return [_ignored(error) for error in ignored]


class ShrinkScans:
    """Invariant 11: how much a scan released, against what it was asked for."""

    def __init__(self) -> None:
        self._largest_release: dict[int, int] = {}
        """Of each task, since its last scan returned."""

    def clear(self) -> None:
        """Forget all: a record was lost."""
        self._largest_release.clear()

    def judge(self, columns: Columns) -> list[Finding]:
        """Scans of the chunk that released more than one block beyond what they were asked for."""
        index = columns.index(KindCode.SHRINK)
        releases = columns.index(KindCode.RELEASE)
        releases = releases[(columns.of("flags", releases) & FlagCode.IN_SHRINK) != 0]
        if not len(index) and not len(releases):
            return []
        found = []
        tids, sizes = columns.of("tid", releases), columns.of("nr_pages", releases)
        since: dict[int, int] = {}
        for at in index.tolist():
            tid, released, asked = (int(columns.column(name)[at]) for name in ("tid", "nr_pages", "aux"))
            mine = (tids == tid) & (releases < at) & (releases >= since.get(tid, 0))
            largest = max(int(sizes[mine].max(initial=0)), self._largest_release.pop(tid, 0)) or _ANY_RELEASE_PAGES
            since[tid] = at
            if asked >= 0 and released > asked + largest:
                expected = f"at most {asked} pages and one block of {largest}"
                found.append(finding_of(columns, at, 11, expected, f"{released} pages released"))
        for tid in set(tids.tolist()):
            largest = int(sizes[(tids == tid) & (releases >= since.get(tid, 0))].max(initial=0))
            if largest:
                self._largest_release[tid] = max(largest, self._largest_release.pop(tid, 0))
                if len(self._largest_release) > _MAX_TASKS:
                    del self._largest_release[next(iter(self._largest_release))]
        return found


def _ignored(error: ReturnedError) -> Finding:
    what = "released" if error.restoring else "handed out"
    seen = f"it failed with {error.code} and the page was {what} all the same"
    return Finding(4, error.time_ns, error.pfn, error.nr_pages, "set_direct_map returns 0", seen, error.process, error.stack)


def judged_errors(
    errors: list[ReturnedError], kind: int, pfn: int, nr_pages: int, *, failed: bool
) -> tuple[list[ReturnedError], list[ReturnedError]]:
    """(errors of a task that are still to be answered, those that its event of this kind shows to have been ignored)."""
    if kind == KindCode.ALLOC:
        # Handed out after a failed unmapping that nothing was done about; a failed allocation did what it should.
        return [], [] if failed else _of_direction(errors, restoring=False)
    if kind in (KindCode.REFILL, KindCode.REFILL_UNDONE):
        return _of_direction(errors, restoring=True), []  # the chunk was given up, and perhaps another one taken
    if kind == KindCode.RELEASE:
        here = [e for e in errors if overlap(e.pfn, e.nr_pages, pfn, nr_pages)]
        return [e for e in errors if e not in here], _of_direction(here, restoring=True)
    return ([] if kind == KindCode.SHRINK else errors), []


def _of_direction(errors: list[ReturnedError], *, restoring: bool) -> list[ReturnedError]:
    return [error for error in errors if error.restoring == restoring]


def overlap(pfn: int, nr_pages: int, other: int, nr_other: int) -> bool:
    return pfn < other + nr_other and other < pfn + nr_pages
