# SPDX-License-Identifier: Apache-2.0
"""Sequences of updates for tests of recordings: arbitrary ones, and how to compare them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from uaptrace.abi.units import MAX_REGIONS, NR_ORDERS, Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update
from uaptrace.recording.checks import MAX_COUNT, MAX_NS, MAX_WALL_S

U64 = st.integers(0, 2**64 - 1)
TIMES = st.integers(0, MAX_NS)
ROWS = st.none() | st.tuples(*[st.integers(0, 2**40)] * 11)
LEVELS = st.dictionaries(st.sampled_from(list(Level)), st.integers(0, 2**50), max_size=3)
TEXT = st.text(max_size=12)

HOOK = st.builds(HookStatus, name=TEXT, symbol=st.none() | TEXT, mechanism=st.none() | TEXT, reason=TEXT)

START = st.builds(
    Start,
    host=st.builds(
        HostInfo,
        hostname=TEXT,
        kernel_release=TEXT,
        boot_id=TEXT,
        nr_cpus=st.integers(0, 4096),
        memory_bytes=st.none() | st.integers(0, 2**50),
        paging_levels=st.sampled_from([None, 4, 5]),
        has_series=st.booleans(),
        kfence=st.booleans(),
    ),
    hooks=st.lists(st.builds(HookStatus, name=TEXT, symbol=st.none() | TEXT, mechanism=st.none() | TEXT, reason=TEXT), max_size=3).map(
        tuple
    ),
    time_ns=TIMES,
    wall_time_s=st.floats(0, MAX_WALL_S),
    self_tgids=st.frozensets(st.integers(1, 2**22), max_size=3),
    splits_during_attach=LEVELS,
    ring_bytes=st.integers(0, 2**40),
)


@st.composite
def batches(draw: st.DrawFn, max_size: int = 40) -> Batch:
    """Records of any bytes whatever that a file may have, kinds that exist more often than others."""
    raw = draw(st.binary(max_size=max_size * RECORD.itemsize))
    batch = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD).copy()
    if len(batch) and draw(st.booleans()):
        batch["kind"] %= 15
    batch["time_ns"] %= MAX_NS
    batch["order"] %= NR_ORDERS
    return batch


@st.composite
def map_readings(draw: st.DrawFn) -> MapReading:
    levels = np.array(draw(st.lists(st.sampled_from([0, 1, 2, 3, 0x82, 0x83]), max_size=12)), np.uint8)
    first = draw(st.integers(0, MAX_REGIONS - 12))
    split = np.flatnonzero(levels == Level.K4).astype(np.int64) + first
    fill = draw(st.integers(0, 2)) if draw(st.booleans()) else None
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pages = rng.integers(0, 3, (len(split), 512)).astype(np.uint8) if fill is None else np.full((len(split), 512), fill, np.uint8)
    complete = draw(st.booleans()) and not (levels & 3 == Level.G1).any()
    unreadable = tuple(draw(st.lists(st.integers(0, MAX_REGIONS - 1), max_size=3)))
    return MapReading(draw(TIMES), draw(TIMES), first, levels, split, pages, complete, unreadable)


@st.composite
def cache_readings(draw: st.DrawFn) -> CacheReading:
    largest = 1 << (NR_ORDERS - 1)
    blocks = draw(st.dictionaries(st.integers(0, MAX_REGIONS // 2 - 1), st.integers(0, NR_ORDERS - 1), max_size=8))
    pfns, orders = np.array(list(blocks), np.int64) * largest, np.array(list(blocks.values()), np.uint8)
    return CacheReading(draw(TIMES), draw(TIMES), pfns, orders, draw(ROWS), draw(ROWS), draw(ROWS), draw(st.booleans()))


@st.composite
def counters_readings(draw: st.DrawFn) -> CountersReading:
    words = np.zeros(512, np.uint64)
    for i, n in draw(st.dictionaries(st.integers(0, 511), st.integers(0, MAX_COUNT), max_size=6)).items():
        words[i] = n
    return CountersReading(
        time_ns=draw(TIMES),
        words=words,
        missed_runs=draw(st.integers(0, 2**40)),
        splits_total=draw(st.none() | LEVELS),
        collapses_total=draw(st.none() | LEVELS),
        direct_map_bytes=draw(st.none() | LEVELS),
        rows_free=draw(ROWS),
        rows_cached=draw(ROWS),
        rows_released=draw(ROWS),
        quiet=draw(st.booleans()),
        pageblock_bits=draw(st.dictionaries(st.integers(0, MAX_REGIONS - 1), st.booleans(), max_size=4)),
        hooks_off=draw(st.dictionaries(st.sampled_from([silence.value for silence in Silence]), st.text(max_size=9), max_size=2)),
        unseen_pages=draw(st.integers(0, 2**40)),
    )


UPDATES = st.one_of(
    START,
    batches().map(Records),
    map_readings(),
    cache_readings(),
    counters_readings(),
    st.dictionaries(U64, TEXT, max_size=4).map(Symbols),
    st.dictionaries(U64, TEXT, max_size=4).map(Cgroups),
)


def plain(updates: Iterable[Update]) -> list[Any]:
    """What a sequence says, comparable with ``==``: neighbouring records joined (where batches are cut means nothing)."""
    out: list[Any] = []
    for update in updates:
        if isinstance(update, Records):
            raw = update.batch.astype(RECORD).tobytes()
            if out and isinstance(out[-1], bytes):
                out[-1] += raw
            elif raw:
                out.append(raw)
            continue
        said: list[tuple[object, ...]] = []
        for name in type(update).__slots__:
            value = getattr(update, name)
            if isinstance(value, np.ndarray):
                said.append((name, value.dtype.str, value.shape, value.tobytes()))
            elif hasattr(value, "items"):
                said.append((name, dict(value)))
            else:
                said.append((name, value))
        out.append((type(update), tuple(said)))
    return out
