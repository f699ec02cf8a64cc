# SPDX-License-Identifier: Apache-2.0
"""Who split what: equal splits (level, process, cgroup, stack) counted together. The cause is settled when it is asked for."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import LEVEL_MASK
from uaptrace.abi.units import Level

from .codes import FlagCode, KindCode
from .columns import Columns, Ints, stable_order
from .names import Names, number_of
from .region_pages import grown
from .snapshot import Cause, SplitRow

MAX_GROUPS: Final = 4096
MAX_ROWS: Final = 256
PFNS_PER_GROUP: Final = 8
_M2: Final = int(Level.M2)
_G1: Final = int(Level.G1)
_LEVELS: Final = {_M2: Level.M2, _G1: Level.G1}
_IN_CACHE: Final = int(FlagCode.IN_CACHE | FlagCode.IN_SHRINK)


class _Key(NamedTuple):
    """A tuple: hashing it for each run of equal splits is what taking in splits costs most."""

    level: int
    process: int
    cgroup_id: int
    stack: int
    in_cache: bool


class _Deciding(NamedTuple):
    """What decides the cause of a split."""

    level: int
    is_self: bool
    in_cache: bool
    stack: int


class Ledger:
    """Splits of large mappings that records told of."""

    def __init__(self, self_tgids: frozenset[int] = frozenset()) -> None:
        self._self_tgids = self_tgids
        # Column by column, so that thousands of groups are summed and compared at once.
        self._number: dict[_Key, int] = {}
        self._count: Ints = np.zeros(0, np.int64)
        self._first_ns: Ints = np.zeros(0, np.int64)
        self._last_ns: Ints = np.zeros(0, np.int64)
        self._pfns: list[list[int]] = []
        # Thousands of groups share few causes: what decides the cause, and which of them each group has.
        self._deciding: dict[_Deciding, int] = {}
        self._decided_by: Ints = np.zeros(0, np.int64)
        self.elsewhere = {Level.M2: 0, Level.G1: 0}
        """Splits outside the direct map and the kernel image: whether the kernel's counters have them depends on the kernel."""
        self.counted = {Level.M2: 0, Level.G1: 0}
        """Splits by records that the kernel's counters count too."""
        self.in_kernel_image = {Level.M2: 0, Level.G1: 0}
        """Those of them in the kernel image's mapping."""
        self.uncounted = {Level.M2: 0, Level.G1: 0}
        """Splits of the direct map that they do not count (memory failure)."""

    @property
    def other_mappings(self) -> int:
        """Splits outside the direct map and the kernel image."""
        return sum(self.elsewhere.values())

    def apply(self, columns: Columns) -> None:
        """Take in the SPLIT records of a chunk."""
        if not columns.count(KindCode.SPLIT):
            return
        index = columns.index(KindCode.SPLIT)
        flags = columns.of("flags", index)
        level = np.where((columns.of("before", index) & LEVEL_MASK) == _G1, _G1, _M2)
        other = (flags & FlagCode.OTHER_MAPPING) != 0
        if other.any():
            _add_by_level(self.elsewhere, level[other])
            index, flags, level = index[~other], flags[~other], level[~other]
            if not len(index):
                return
        uncounted = (flags & FlagCode.UNCOUNTED) != 0
        _add_by_level(self.uncounted, level[uncounted])
        _add_by_level(self.counted, level[~uncounted])
        _add_by_level(self.in_kernel_image, level[(flags & FlagCode.KERNEL_IMAGE) != 0])
        keys = [
            level,
            *(columns.of(name, index) for name in ("tgid", "cgroup_id", "stack_id")),
            ((flags & _IN_CACHE) != 0).astype(np.int64),
        ]
        # Most splits come in runs of equal ones; only where they do not is anything sorted.
        heads = _starts(keys)
        if len(heads) > len(index) // 8:
            order = stable_order(_hashes(keys))
            index, keys = index[order], [key[order] for key in keys]
            heads = _starts(keys)
        ends = np.append(heads[1:], len(index))
        pfn, time_ns = columns.of("pfn", index), columns.of("time_ns", index)
        values = [key[heads].tolist() for key in keys]
        for i, renamed in ((1, columns.processes), (3, columns.stacks)):
            if renamed:
                values[i] = [renamed.get(number, number) for number in values[i]]
        numbers = []
        for start, end, lv, tgid, cgroup_id, stack_id, in_cache in zip(heads.tolist(), ends.tolist(), *values, strict=True):
            number = self._group(_Key(lv, tgid, cgroup_id, stack_id, bool(in_cache)))
            numbers.append(number)
            pfns = self._pfns[number]
            if len(pfns) < PFNS_PER_GROUP:
                pfns += pfn[start : min(end, start + PFNS_PER_GROUP - len(pfns))].tolist()
        np.add.at(self._count, numbers, ends - heads)
        np.minimum.at(self._first_ns, numbers, np.minimum.reduceat(time_ns, heads))
        np.maximum.at(self._last_ns, numbers, np.maximum.reduceat(time_ns, heads))

    def _group(self, key: _Key) -> int:
        """The number of the key's group, which is made where there is none."""
        number = self._number.get(key)
        if number is not None:
            return number
        if len(self._number) >= MAX_GROUPS:
            # Full: what is kept of further groups is what decides the cause, and in the end only the level.
            key = _Key(key.level, min(self._self_tgids, default=0) if key.process in self._self_tgids else 0, 0, key.stack, key.in_cache)
            if key not in self._number and len(self._number) >= 2 * MAX_GROUPS:
                key = _Key(key.level, key.process, 0, 0, key.in_cache)
            if key in self._number:
                return self._number[key]
        number = self._number[key] = len(self._pfns)
        self._pfns.append([])
        if number >= len(self._count):
            room = max(64, 2 * number)
            self._count, self._last_ns, self._decided_by = (grown(a, room) for a in (self._count, self._last_ns, self._decided_by))
            self._first_ns = grown(self._first_ns, room)
            self._first_ns[number:] = np.iinfo(np.int64).max
        deciding = _Deciding(key.level, key.process in self._self_tgids, key.in_cache, key.stack)
        self._decided_by[number] = self._deciding.setdefault(deciding, len(self._deciding))
        return number

    @property
    def processes(self) -> set[int]:
        """Keys of the processes of all groups."""
        return {key.process for key in self._number}

    @property
    def stacks(self) -> set[int]:
        """Keys of their stacks."""
        return {key.stack for key in self._number}

    @property
    def cgroups(self) -> set[int]:
        """Ids of their cgroups."""
        return {key.cgroup_id for key in self._number}

    @staticmethod
    def _cause(deciding: _Deciding, names: Names) -> Cause:
        if deciding.is_self:
            return Cause.SELF
        return Cause.UNMAPPED_ALLOC if deciding.in_cache else names.cause(deciding.stack)

    def by_cause(self, names: Names) -> dict[tuple[Level, Cause], int]:
        """Splits by what was split and why, zeros included."""
        sums = {(level, cause): 0 for level in (Level.M2, Level.G1) for cause in Cause}
        counts = np.zeros(len(self._deciding), np.int64)
        nr_groups = len(self._pfns)
        np.add.at(counts, self._decided_by[:nr_groups], self._count[:nr_groups])
        for deciding, count in zip(self._deciding, counts.tolist(), strict=True):
            sums[Level(deciding.level), self._cause(deciding, names)] += count
        return sums

    def rows(self, names: Names) -> tuple[SplitRow, ...]:
        """The largest groups first, at most MAX_ROWS."""
        nr_groups = len(self._pfns)
        counts, firsts = self._count[:nr_groups], self._first_ns[:nr_groups]
        shown = np.arange(nr_groups)
        if nr_groups > MAX_ROWS:
            # Only those that can be among the rows are worth the full comparison.
            last = np.lexsort((firsts, -counts))[MAX_ROWS - 1]
            shown = np.flatnonzero((counts > counts[last]) | ((counts == counts[last]) & (firsts <= firsts[last])))
        largest = sorted(
            zip(counts[shown].tolist(), firsts[shown].tolist(), shown.tolist(), strict=True),
            key=lambda group: (-group[0], group[1], self._pfns[group[2]]),
        )[:MAX_ROWS]
        keys, deciding = list(self._number), list(self._deciding)
        numbers = [number for _, _, number in largest]
        lasts, decided = self._last_ns[numbers].tolist(), self._decided_by[numbers].tolist()
        rows = []
        for (count, first, number), last_ns, decided_by in zip(largest, lasts, decided, strict=True):
            level, process, cgroup_id, stack, _ = keys[number]
            cause = self._cause(deciding[decided_by], names)
            rows.append(
                SplitRow(
                    level=_LEVELS[level],
                    cause=cause,
                    tgid=number_of(process),
                    comm=names.comm(process),
                    cgroup_id=cgroup_id,
                    cgroup=names.cgroup(cgroup_id),
                    stack_id=number_of(stack),
                    stack=names.stack(stack),
                    count=count,
                    first_time_ns=first,
                    last_time_ns=last_ns,
                    pfns=tuple(self._pfns[number]),
                    started_ns=names.started_ns(process),
                )
            )
        return tuple(rows)


def _add_by_level(sums: dict[Level, int], levels: NDArray[np.int64]) -> None:
    for level in sums:
        sums[level] += int(np.count_nonzero(levels == level.value))


def _hashes(keys: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """int64, 40 bits: equal for equal keys. Different ones that meet are kept apart by _starts(), at worst in more runs."""
    mixed = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        mixed = (mixed ^ key.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(24)).view(np.int64)


def _starts(keys: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Positions where one of the keys differs from the one before."""
    new = np.ones(len(keys[0]), np.bool_)
    new[1:] = False
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)
