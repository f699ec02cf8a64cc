# SPDX-License-Identifier: Apache-2.0
"""Who split what: equal splits (level, process, cgroup, stack) counted together. The cause is settled when it is asked for."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uaptrace.events import LEVEL_MASK
from uaptrace.units import Level

from .codes import FlagCode, KindCode
from .columns import Columns, stable_order
from .names import Names
from .snapshot import Cause, SplitRow

MAX_GROUPS: Final = 4096
MAX_ROWS: Final = 256
PFNS_PER_GROUP: Final = 8
_M2: Final = int(Level.M2)
_G1: Final = int(Level.G1)
_IN_CACHE: Final = int(FlagCode.IN_CACHE | FlagCode.IN_SHRINK)


class _Key(NamedTuple):
    """A tuple: hashing it for each run of equal splits is what taking in splits costs most."""

    level: int
    tgid: int
    cgroup_id: int
    stack_id: int
    in_cache: bool


@dataclass(slots=True)
class _Group:
    count: int = 0
    first_time_ns: int = 0
    last_time_ns: int = 0
    pfns: list[int] = field(default_factory=list)


class Ledger:
    """Splits of large mappings that records told of."""

    def __init__(self, self_tgids: frozenset[int] = frozenset()) -> None:
        self._self_tgids = self_tgids
        self._groups: dict[_Key, _Group] = {}
        self.other_mappings = 0
        """Splits outside the direct map and the kernel image."""
        self.counted = {Level.M2: 0, Level.G1: 0}
        """Splits by records that the kernel's counters count too."""
        self.in_kernel_image = {Level.M2: 0, Level.G1: 0}
        """Those of them in the kernel image's mapping."""

    def apply(self, columns: Columns) -> None:
        """Take in the SPLIT records of a chunk."""
        if not columns.count(KindCode.SPLIT):
            return
        index = columns.index(KindCode.SPLIT)
        flags = columns.of("flags", index)
        other = (flags & FlagCode.OTHER_MAPPING) != 0
        if other.any():
            self.other_mappings += int(other.sum())
            index, flags = index[~other], flags[~other]
            if not len(index):
                return
        level = np.where((columns.of("before", index) & LEVEL_MASK) == _G1, _G1, _M2)
        image = (flags & FlagCode.KERNEL_IMAGE) != 0
        for of in (Level.M2, Level.G1):
            this = level == of.value
            self.counted[of] += int(np.count_nonzero(this))
            self.in_kernel_image[of] += int(np.count_nonzero(image & this))
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
        first_ns = np.minimum.reduceat(time_ns, heads).tolist()
        last_ns = np.maximum.reduceat(time_ns, heads).tolist()
        values = [key[heads].tolist() for key in keys]
        for start, end, first, last, lv, tgid, cgroup_id, stack_id, in_cache in zip(
            heads.tolist(), ends.tolist(), first_ns, last_ns, *values, strict=True
        ):
            group = self._group(_Key(lv, tgid, cgroup_id, stack_id, bool(in_cache)))
            if group.count == 0 or first < group.first_time_ns:
                group.first_time_ns = first
            group.count += end - start
            if last > group.last_time_ns:
                group.last_time_ns = last
            if len(group.pfns) < PFNS_PER_GROUP:
                group.pfns += pfn[start : min(end, start + PFNS_PER_GROUP - len(group.pfns))].tolist()

    def _group(self, key: _Key) -> _Group:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MAX_GROUPS:
                # Full: what is kept of further groups is what decides the cause, and in the end only the level.
                key = _Key(
                    key.level, min(self._self_tgids, default=0) if key.tgid in self._self_tgids else 0, 0, key.stack_id, key.in_cache
                )
                if key not in self._groups and len(self._groups) >= 2 * MAX_GROUPS:
                    key = _Key(key.level, key.tgid, 0, 0, key.in_cache)
            group = self._groups.setdefault(key, _Group())
        return group

    def _cause(self, key: _Key, names: Names) -> Cause:
        return self._cause_of(key.tgid in self._self_tgids, key.in_cache, key.stack_id, names)

    @staticmethod
    def _cause_of(is_self: bool, in_cache: bool, stack_id: int, names: Names) -> Cause:
        if is_self:
            return Cause.SELF
        return Cause.UNMAPPED_ALLOC if in_cache else names.cause(stack_id)

    def by_cause(self, names: Names) -> dict[tuple[Level, Cause], int]:
        """Splits by what was split and why, zeros included."""
        sums = {(level, cause): 0 for level in (Level.M2, Level.G1) for cause in Cause}
        # Thousands of groups share few causes: gather first what decides the cause.
        alike: dict[tuple[int, bool, bool, int], int] = {}
        for (level, tgid, _, stack_id, in_cache), group in self._groups.items():
            same = (level, tgid in self._self_tgids, in_cache, stack_id)
            alike[same] = alike.get(same, 0) + group.count
        for (level, is_self, in_cache, stack_id), count in alike.items():
            sums[Level(level), self._cause_of(is_self, in_cache, stack_id, names)] += count
        return sums

    def by_process(self) -> Tally[int]:
        """Splits by tgid."""
        sums: Tally[int] = Tally()
        for key, group in self._groups.items():
            sums[key.tgid] += group.count
        return sums

    def rows(self, names: Names) -> tuple[SplitRow, ...]:
        """The largest groups first, at most MAX_ROWS."""
        groups = list(self._groups.items())
        if len(groups) > MAX_ROWS:
            # Only those that can be among the rows are worth the full comparison.
            counts = np.fromiter((group.count for _, group in groups), np.int64, len(groups))
            firsts = np.fromiter((group.first_time_ns for _, group in groups), np.int64, len(groups))
            order = np.lexsort((firsts, -counts))
            last = order[MAX_ROWS - 1]
            possible = (counts > counts[last]) | ((counts == counts[last]) & (firsts <= firsts[last]))
            groups = [groups[i] for i in np.flatnonzero(possible).tolist()]
        largest = sorted(groups, key=lambda item: (-item[1].count, item[1].first_time_ns, item[1].pfns))[:MAX_ROWS]
        return tuple(
            SplitRow(
                level=Level(key.level),
                cause=self._cause(key, names),
                tgid=key.tgid,
                comm=names.comm(key.tgid),
                cgroup_id=key.cgroup_id,
                cgroup=names.cgroup(key.cgroup_id),
                stack_id=key.stack_id,
                stack=names.stack(key.stack_id),
                count=group.count,
                first_time_ns=group.first_time_ns,
                last_time_ns=group.last_time_ns,
                pfns=tuple(group.pfns),
            )
            for key, group in largest
        )


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
