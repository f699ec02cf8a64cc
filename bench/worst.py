# SPDX-License-Identifier: Apache-2.0
"""Events made for the benchmarks: the worst that can come (every event splits a mapping that was whole), and what goes on for ever."""

from __future__ import annotations

import numpy as np

from uaptrace.abi.events import Flag, Kind, Mapping
from uaptrace.abi.units import PAGES_PER_2M, Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import PAGE_PRESENT, MapReading, Start

REGIONS_PER_TIB = 1 << 19


def start() -> Start:
    """A host with the series and all hooks."""
    return Start(HostInfo(hostname="bench", nr_cpus=2, has_series=True), (), 1, 0.0, frozenset())


def reading(nr_regions: int, nr_split: int, *, absent_pages: int = 1) -> MapReading:
    """A baseline: ``nr_split`` regions, evenly spread, at 4K with ``absent_pages`` absent each; the rest at 2M."""
    levels = np.full(nr_regions, int(Level.M2), np.uint8)
    split = np.linspace(0, nr_regions - 1, nr_split).astype(np.int64) if nr_split else np.zeros(0, np.int64)
    levels[split] = int(Level.K4)
    pages = np.full((nr_split, PAGES_PER_2M), PAGE_PRESENT, np.uint8)
    pages[:, :absent_pages] = 2
    return MapReading(1, 2, 0, levels, split, pages, True)


def splits(nr_events: int, *, seed: int = 1) -> Batch:
    """``nr_events`` records: SPLIT of one 2M region after the other in random order, each with the page that was made absent behind it."""
    rng = np.random.default_rng(seed)
    nr_regions = (nr_events + 1) // 2
    regions = rng.permutation(REGIONS_PER_TIB)[:nr_regions].astype(np.uint64)
    records = np.zeros(2 * nr_regions, RECORD)
    records["time_ns"] = 1000 + 500 * np.arange(len(records), dtype=np.uint64)
    records["tid"] = records["tgid"] = 1000 + np.repeat(rng.integers(0, 16, nr_regions), 2)
    records["cgroup_id"] = 1
    records["stack_id"] = 1 + np.repeat(rng.integers(0, 16, nr_regions), 2)
    split, change = records[0::2], records[1::2]
    split["kind"], split["pfn"], split["nr_pages"] = Kind.SPLIT, regions * PAGES_PER_2M, PAGES_PER_2M
    split["before"], split["after"] = Mapping.M2, Mapping.K4
    change["kind"], change["nr_pages"], change["flags"] = Kind.SET_DIRECT_MAP, 1, Flag.INVALID
    change["pfn"] = regions * PAGES_PER_2M + rng.integers(0, PAGES_PER_2M, nr_regions).astype(np.uint64)
    change["before"], change["after"] = Mapping.M2, Mapping.K4 | Mapping.ABSENT
    return records[:nr_events]


def only_splits(nr_events: int, *, seed: int = 1) -> Batch:
    """``nr_events`` SPLIT records, each of a region of its own."""
    return np.ascontiguousarray(splits(2 * nr_events, seed=seed)[0::2])


def churn(nr_records: int) -> Batch:
    """Pages of 64 regions made absent and present in turn, by 16 processes: what goes on for ever on a busy host."""
    records = np.zeros(nr_records, RECORD)
    n = np.arange(nr_records, dtype=np.uint64)
    absent = (n & 1) == 0
    records["time_ns"] = 1000 + n
    records["tid"] = records["tgid"] = 1000 + n % 16
    records["kind"], records["nr_pages"] = Kind.SET_DIRECT_MAP, 1
    records["pfn"] = 100 * PAGES_PER_2M + (n // 2 * 7919) % (64 * PAGES_PER_2M)
    records["flags"] = np.where(absent, int(Flag.INVALID), int(Flag.DEFAULT))
    records["before"] = np.where(absent, int(Mapping.K4), int(Mapping.K4 | Mapping.ABSENT))
    records["after"] = np.where(absent, int(Mapping.K4 | Mapping.ABSENT), int(Mapping.K4))
    return records
