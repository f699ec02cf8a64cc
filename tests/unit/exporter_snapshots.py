# SPDX-License-Identifier: Apache-2.0
"""Snapshots for the tests of the scrape endpoint: the smallest, and one of the largest host there can be."""

from __future__ import annotations

from typing import Any

import numpy as np

from uaptrace.abi.events import SCALAR_COUNTERS, Counter, HistogramId, Kind
from uaptrace.abi.units import NR_ORDERS, Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence
from uaptrace.model.snapshot import (
    Cause,
    DirectMapView,
    Exactness,
    Histogram,
    HostInfo,
    InvariantRow,
    Loss,
    OperationView,
    ProcessRow,
    RegionTable,
    ShrinkerView,
    SilenceView,
    Snapshot,
    SplitRow,
    SplitsView,
    UnmappedCacheView,
    Violation,
)
from uaptrace.model.tlb import TlbPart

LARGEST_NR_HOOKS = 22
"""More hooks than bpf/ has programs."""


def small_snapshot(exact: bool = True) -> Snapshot:
    """A kernel without the series on which nothing has happened yet and only what must be known is known."""
    return Snapshot(
        time_ns=5_000_000_000,
        wall_time_s=1_700_000_005.0,
        start_time_ns=4_000_000_000,
        host=HostInfo(),
        exactness=Exactness(exact, () if exact else ("3 events lost",)),
        loss=Loss(),
        direct_map=DirectMapView(
            present_bytes={Level.K4: 4096, Level.M2: 0, Level.G1: 0},
            absent_bytes_by_level={Level.K4: 0, Level.M2: 0, Level.G1: 0},
            nr_regions_touched=0,
            nr_regions_split=1,
            nr_regions_stranded=0,
            largest_intact_bytes=0,
        ),
        splits=SplitsView(by_cause={}, unexplained={}, during_attach={}),
        cache=None,
        operations={},
        latency={},
        shrinker=None,
        counters={},
        hooks=(HookStatus("cpa", "__change_page_attr_set_clr", "fentry"),),
    )


def largest_snapshot(nr_regions: int = 0) -> Snapshot:
    """Every figure known and different from every other, all tables full; a large host has no more series than this."""
    figures = iter(range(1_000_003, 10_000_000, 7))
    by_order = [tuple(next(figures) for _ in range(NR_ORDERS)) for _ in range(8)]
    cache_figures: tuple[Any, ...] = (*by_order[:5], *(next(figures) for _ in range(6)), *by_order[5:])
    levels = [{level: next(figures) << 12 for level in (Level.K4, Level.M2, Level.G1)} for _ in range(3)]
    split_levels = [{level: next(figures) for level in (Level.M2, Level.G1)} for _ in range(4)]
    stack = tuple(f"some_function_of_the_kernel_{i}+0x{i:x}" for i in range(32))
    violations = tuple(
        Violation(2, next(figures), next(figures), 512, "absent", "present, 4k", 4321, "secretmem-user", stack) for _ in range(8)
    )
    regions = None
    if nr_regions:
        random = np.random.default_rng(7)
        regions = RegionTable(
            level=random.integers(0, 4, nr_regions, np.uint8),
            nr_absent=random.integers(0, 513, nr_regions, np.uint16),
            nr_cached=random.integers(0, 513, nr_regions, np.uint16),
            was_split=random.integers(0, 2, nr_regions).astype(np.bool_),
        )
    return Snapshot(
        time_ns=987_654_321_012_345,
        wall_time_s=1_700_000_123.25,
        start_time_ns=4_000_000_000,
        host=HostInfo(
            "host-1.example",
            "6.1.0-uaptrace",
            "3f1c6d0a-1f0e-4b7e-9f3c-2f9b4b7d8a11",
            448,
            12 << 40,
            5,
            True,
            True,
            tlb=(TlbPart(2, 1536, (Level.K4, Level.M2)),),
        ),
        exactness=Exactness(False, ("12 events lost, being read again",), 987_653_000_000_000, 3),
        loss=Loss(
            events_taken=next(figures),
            events_lost=1400 + 5,
            lost_by_kind={kind.name.lower(): 100 for kind in Kind if kind is not Kind.NONE},
            decode_errors=next(figures),
            missed_runs=next(figures),
            contexts_lost=next(figures),
        ),
        direct_map=DirectMapView(levels[0], levels[1], next(figures), next(figures), next(figures), next(figures), kernel_bytes=levels[2]),
        splits=SplitsView(
            by_cause={(level, cause): next(figures) for level in (Level.M2, Level.G1) for cause in Cause},
            unexplained=split_levels[0],
            during_attach=split_levels[1],
            kernel_total=split_levels[2],
            kernel_collapses=split_levels[3],
            other_mappings=next(figures),
        ),
        cache=UnmappedCacheView(*cache_figures),
        operations={
            name: OperationView(next(figures), next(figures))
            for name in ("set_invalid", "set_default", "cpa", "cache_alloc", "cache_free", "cache_release", "cache_refill")
        },
        latency={
            which.name.lower(): Histogram(tuple(next(figures) for _ in range(32)), next(figures) * 1_000_003) for which in HistogramId
        },
        shrinker=ShrinkerView(*(next(figures) for _ in range(4))),
        counters={Counter(c).name.lower(): next(figures) for c in SCALAR_COUNTERS},
        processes=tuple(
            ProcessRow(i, f"process-{i}", i, f"/system.slice/unit-{i}.service", *(next(figures) for _ in range(6))) for i in range(64)
        ),
        split_rows=tuple(
            SplitRow(Level.M2, Cause.MODULE, i, f"process-{i}", i, "/user.slice", i, stack, 7, 1, next(figures), tuple(range(8)))
            for i in range(256)
        ),
        audit=tuple(InvariantRow(i, f"Invariant {i} in words", next(figures), next(figures), violations) for i in range(1, 12)),
        hooks=tuple(
            HookStatus(
                f"hook_{i}",
                f"symbol_{i}",
                ("fentry", "kprobe", "tracepoint", "caller", None)[i % 5],
                "" if i % 6 < 5 else "gone",
            )
            for i in range(LARGEST_NR_HOOKS)
        ),
        reconcile_error_bytes=next(figures),
        reconcile_error_blocks=next(figures),
        regions=regions,
        silence=SilenceView(
            {silence.value: True for silence in Silence}, {silence.value: next(figures) for silence in Silence}, next(figures)
        ),
    )
