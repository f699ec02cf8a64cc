# SPDX-License-Identifier: Apache-2.0
"""Requests: what was asked of the kernel, whatever the design that serves it. Also how they are made of records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import Flag, Kind, Mapping
from uaptrace.abi.units import MAX_REGIONS, NR_ORDERS, PAGES_PER_2M
from uaptrace.abi.wire import Batch
from uaptrace.model.updates import Records, Update
from uaptrace.policies.engine_layout import Op, RequestFlag


@dataclass(frozen=True, slots=True)
class Requests:
    """A list of requests as columns, all of one length, in the order in which they are served.

    ``op``: uint8, Op. ``ident``: int32, which block (each allocation has its own, dense from 0; -1 where there is none).
    ``order``: uint8. ``flags``: uint8, RequestFlag. ``owner``: int32, whose block (dense from 0): an inode, a process or a module.
    ``pfn``: int64, where it was on the traced host, -1 where that is not known; the first page of a range. ``nr_pages``: int64, of a
    range, or asked of the shrinker. ``time_ns``: int64, 0 where there are no times.
    """

    op: NDArray[np.uint8]
    ident: NDArray[np.int32]
    order: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    owner: NDArray[np.int32]
    pfn: NDArray[np.int64]
    nr_pages: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    source: str = ""
    """What made them, for the heading of a report."""
    recorded_places: bool = False
    """``pfn`` is where a kernel without grouping put the blocks: the design ``none`` takes them from there."""
    refills: tuple[tuple[int, int], ...] = ()
    """(pfn, order) of the chunks that a kernel with the series put into its cache, in order."""
    skipped: int = 0
    """Records that could not be made into requests: frees of what was allocated before the recording, and the like."""

    def __len__(self) -> int:
        return len(self.op)

    @property
    def nr_idents(self) -> int:
        return int(self.ident.max(initial=-1)) + 1

    @property
    def nr_owners(self) -> int:
        return int(self.owner.max(initial=-1)) + 1


@dataclass(slots=True)
class RequestBuilder:
    """Collects requests one by one; for records and for tests. Large synthetic lists are made as arrays instead."""

    _rows: list[tuple[int, int, int, int, int, int, int, int]] = field(default_factory=list)
    _idents: int = 0
    _owners: dict[object, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._rows)

    def allocate(self, order: int = 0, *, flags: int = RequestFlag.HIDDEN, owner: object = None, pfn: int = -1, time_ns: int = 0) -> int:
        """The ident of the new block."""
        if not 0 <= order < NR_ORDERS:
            raise ValueError(f"order {order} is not 0 to {NR_ORDERS - 1}")
        ident = self._idents
        self._idents += 1
        self._add(Op.ALLOCATE, ident, order, flags, self._owner(owner), pfn, 0, time_ns)
        return ident

    def reserve_ident(self) -> int:
        """An ident for ``allocate_before``."""
        self._idents += 1
        return self._idents - 1

    def allocate_before(self, ident: int, order: int, pfn: int, flags: int) -> None:
        """Put the allocation of ``ident`` before everything else."""
        self._rows.insert(0, (int(Op.ALLOCATE), ident, order, int(flags), 0, pfn, 0, 0))

    def free(self, ident: int, *, owner: object = None, time_ns: int = 0) -> None:
        self._add(Op.FREE, ident, 0, 0, self._owner(owner), -1, 0, time_ns)

    def change(self, ident: int, *, time_ns: int = 0) -> None:
        """Other permissions for the block."""
        self._add(Op.CHANGE, ident, 0, 0, 0, -1, 0, time_ns)

    def change_range(self, pfn: int, nr_pages: int, *, absent: bool = False, restore: bool = False, time_ns: int = 0) -> None:
        """One call that changes a range of physical pages, or restores it."""
        op = Op.RESTORE_RANGE if restore else Op.CHANGE_RANGE
        self._add(op, -1, 0, RequestFlag.HIDDEN if absent else 0, 0, pfn, nr_pages, time_ns)

    def shrink(self, nr_pages: int, *, time_ns: int = 0) -> None:
        self._add(Op.SHRINK, -1, 0, 0, 0, -1, nr_pages, time_ns)

    def close(self, owner: object = None, *, time_ns: int = 0) -> None:
        self._add(Op.CLOSE, -1, 0, 0, self._owner(owner), -1, 0, time_ns)

    def build(
        self, source: str = "", *, recorded_places: bool = False, refills: Sequence[tuple[int, int]] = (), skipped: int = 0
    ) -> Requests:
        columns = np.array(self._rows, np.int64).reshape(-1, 8).T
        types = (np.uint8, np.int32, np.uint8, np.uint8, np.int32, np.int64, np.int64, np.int64)
        arrays: list[Any] = [np.ascontiguousarray(column.astype(kind)) for column, kind in zip(columns, types, strict=True)]
        op, ident, order, flags, owner, pfn, nr_pages, time_ns = arrays
        return Requests(op, ident, order, flags, owner, pfn, nr_pages, time_ns, source, recorded_places, tuple(refills), skipped)

    def _owner(self, owner: object) -> int:
        return self._owners.setdefault(owner, len(self._owners))

    def _add(self, op: int, ident: int, order: int, flags: int, owner: int, pfn: int, nr_pages: int, time_ns: int) -> None:
        self._rows.append((int(op), ident, order, int(flags), owner, pfn, nr_pages, time_ns))


_MAX_PFN: Final = MAX_REGIONS * PAGES_PER_2M
_MAX_PAGES: Final = 1 << 20
"""Of one record: programs report longer changes as UNCERTAIN."""
_KINDS: Final = (
    Kind.SPLIT,
    Kind.SET_DIRECT_MAP,
    Kind.CPA,
    Kind.REFILL,
    Kind.REFILL_UNDONE,
    Kind.ALLOC,
    Kind.FREE,
    Kind.SHRINK,
    Kind.UNCERTAIN,
)


@dataclass(slots=True)
class _Recorded:
    """What is in use while records are read."""

    builder: RequestBuilder = field(default_factory=RequestBuilder)
    blocks: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """First page of a block in use -> (ident, order, owner)."""
    owner_blocks: dict[int, int] = field(default_factory=dict)
    refills: list[tuple[int, int] | None] = field(default_factory=list)
    """None where it was undone."""
    refills_at: dict[tuple[int, int], deque[int]] = field(default_factory=dict)
    skipped: int = 0
    cached: bool = False
    pending_splits: dict[int, tuple[int, int]] = field(default_factory=dict)
    """tid -> (pfn, nr_pages) of the mapping it has just split, until the record that says why."""

    def refill(self, pfn: int, order: int) -> None:
        self.refills_at.setdefault((pfn, order), deque()).append(len(self.refills))
        self.refills.append((pfn, order))

    def undo_refill(self, pfn: int, order: int) -> None:
        """The first of those of the chunk."""
        at = self.refills_at.get((pfn, order))
        if at:
            self.refills[at.popleft()] = None

    def allocate(self, pfn: int, order: int, owner: int, time_ns: int) -> None:
        if pfn in self.blocks:  # its free was not seen
            self.free(pfn, time_ns)
            self.skipped += 1
        ident = self.builder.allocate(order, owner=owner, pfn=pfn, time_ns=time_ns)
        self.blocks[pfn] = (ident, order, owner)
        self.owner_blocks[owner] = self.owner_blocks.get(owner, 0) + 1

    def free(self, pfn: int, time_ns: int) -> None:
        block = self.blocks.pop(pfn, None)
        if block is None:
            self.skipped += 1
            return
        ident, _, owner = block
        self.builder.free(ident, owner=owner, time_ns=time_ns)
        self.owner_blocks[owner] -= 1
        if self.owner_blocks[owner] == 0:  # the inode goes with its last page, as far as records tell
            self.builder.close(owner, time_ns=time_ns)


def requests_from_updates(updates: Iterable[Update], source: str = "recording") -> Requests:
    """The requests that a stream of updates (live, or a recording's) tells of.

    On a kernel with the series ALLOC and FREE are requests, SHRINK is memory pressure, and REFILL gives the chunks' places.
    Elsewhere, a page made absent on its own is an allocation (memfd_secret), and made present a free. On both, CPA records and
    splits that none of these explains are changes of permissions at a fixed place, for no design has a say in them. A process is
    the owner of its pages; its pool goes with its last page.
    """
    state = _Recorded()
    for update in updates:
        if isinstance(update, Records):
            _take_batch(state, update.batch)
    for pfn, nr_pages in state.pending_splits.values():
        state.builder.change_range(pfn, min(nr_pages, 1))
    return state.builder.build(
        source, recorded_places=not state.cached, refills=[r for r in state.refills if r is not None], skipped=state.skipped
    )


def _take_batch(state: _Recorded, batch: Batch) -> None:
    wanted = batch[np.isin(batch["kind"], _KINDS)]
    possible = (wanted["pfn"] < np.uint64(_MAX_PFN)) & (wanted["nr_pages"] <= _MAX_PAGES) & (wanted["order"] < NR_ORDERS)
    if not possible.all():
        state.skipped += int(np.count_nonzero(~possible))
        wanted = wanted[possible]
    columns = [wanted[name].tolist() for name in ("kind", "time_ns", "pfn", "nr_pages", "tid", "tgid", "aux", "order", "after", "flags")]
    for record in zip(*columns, strict=True):
        _take(state, *record)


def _take(
    state: _Recorded, kind: int, time_ns: int, pfn: int, nr_pages: int, tid: int, tgid: int, aux: int, order: int, after: int, flags: int
) -> None:
    if kind == Kind.SPLIT:
        _take_split(state, pfn, nr_pages, tid, time_ns, flags)
        return
    changes = kind in (Kind.SET_DIRECT_MAP, Kind.CPA)
    split = state.pending_splits.get(tid)
    if split is not None and changes and split[0] <= pfn < split[0] + split[1]:
        del state.pending_splits[tid]  # this call made it, and is a request of its own
    elif split is not None:
        _settle_split(state, tid, time_ns)
    if not changes:
        _take_of_cache(state, kind, time_ns, pfn, tgid, aux, order, flags)
    elif aux != 0 or flags & (Flag.IN_CACHE | Flag.IN_SHRINK):
        return  # it failed, or is the cache's own doing
    elif kind == Kind.CPA:
        _change_range(state, pfn, nr_pages, bool(after & Mapping.ABSENT), time_ns)
    elif flags & Flag.VALID_NR and nr_pages != 1:
        _change_range(state, pfn, nr_pages, bool(flags & Flag.INVALID), time_ns)
    elif flags & Flag.INVALID:
        state.allocate(pfn, 0, tgid, time_ns)
    elif flags & Flag.DEFAULT:
        state.free(pfn, time_ns)


def _take_split(state: _Recorded, pfn: int, nr_pages: int, tid: int, time_ns: int, flags: int) -> None:
    if flags & (Flag.KERNEL_IMAGE | Flag.OTHER_MAPPING):
        return
    before = state.pending_splits.get(tid)
    if before is None or not before[0] <= pfn < before[0] + before[1]:  # else 2M of the 1G that it has just split
        _settle_split(state, tid, time_ns)
    state.pending_splits[tid] = (pfn, nr_pages)


def _take_of_cache(state: _Recorded, kind: int, time_ns: int, pfn: int, tgid: int, aux: int, order: int, flags: int) -> None:
    """What the cache of the series reports, which also tells that there is one."""
    if kind in (Kind.ALLOC, Kind.FREE, Kind.REFILL):
        state.cached = True
    if kind == Kind.ALLOC and not flags & Flag.FAILED:
        state.allocate(pfn, order, tgid, time_ns)
    elif kind == Kind.FREE:
        state.free(pfn, time_ns)
    elif kind == Kind.REFILL:
        state.refill(pfn, order)
    elif kind == Kind.REFILL_UNDONE:
        state.undo_refill(pfn, order)
    elif kind == Kind.UNCERTAIN:
        state.skipped += 1
    elif kind == Kind.SHRINK:
        state.builder.shrink(aux, time_ns=time_ns)


def _change_range(state: _Recorded, pfn: int, nr_pages: int, absent: bool, time_ns: int) -> None:
    state.builder.change_range(pfn, nr_pages, absent=absent, restore=not absent, time_ns=time_ns)


def _settle_split(state: _Recorded, tid: int, time_ns: int) -> None:
    """A split that no presence change explains (read only code: a module, BPF) was a change of some page of the mapping."""
    split = state.pending_splits.pop(tid, None)
    if split is not None:
        state.builder.change_range(split[0], 1, time_ns=time_ns)
