# SPDX-License-Identifier: Apache-2.0
"""Records, readings and states made by hand, for tests of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from uaptrace.abi.events import COUNTER_WORDS, Counter, Flag, Kind
from uaptrace.abi.units import NR_ORDERS, PAGES_PER_2M, Level
from uaptrace.abi.wire import RECORD, RING_RECORD, Batch
from uaptrace.model.columns import Columns
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo, InvariantRow, Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CacheReading, CountersReading, MapReading, Records, Start, Update

SECOND_NS = 1_000_000_000
NO_ROWS = (0,) * NR_ORDERS
ABSENT_4K = 1 | 128
PRESENT_4K = 1


class Ring:
    """Records one after the other, each a microsecond after the one before unless ``time_ns`` says otherwise."""

    def __init__(self, time_ns: int = 1000) -> None:
        self.time_ns = time_ns
        self.rows: list[dict[str, Any]] = []
        self.taken = 0

    def add(self, kind: Kind, **fields: Any) -> Ring:
        self.time_ns = fields.pop("time_ns", self.time_ns + 1000)
        fields.setdefault("nr_pages", 1 << fields.get("order", 0))
        fields.setdefault("tgid", fields.get("tid", 0))
        self.rows.append({"kind": int(kind), "time_ns": self.time_ns, **fields})
        return self

    def task(self, tgid: int, comm: str, started_ns: int = 0) -> Ring:
        self.rows.append({"kind": int(Kind.TASK), "time_ns": self.time_ns, "tgid": tgid, "comm": comm, "cgroup_id": started_ns})
        return self

    def stack(self, stack_id: int, frames: Sequence[int]) -> Ring:
        for i in range(0, len(frames), 4):
            four = [*frames[i : i + 4], 0, 0, 0][:4]
            self.rows.append(
                {
                    "kind": int(Kind.STACK),
                    "time_ns": self.time_ns,
                    "stack_id": stack_id,
                    "order": i // 4,
                    "nr_present": len(frames),
                    "frames": four,
                }
            )
        return self

    def split(self, pfn: int, *, level: Level = Level.M2, **fields: Any) -> Ring:
        nr = level.nr_pages
        return self.add(Kind.SPLIT, pfn=pfn // nr * nr, nr_pages=nr, **{"before": int(level), "after": int(level) - 1} | fields)

    def unmap(self, pfn: int, **fields: Any) -> Ring:
        return self.add(Kind.SET_DIRECT_MAP, pfn=pfn, **{"after": ABSENT_4K, "before": PRESENT_4K, "flags": Flag.INVALID} | fields)

    def remap(self, pfn: int, **fields: Any) -> Ring:
        return self.add(Kind.SET_DIRECT_MAP, pfn=pfn, **{"after": PRESENT_4K, "before": ABSENT_4K, "flags": Flag.DEFAULT} | fields)

    def request(self, tid: int, order: int = 0, **fields: Any) -> Ring:
        return self.add(Kind.REQUEST, tid=tid, order=order, **fields)

    def refill(self, tid: int, pfn: int, order: int = 9, **fields: Any) -> Ring:
        return self.add(Kind.REFILL, tid=tid, pfn=pfn, order=order, **fields)

    def refilled(self, tid: int, pfn: int, order: int = 9, **fields: Any) -> Ring:
        return self.add(Kind.REFILLED, tid=tid, pfn=pfn, order=order, **{"flags": Flag.FLUSH_COVERS, "after": ABSENT_4K} | fields)

    def alloc(self, tid: int, pfn: int, order: int = 0, **fields: Any) -> Ring:
        return self.add(Kind.ALLOC, tid=tid, pfn=pfn, order=order, **{"after": ABSENT_4K} | fields)

    def free(self, tid: int, pfn: int, order: int = 0, **fields: Any) -> Ring:
        return self.add(Kind.FREE, tid=tid, pfn=pfn, order=order, **{"after": ABSENT_4K} | fields)

    def release(self, tid: int, pfn: int, order: int = 0, **fields: Any) -> Ring:
        full = {"after": PRESENT_4K, "nr_present": 1 << order, "flags": Flag.IN_SHRINK}
        return self.add(Kind.RELEASE, tid=tid, pfn=pfn, order=order, **full | fields)

    def undone(self, tid: int, pfn: int, order: int = 9, **fields: Any) -> Ring:
        return self.add(Kind.REFILL_UNDONE, tid=tid, pfn=pfn, order=order, **fields)

    def batch(self, *, ring_layout: bool = False) -> Batch:
        """All records, in the recording's or in the ring's layout."""
        return make_batch(self.rows, ring_layout=ring_layout)

    def take(self) -> Records:
        """The records since the last call."""
        rows, self.taken = self.rows[self.taken :], len(self.rows)
        return Records(make_batch(rows))


def make_batch(rows: Iterable[Mapping[str, Any]], *, ring_layout: bool = False) -> Batch:
    """A structured array out of one dictionary for each record."""
    rows = list(rows)
    batch = np.zeros(len(rows), RING_RECORD if ring_layout else RECORD)
    skip = 8 if ring_layout else 0
    raw = batch.view(np.uint8).reshape(len(rows), batch.dtype.itemsize)
    for name in RECORD.names or ():
        batch[name] = [row.get(name, 0) for row in rows]
    for i, row in enumerate(rows):
        if "comm" in row:
            raw[i, skip + 8 : skip + 24] = np.frombuffer(row["comm"].encode()[:16].ljust(16, b"\0"), np.uint8)
        if "frames" in row:
            raw[i, skip + 8 : skip + 40] = np.array(row["frames"], "<u8").view(np.uint8)
    return batch


def columns(batch: Batch) -> Columns:
    return Columns(batch)


def cut(batch: Batch, sizes: Iterable[int]) -> list[Batch]:
    """The batch in pieces of the given sizes, and what is left in one."""
    pieces, at = [], 0
    for size in sizes:
        if at >= len(batch):
            break
        pieces.append(batch[at : at + size])
        at += size
    if at < len(batch):
        pieces.append(batch[at:])
    return pieces


def map_reading(
    levels: Sequence[int], rows: Mapping[int, np.ndarray] | None = None, *, first_region: int = 0, begin_ns: int = 0, complete: bool = True
) -> MapReading:
    """A reading; ``rows``: 512 page states by region, for those at 4K (wholly present where none is given)."""
    array = np.array(levels, np.uint8)
    split = np.flatnonzero(array == Level.K4) + first_region
    pages = np.ones((len(split), PAGES_PER_2M), np.uint8)
    for i, region in enumerate(split.tolist()):
        if rows is not None and region in rows:
            pages[i] = rows[region]
    return MapReading(begin_ns, begin_ns + 1, first_region, array, split.astype(np.int64), pages, complete)


def cache_reading(
    blocks: Sequence[tuple[int, int]] = (), *, time_ns: int = 0, rows: tuple[tuple[int, ...], ...] | None = None
) -> CacheReading:
    """A reading of free blocks, each (pfn, order)."""
    free, cached, released = rows if rows is not None else (None, None, None)
    pfns, orders = np.array([b[0] for b in blocks], np.int64), np.array([b[1] for b in blocks], np.uint8)
    return CacheReading(time_ns, time_ns, pfns, orders, free, cached, released, atomic=True)


def counters(
    batches: Iterable[Batch] = (),
    *,
    time_ns: int,
    words: Mapping[int, int] | None = None,
    lost: Mapping[Kind, int] | None = None,
    quiet: bool = True,
    **fields: Any,
) -> CountersReading:
    """A reading in which what was sent is what ``batches`` have, with further words and losses on top."""
    w = np.zeros(COUNTER_WORDS, np.uint64)
    for batch in batches:
        w[Counter.EMITTED : Counter.EMITTED + 16] += np.bincount(batch["kind"], minlength=16).astype(np.uint64)
    for kind, number in (lost or {}).items():
        w[Counter.LOST + kind] += np.uint64(number)
    for index, number in (words or {}).items():
        w[index] = number
    known: dict[str, Any] = {
        "missed_runs": 0,
        "splits_total": None,
        "collapses_total": None,
        "direct_map_bytes": None,
        "rows_free": None,
        "rows_cached": None,
        "rows_released": None,
    }
    return CountersReading(time_ns=time_ns, words=w, quiet=quiet, **known | fields)


def start(
    *,
    has_series: bool = True,
    hooks: tuple[HookStatus, ...] = (),
    self_tgids: frozenset[int] = frozenset(),
    counts_entries: bool = False,
    time_ns: int = 0,
) -> Start:
    return Start(HostInfo(has_series=has_series), hooks, time_ns, 0.0, self_tgids, counts_entries=counts_entries)


def traced(nr_regions: int = 16, *, level: Level = Level.M2, has_series: bool = True, **fields: Any) -> KernelState:
    """A state with an empty cache and a direct map of equal regions, all read."""
    state = KernelState()
    updates: list[Update] = [start(has_series=has_series, **fields), map_reading([int(level)] * nr_regions)]
    if has_series:
        updates.append(cache_reading(rows=(NO_ROWS, NO_ROWS, NO_ROWS)))
    for update in updates:
        state.update(update)
    return state


def invariant(snapshot: Snapshot, number: int) -> InvariantRow:
    return next(row for row in snapshot.audit if row.number == number)
