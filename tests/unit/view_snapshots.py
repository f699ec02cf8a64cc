# SPDX-License-Identifier: Apache-2.0
"""Snapshots for the tests of views, built through the dataclasses of the model (no captured data)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from uaptrace.abi.events import SCALAR_COUNTERS
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level
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

TLB = (TlbPart(1, 64, (Level.K4,)), TlbPart(2, 1536, (Level.K4, Level.M2)), TlbPart(2, 16, (Level.G1,)))
"""Of a Cascade Lake."""

START_NS = 3_000_000_000
MIB = 1 << 20
TITLES = (
    "A flagged request enters the cache",
    "Every page handed out is absent",
    "A refill unmaps and flushes the whole chunk",
    "set_direct_map_*() returned 0",
    "List changes happen under one lock",
    "The pageblock bit is clear once the block is empty",
    "A page freed into the cache came from it",
    "A released page is present before it is reused",
    "No page content outlives its owner",
    "A released chunk stays split",
    "The shrinker releases about what it was asked for",
)
STACK = (
    "__change_page_attr_set_clr+0x5",
    "set_direct_map_invalid_noflush+0x6f",
    "unmapped_pages_alloc+0x2a1",
    "__alloc_pages+0x1d4",
    "secretmem_fault+0x7c",
    "__do_fault+0x36",
    "do_fault+0x1b0",
    "handle_mm_fault+0x11a",
    "do_user_addr_fault+0x1cd",
    "exc_page_fault+0x68",
    "asm_exc_page_fault+0x22",
)


def regions(gigabytes: int = 6, *, layout: str = "grouped", nr_touched: int = 8, seed: int = 1, hole: bool = True) -> RegionTable:
    """A table of 2M regions: 1G mappings above 4 GiB, 2M below, and absences that are grouped or scattered."""
    total = (gigabytes + (1 if hole else 0)) * REGIONS_PER_1G
    level = np.full(total, Level.M2, np.uint8)
    level[2 * REGIONS_PER_1G :] = Level.G1
    if hole:
        level[3 * REGIONS_PER_1G : 4 * REGIONS_PER_1G] = Level.NONE
    absent = np.zeros(total, np.uint16)
    cached = np.zeros(total, np.uint16)
    split = np.zeros(total, np.bool_)
    level[0] = Level.K4
    rng = np.random.default_rng(seed)
    memory = np.flatnonzero((level == Level.M2) | (level == Level.G1))
    if layout == "grouped":
        first = int(np.searchsorted(memory, REGIONS_PER_1G + 77))
        chosen = memory[first : first + nr_touched]
        absent[chosen] = 512
        cached[chosen[-2:]] = 300
    elif layout == "scattered":
        chosen = rng.choice(memory, min(nr_touched * 61, len(memory) // 2), replace=False)
        absent[chosen] = rng.integers(1, 17, len(chosen))
    else:
        chosen = memory[:0]
    split[chosen] = True
    for giant in np.unique(chosen // REGIONS_PER_1G):
        part = slice(giant * REGIONS_PER_1G, (giant + 1) * REGIONS_PER_1G)
        level[part] = np.where(level[part] == Level.G1, Level.M2, level[part])
    level[chosen] = Level.K4
    for array in (level, absent, cached, split):
        array.setflags(write=False)
    return RegionTable(level, absent, cached, split)


def direct_map(table: RegionTable) -> DirectMapView:
    """The view that goes with a table."""
    size = {lv: int(np.count_nonzero(table.level == lv)) * PAGES_PER_2M * PAGE_SIZE for lv in (Level.K4, Level.M2, Level.G1)}
    absent = int(table.nr_absent.sum()) * PAGE_SIZE
    size[Level.K4] -= absent
    intact = np.isin(table.level, (Level.M2, Level.G1)).astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], intact, [0]))))
    longest = int((edges[1::2] - edges[::2]).max(initial=0)) * PAGES_PER_2M * PAGE_SIZE
    return DirectMapView(
        present_bytes=size,
        absent_bytes_by_level={Level.K4: absent, Level.M2: 0, Level.G1: 0},
        nr_regions_touched=int(np.count_nonzero(table.nr_absent)),
        nr_regions_split=int(np.count_nonzero(table.level == Level.K4)),
        nr_regions_stranded=int(np.count_nonzero((table.level == Level.K4) & (table.nr_absent == 0) & table.was_split)),
        largest_intact_bytes=longest,
        kernel_bytes={Level.K4: size[Level.K4] + absent, Level.M2: size[Level.M2], Level.G1: size[Level.G1]},
    )


def histogram(middle: int, count: int) -> Histogram:
    """Durations around 2**middle ns."""
    buckets = [0] * 32
    for offset, weight in ((-1, 0.2), (0, 0.6), (1, 0.15), (3, 0.05)):
        buckets[middle + offset] = int(count * weight)
    return Histogram(tuple(buckets), count << middle)


def make(seconds: float = 60.0, *, layout: str = "grouped", series: bool = True, with_regions: bool = True, gigabytes: int = 6) -> Snapshot:
    """A busy, exact snapshot ``seconds`` after tracing began; counts grow with it."""
    n = int(seconds * 10)
    table = regions(gigabytes, layout=layout, nr_touched=8 + n // 100)
    free = (3, 1, 0, 2, 1, 0, 1, 0, 1, 0, 0)
    cache = UnmappedCacheView(
        free=free,
        cached=(0, 0, 0, 0, 0, 0, 1, 0, 0, 7 + n // 60, 0),
        released=(n // 70, 2, 0, 1, 0, 0, 0, 0, 0, 2, 0),
        allocated=(61 * n, 3 * n, n // 3, 0, 0, 0, 0, 0, 0, 0, 0),
        freed=(60 * n, 3 * n, n // 3, 0, 0, 0, 0, 0, 0, 0, 0),
        handed_out_pages=1021,
        requests=64 * n,
        hits=64 * n - 9 - n // 60,
        refills=9 + n // 60,
        refill_fallbacks=1,
        failures=0,
        kernel_free=free,
        kernel_cached=None,
        kernel_released=None,
    )
    splits = SplitsView(
        by_cause={
            (Level.M2, Cause.UNMAPPED_ALLOC): 8 + n // 60,
            (Level.M2, Cause.MODULE): 12,
            (Level.M2, Cause.BPF): 3,
            (Level.G1, Cause.UNMAPPED_ALLOC): 1,
            (Level.M2, Cause.SELF): 2,
        },
        unexplained={Level.M2: 0, Level.G1: 0},
        during_attach={Level.M2: 2, Level.G1: 1},
        kernel_total={Level.M2: 61 + n // 60, Level.G1: 3},
        kernel_collapses={Level.M2: n // 120, Level.G1: 0},
        other_mappings=4,
    )
    rows = tuple(
        SplitRow(
            level,
            cause,
            tgid,
            comm,
            77,
            cgroup,
            1000 + i,
            stack,
            count,
            START_NS + 10**9 * i,
            START_NS + 10**9 * (i + 5),
            (262144 + 512 * i,),
        )
        for i, (level, cause, tgid, comm, cgroup, stack, count) in enumerate(
            (
                (Level.M2, Cause.UNMAPPED_ALLOC, 4211, "signer", "/system.slice/signer.service", STACK, 8 + n // 60),
                (
                    Level.M2,
                    Cause.MODULE,
                    512,
                    "modprobe",
                    "/user.slice/user-0.slice",
                    (*STACK[:2], "module_alloc+0x91", "load_module+0x5aa"),
                    12,
                ),
                (Level.M2, Cause.BPF, 733, "bpftool", "/user.slice/user-0.slice", ("bpf_prog_pack_alloc+0x44",), 3),
                (Level.M2, Cause.SELF, 900, "uaptrace", "/system.slice/uaptrace.service", (), 2),
                (Level.G1, Cause.UNMAPPED_ALLOC, 4211, "signer", "", STACK, 1),
            )
        )
    )
    processes = tuple(
        ProcessRow(tgid, comm, 77 + tgid % 5, cgroup, events, allocated, allocated - 11, calls, split, refills)
        for tgid, comm, cgroup, events, allocated, calls, split, refills in (
            (4211, "signer", "/system.slice/signer.service", 80 * n, 61 * n, 122 * n, 9, 9),
            (512, "modprobe", "/user.slice/user-0.slice/session-3.scope", 9 * n, 3 * n, 6 * n, 12, 1),
            (61, "kswapd0", "/", 37, 11, 2048, 0, 0),
            (733, "bpftool", "", 21, 0, 0, 3, 0),
            (
                1207,
                "kubepods-agent",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f1c.slice/cri-containerd-77aa.scope",
                12,
                11,
                12,
                0,
                0,
            ),
        )
    )
    hooks = tuple(
        HookStatus(name, name, mechanism, reason)
        for name, mechanism, reason in (
            ("set_direct_map_invalid_noflush", "caller", ""),
            ("set_direct_map_default_noflush", "caller", ""),
            ("__change_page_attr_set_clr", "fentry", ""),
            ("flush_tlb_all", "fentry", ""),
            ("__alloc_pages", "fentry", ""),
            ("set_direct_map_valid_noflush", None, "function not in this kernel"),
        )
    )
    audit = tuple(InvariantRow(i + 1, title, n * 3 if i not in (4, 9) else 0, 0, (), "") for i, title in enumerate(TITLES))
    names = ("cache_hit", "cache_refill", "cache_free", "shrink", "set_invalid", "set_default", "cpa")
    latency = {name: histogram(middle, 64 * n) for name, middle in zip(names, (10, 20, 9, 18, 12, 12, 13), strict=True)}
    calls = {
        "set_invalid": 512 * (9 + n // 60),
        "set_default": 512 * 2,
        "cpa": 700 + n,
        "cache_alloc": 64 * n,
        "cache_free": 63 * n,
        "cache_release": n // 70 + 5,
        "cache_refill": 9 + n // 60,
    }
    snapshot = Snapshot(
        time_ns=START_NS + int(seconds * 1e9),
        wall_time_s=1_750_000_000.0 + seconds,
        start_time_ns=START_NS,
        host=HostInfo("vm-61", "6.1.192-uaptrace", "3f8a", 2, gigabytes << 30, 5, series, False, tlb=TLB),
        exactness=Exactness(True, (), START_NS + int(seconds * 1e9), 1),
        loss=Loss(events_taken=200 * n, lost_by_kind={}),
        direct_map=direct_map(table),
        splits=splits,
        cache=cache,
        operations={name: OperationView(number, 0) for name, number in calls.items()},
        latency=latency,
        shrinker=ShrinkerView(n // 50, n // 40, 128 * (n // 50), 120 * (n // 50)),
        counters={c.name.lower(): n for c in SCALAR_COUNTERS},
        processes=processes,
        split_rows=rows,
        audit=audit,
        hooks=hooks,
        reconcile_error_bytes=0,
        reconcile_error_blocks=0,
        regions=table if with_regions else None,
    )
    return snapshot if series else without_series(snapshot)


def without_series(snapshot: Snapshot) -> Snapshot:
    """The same on a kernel that has no unmapped cache."""
    return replace(
        snapshot,
        cache=None,
        shrinker=None,
        reconcile_error_blocks=None,
        operations={k: v for k, v in snapshot.operations.items() if not k.startswith("cache_")},
        latency={k: v for k, v in snapshot.latency.items() if not k.startswith("cache_") and k != "shrink"},
        host=replace(snapshot.host, has_series=False, kernel_release="6.12.107-amd64"),
    )


def inexact(snapshot: Snapshot) -> Snapshot:
    """The same with a loss."""
    return replace(
        snapshot,
        exactness=Exactness(False, ("1,234 events were lost; 17 regions wait to be read again", "a split was not explained"), START_NS, 3),
        loss=Loss(snapshot.loss.events_taken, 1234, {"set_direct_map": 1200, "alloc": 34}, 0, 0, 0),
    )


def silent(snapshot: Snapshot) -> Snapshot:
    """The same after kprobes were switched off and on again, and while a silence that nobody explains lasts."""
    found = {silence.value: 0 for silence in Silence} | {Silence.KPROBES_OFF.value: 2, Silence.UNSEEN_PAGES.value: 1}
    active = {silence.value: silence is Silence.UNSEEN_PAGES for silence in Silence}
    reasons = ("hooks are silent: 1,021 pages changed that none reported; 3 kinds of call are yet to be seen again",)
    return replace(snapshot, exactness=Exactness(False, reasons, START_NS, 3), silence=SilenceView(active, found, 1021))


def broken_audit(snapshot: Snapshot) -> Snapshot:
    """The same with invariant 2 broken."""
    violation = Violation(2, START_NS + 10**9, 262148, 1, "absent from the direct map", "4K present", 4211, "signer", STACK[:4])
    audit = tuple(
        replace(r, violated=13, first=(violation,), note="Refill left pages mapped.") if r.number == 2 else r for r in snapshot.audit
    )
    return replace(snapshot, audit=audit)


def empty() -> Snapshot:
    """The very first picture: nothing read, nothing counted, nothing known."""
    return Snapshot(
        time_ns=START_NS,
        wall_time_s=1_750_000_000.0,
        start_time_ns=START_NS,
        host=HostInfo(),
        exactness=Exactness(False, ("the direct map was not read yet",)),
        loss=Loss(),
        direct_map=DirectMapView(dict.fromkeys((Level.K4, Level.M2, Level.G1), 0), {}, 0, 0, 0, 0),
        splits=SplitsView({}, {}, {}),
        cache=None,
        operations={},
        latency={},
        shrinker=None,
        counters={},
    )
