# SPDX-License-Identifier: Apache-2.0
"""What a large host costs: memory by what is split and absent, work in proportion to records and to what changed."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tests.model.build import counters, start
from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.units import PAGES_PER_2M, Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.columns import Columns
from uaptrace.model.direct_map import DirectMap
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CountersReading, MapReading, Records

MIB = 1 << 20
REGIONS_PER_TIB = 1 << 19


def synthetic_tib(split_percent: int) -> MapReading:
    """1 TiB of 2M mappings, of which some are split, each with a few pages absent."""
    levels = np.full(REGIONS_PER_TIB, Level.M2, np.uint8)
    split = np.arange(0, REGIONS_PER_TIB, 100 // split_percent, dtype=np.int64)
    levels[split] = Level.K4
    pages = np.ones((len(split), PAGES_PER_2M), np.uint8)
    pages[:, ::97] = 2
    return MapReading(1, 2, 0, levels, split, pages, True)


@pytest.mark.parametrize(("split_percent", "limit_mib"), [(1, 200), (100, 600)])
def test_a_tebibyte_takes_memory_by_what_is_split(split_percent: int, limit_mib: int) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        reading = synthetic_tib(split_percent)
        begin = time.process_time()
        direct_map = DirectMap()
        direct_map.load(reading)
        figures = direct_map.figures()
        seconds = time.process_time() - begin
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = direct_map.nbytes
    print(f"\n1 TiB, {split_percent}% split: at most {peak / MIB:.0f} MiB with the reading, {held / MIB:.0f} MiB held, {seconds:.2f} s")
    assert peak < limit_mib * MIB
    nr_split = len(reading.split_regions)
    assert figures.nr_regions_split == figures.nr_regions_touched == nr_split
    assert figures.absent_pages[Level.K4] == nr_split * len(range(0, PAGES_PER_2M, 97))
    assert figures.present_pages[Level.M2] == (REGIONS_PER_TIB - nr_split) * PAGES_PER_2M


def test_what_is_split_and_wholly_present_takes_no_row() -> None:
    reading = synthetic_tib(10)
    reading.pages[:] = 1
    direct_map = DirectMap()
    direct_map.load(reading)
    assert direct_map.figures().nr_regions_split == len(reading.split_regions)
    assert direct_map.nbytes < 32 * MIB


def test_a_sparse_physical_space_takes_no_memory_until_it_is_touched() -> None:
    direct_map = DirectMap()
    batch = np.zeros(1, RECORD)
    batch["kind"], batch["pfn"], batch["nr_pages"], batch["after"] = Kind.SET_DIRECT_MAP, (4 << 40) >> 12, 1, 129
    before = _resident_pages()
    direct_map.apply(Columns(batch))
    assert direct_map.figures().absent_pages[Level.K4] == 1
    assert (_resident_pages() - before) * 4096 < 48 * MIB


def _resident_pages() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])
    except OSError:
        pytest.skip("resident memory is read from /proc")


class CountingMap(DirectMap):
    """Counts the rows that are counted again."""

    rows_counted = 0

    def _recount(self) -> None:
        type(self).rows_counted += int(np.count_nonzero(self.rows.dirty[: self.rows.nr_slots]))
        super()._recount()


def test_a_snapshot_counts_only_what_changed() -> None:
    direct_map = CountingMap()
    direct_map.load(synthetic_tib(10))
    direct_map.figures()
    assert CountingMap.rows_counted == REGIONS_PER_TIB // 10 + 1
    CountingMap.rows_counted = 0
    batch = np.zeros(300, RECORD)
    batch["kind"], batch["nr_pages"], batch["after"] = Kind.SET_DIRECT_MAP, 1, 129
    batch["pfn"] = np.repeat(np.arange(0, 300, 10), 10) * PAGES_PER_2M + np.tile(np.arange(1, 11), 30)
    direct_map.apply(Columns(batch))
    direct_map.figures()
    assert CountingMap.rows_counted == 30


def splits(number: int) -> Batch:
    """Every record splits another region."""
    batch = np.zeros(number, RECORD)
    batch["kind"], batch["nr_pages"], batch["before"], batch["after"] = Kind.SPLIT, PAGES_PER_2M, Level.M2, Level.K4
    batch["pfn"] = np.arange(number) * PAGES_PER_2M
    batch["time_ns"] = np.arange(number) + 10
    batch["tid"] = batch["tgid"] = 7
    return batch


def test_splitting_everything_is_counted_once_each() -> None:
    """The time is printed, not judged: three sizes, to be seen to grow in proportion."""
    for number in (50_000, 100_000, 200_000):
        state = KernelState()
        state.update(start(has_series=False))
        state.update(MapReading(1, 2, 0, np.full(number, 2, np.uint8), np.empty(0, np.int64), np.empty((0, 512), np.uint8), True))
        batch = splits(number)
        begin = time.process_time()
        state.update(Records(batch))
        seconds = time.process_time() - begin
        print(f"\n{number} splits of new regions: {number / max(seconds, 1e-9) / 1e6:.1f} million records/s")
        assert state.direct_map.figures().nr_regions_split == number
        assert sum(state.snapshot(0, 0.0).splits.by_cause.values()) == number
        assert state.needs_map_reading is None


def test_an_empty_state_has_a_snapshot_for_every_view() -> None:
    for has_series in (None, False, True):
        state = KernelState()
        if has_series is not None:
            state.update(start(has_series=has_series))
        snapshot = state.snapshot(5, 6.0, regions=True)
        assert (snapshot.time_ns, snapshot.wall_time_s) == (5, 6.0)
        assert not snapshot.exactness.exact
        assert (snapshot.cache is None) is not has_series
        assert snapshot.direct_map.total_bytes == 0
        assert snapshot.direct_map.large_share is None
        assert snapshot.direct_map.absent_pages_per_touched_region is None
        assert snapshot.regions is not None
        assert len(snapshot.regions.level) == 0
        assert (snapshot.processes, snapshot.split_rows) == ((), ())
        assert len(snapshot.audit) == 11
        assert set(snapshot.counters) == {c.name.lower() for c in Counter if c < Counter.REFILL_ORDER}
        assert set(snapshot.latency) == {"cache_hit", "cache_refill", "cache_free", "shrink", "set_invalid", "set_default", "cpa"}
        assert set(snapshot.operations) == {
            "set_invalid",
            "set_default",
            "cpa",
            "cache_alloc",
            "cache_free",
            "cache_release",
            "cache_refill",
        }


def test_garbage_in_the_ring_is_counted_and_never_a_crash() -> None:
    random = np.random.default_rng(1)
    fields: Any = random.integers(0, 256, (5000, RECORD.itemsize), dtype=np.uint8)
    batch = fields.reshape(-1).view(RECORD)
    state = KernelState()
    state.update(start())
    state.update(MapReading(1, 2, 0, np.full(64, 2, np.uint8), np.empty(0, np.int64), np.empty((0, 512), np.uint8), True))
    state.update(Records(batch))
    batch = batch.copy()
    batch["kind"] %= 15
    batch["pfn"] %= 1 << 30
    batch["nr_pages"] %= 3000
    state.update(Records(batch))
    reading = counters(time_ns=10)
    assert isinstance(reading, CountersReading)
    state.update(reading)
    snapshot = state.snapshot(11, 0.0)
    assert snapshot.loss.decode_errors > 4000
    assert snapshot.loss.events_taken == 10_000
