# SPDX-License-Identifier: Apache-2.0
"""Made-up hosts for the tests of dashboards: snapshots over time in which everything that a panel can show does happen.

These are no measurements and appear in no document: pictures for those are made from recordings (``tests.browser.pictures``).
The same seed gives the same snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from uaptrace.abi.events import Kind
from uaptrace.abi.units import NR_ORDERS, PAGES_PER_2M, REGIONS_PER_1G, Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import (
    Cause,
    DirectMapView,
    Exactness,
    Histogram,
    HostInfo,
    InvariantRow,
    Loss,
    OperationView,
    ShrinkerView,
    Snapshot,
    SplitsView,
    UnmappedCacheView,
)
from uaptrace.model.tlb import TlbPart
from uaptrace.model.walks import WalkCounts

TLB = (TlbPart(1, 64, (Level.K4,)), TlbPart(2, 1536, (Level.K4, Level.M2)), TlbPart(2, 16, (Level.G1,)))
"""Of a Cascade Lake."""

MIB = 1 << 20
SIZE_2M = 2 * MIB
SIZE_1G = 1024 * MIB
NS = 1_000_000_000
NR_CPUS = 32
KERNEL_CYCLES_A_SECOND = 150_000_000
"""Of a CPU that spends a twentieth of its time in the kernel."""
CYCLES_A_WALK = 30
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
MAP_HOOKS = {
    "cpa": "__change_page_attr_set_clr",
    "flush_all": "flush_tlb_all",
    "set_invalid": "set_direct_map_invalid_noflush",
    "set_default": "set_direct_map_default_noflush",
}
CACHE_HOOKS = {
    "cache_alloc": "unmapped_pages_alloc",
    "cache_free": "unmapped_pages_free",
    "cache_release": "__free_unmapped_page",
    "flush_range": "flush_tlb_kernel_range",
    "shrink_scan": "unmapped_alloc_scan_objects",
    "shrink_count": "unmapped_alloc_count_objects",
    "alloc_pages": "__alloc_pages",
}
OPTIONAL_HOOKS = ("set_valid", "alloc_pages_count")


def hooks(has_series: bool) -> tuple[HookStatus, ...]:
    """As the loader reports them on a kernel with or without the unmapped cache."""
    attached = MAP_HOOKS | (CACHE_HOOKS if has_series else {})
    absent = [*OPTIONAL_HOOKS, *(CACHE_HOOKS.keys() - attached.keys())]
    return (
        *(HookStatus(name, symbol, "fentry") for name, symbol in attached.items()),
        *(HookStatus(name, None, None, "not in this kernel") for name in sorted(absent)),
    )


MEAN_LATENCY_NS = {
    "cache_hit": 900,
    "cache_refill": 90_000,
    "cache_free": 700,
    "shrink": 400_000,
    "set_invalid": 450,
    "set_default": 480,
    "cpa": 9_000,
}


@dataclass(frozen=True)
class Profile:
    """What kind of host it is. Rates are per second."""

    name: str
    memory_gib: int = 64
    split_rates: dict[Cause, float] = field(default_factory=lambda: {Cause.MODULE: 0.02, Cause.BPF: 0.03, Cause.OTHER: 0.005})
    request_rate: float = 60.0
    has_series: bool = True
    already_split: float = 0.02
    """Share of memory that is in 4K mappings at the beginning."""
    loses_events: bool = False
    breaks_invariant: bool = False
    shrinker_works: bool = True
    counts_walks: bool = True
    """Somebody asked for it (``serve --count-walks``)."""
    counts_walk_cycles: bool = True
    """AMD's processors do not."""
    reboots_at: float | None = None
    """Share of the time shown after which the host boots another kernel."""


@dataclass
class _Figures:
    """What has happened on a host since tracing began."""

    splits: dict[tuple[Level, Cause], int] = field(default_factory=dict)
    size_1g: int = 0
    size_2m: int = 0
    size_4k: int = 0
    absent_pages: int = 0
    stranded: int = 0
    free: list[int] = field(default_factory=lambda: [0] * NR_ORDERS)
    cached: list[int] = field(default_factory=lambda: [0] * NR_ORDERS)
    released: list[int] = field(default_factory=lambda: [0] * NR_ORDERS)
    allocated: list[int] = field(default_factory=lambda: [0] * NR_ORDERS)
    freed: list[int] = field(default_factory=lambda: [0] * NR_ORDERS)
    handed_out: int = 0
    requests: int = 0
    hits: int = 0
    fallbacks: int = 0
    failures: int = 0
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("set_invalid", "set_default", "cpa"), 0))
    failed_calls: int = 0
    latency: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * 32 for name in MEAN_LATENCY_NS})
    latency_sum: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEAN_LATENCY_NS, 0))
    shrinks: int = 0
    asked: int = 0
    given: int = 0
    events: int = 0
    lost: int = 0
    rereads: int = 0
    cycles: int = 0
    walk_cycles: int = 0
    violations: int = 0
    last_exact_ns: int = 0


class Host:
    """One host, advanced step by step."""

    def __init__(self, profile: Profile, seed: int, start_wall_s: float) -> None:
        self.profile = profile
        self._random = np.random.default_rng(seed)
        self._kernel = "6.1.0-uaptrace"
        self._boot = 0
        self._begin(start_wall_s)

    def _begin(self, wall_s: float) -> None:
        self._start_wall_s = self._wall_s = wall_s
        self._figures = figures = _Figures()
        total = self.profile.memory_gib * SIZE_1G
        figures.size_4k = int(total * self.profile.already_split) // SIZE_2M * SIZE_2M
        figures.size_1g = (total - figures.size_4k) * 3 // 4 // SIZE_1G * SIZE_1G
        figures.size_2m = total - figures.size_4k - figures.size_1g
        figures.stranded = figures.size_4k // SIZE_2M // 3

    def reboot(self, kernel: str) -> None:
        """Start anew with another kernel."""
        self._kernel = kernel
        self._boot += 1
        self._begin(self._wall_s)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._wall_s += seconds
        self._split(seconds)
        if self.profile.has_series:
            self._use_cache(seconds)
        self._call("cpa", int(self._random.poisson(2 * seconds)))
        figures = self._figures
        figures.cycles += (cycles := int(NR_CPUS * KERNEL_CYCLES_A_SECOND * seconds * self._random.uniform(0.5, 1.5)))
        figures.walk_cycles += int(cycles * (0.01 + 0.06 * figures.size_4k / (self.profile.memory_gib * SIZE_1G)))
        if self.profile.loses_events and self._random.random() < 0.08:
            figures.lost += int(self._random.integers(20, 400))
            figures.rereads += 1
        else:
            figures.last_exact_ns = self._now_ns
        if self.profile.breaks_invariant and self._random.random() < 0.05:
            figures.violations += 1
            figures.failed_calls += 1

    @property
    def _boot_id(self) -> str:
        return f"{self.profile.name}-boot-{self._boot}"

    @property
    def _now_ns(self) -> int:
        return 100 * NS + int((self._wall_s - self._start_wall_s) * NS)

    def _call(self, operation: str, number: int) -> None:
        figures = self._figures
        if operation in figures.calls:
            figures.calls[operation] += number
        figures.events += number
        durations = self._random.lognormal(np.log(MEAN_LATENCY_NS[operation]), 0.6, min(number, 200)) * 1.0
        weight = number / max(len(durations), 1)
        for bucket, count in zip(*np.unique(np.log2(durations).astype(int), return_counts=True), strict=True):
            figures.latency[operation][min(int(bucket), 31)] += round(count * weight)
        figures.latency_sum[operation] += int(durations.sum() * weight)

    def _split_one(self, level: Level, cause: Cause) -> None:
        figures = self._figures
        if level == Level.G1 and figures.size_1g >= SIZE_1G:
            figures.size_1g -= SIZE_1G
            figures.size_2m += SIZE_1G
        elif level == Level.M2 and figures.size_2m >= SIZE_2M:
            figures.size_2m -= SIZE_2M
            figures.size_4k += SIZE_2M
        else:
            return
        figures.splits[level, cause] = figures.splits.get((level, cause), 0) + 1

    def _split(self, seconds: float) -> None:
        for cause, per_second in self.profile.split_rates.items():
            # In bursts, as a service starts or a module is loaded.
            if self._random.random() < 0.2:
                for _ in range(int(self._random.poisson(5 * per_second * seconds))):
                    self._split_one(Level.G1 if self._random.random() < 0.04 else Level.M2, cause)
                    self._figures.stranded += int(self._random.random() < 0.5)

    def _refill(self) -> None:
        figures = self._figures
        order = 9 if self._random.random() < 0.93 else int(self._random.integers(0, 9))
        figures.fallbacks += order < 9
        figures.free[order] += 1
        figures.cached[order] += 1
        figures.absent_pages += 1 << order
        figures.size_4k -= 4096 << order
        self._split_one(Level.M2, Cause.UNMAPPED_ALLOC)
        self._call("set_invalid", 1 << order)
        self._call("cache_refill", 1)

    def _take(self) -> None:
        figures = self._figures
        smallest = next((order for order, blocks in enumerate(figures.free) if blocks), None)
        if smallest is None:
            self._refill()
            return self._take()
        figures.free[smallest] -= 1
        for order in range(smallest):
            figures.free[order] += 1
        figures.allocated[0] += 1
        figures.handed_out += 1
        return None

    def _give_back(self) -> None:
        figures = self._figures
        figures.handed_out -= 1
        figures.freed[0] += 1
        order = 0
        while order < 9 and figures.free[order] and self._random.random() < 0.9:
            figures.free[order] -= 1
            order += 1
        figures.free[order] += 1

    def _use_cache(self, seconds: float) -> None:
        figures = self._figures
        wave = 1 + 0.8 * np.sin(self._wall_s / 400)
        requests = int(self._random.poisson(self.profile.request_rate * seconds * wave))
        refills_before = sum(figures.cached)
        for _ in range(requests):
            self._take()
        refills = sum(figures.cached) - refills_before
        figures.requests += requests
        figures.hits += max(requests - refills, 0)
        self._call("cache_hit", max(requests - refills, 0))
        frees = min(int(self._random.poisson(self.profile.request_rate * seconds)), figures.handed_out)
        for _ in range(frees):
            self._give_back()
        self._call("cache_free", frees)
        if self._random.random() < 0.15:
            self._shrink(int(self._random.integers(64, 1024)))

    def _shrink(self, asked: int) -> None:
        figures = self._figures
        figures.shrinks += 1
        figures.asked += asked
        self._call("shrink", 1)
        given = 0
        for order in range(NR_ORDERS if self.profile.shrinker_works else 0):
            while figures.free[order] and given + (1 << order) <= asked:
                figures.free[order] -= 1
                figures.released[order] += 1
                given += 1 << order
        figures.given += given
        figures.absent_pages -= given
        figures.size_4k += given * 4096
        figures.stranded += given // PAGES_PER_2M
        self._call("set_default", given)

    def _cache(self) -> UnmappedCacheView:
        figures = self._figures
        rows = (tuple(figures.free), tuple(figures.cached), tuple(figures.released))
        return UnmappedCacheView(
            *rows,
            tuple(figures.allocated),
            tuple(figures.freed),
            figures.handed_out,
            figures.requests,
            figures.hits,
            sum(figures.cached),
            figures.fallbacks,
            figures.failures,
            *rows,
        )

    def snapshot(self) -> Snapshot:
        """The state now."""
        figures, profile = self._figures, self.profile
        exact = figures.last_exact_ns == self._now_ns or not profile.loses_events
        attach = {Level.M2: 3, Level.G1: 1}
        by_level = {level: sum(n for (lv, _), n in figures.splits.items() if lv == level) for level in (Level.M2, Level.G1)}
        present = {Level.K4: figures.size_4k, Level.M2: figures.size_2m, Level.G1: figures.size_1g}
        cached = profile.has_series
        return Snapshot(
            time_ns=self._now_ns,
            wall_time_s=self._wall_s,
            start_time_ns=100 * NS,
            host=HostInfo(profile.name, self._kernel, self._boot_id, NR_CPUS, profile.memory_gib * SIZE_1G, 4, cached, False, tlb=TLB),
            exactness=Exactness(exact, () if exact else ("events lost",), figures.last_exact_ns or None, figures.rereads),
            loss=Loss(figures.events, figures.lost, {Kind.SET_DIRECT_MAP.name.lower(): figures.lost}),
            direct_map=DirectMapView(
                present_bytes=present,
                absent_bytes_by_level={Level.K4: figures.absent_pages * 4096, Level.M2: 0, Level.G1: 0},
                nr_regions_touched=-(-figures.absent_pages // PAGES_PER_2M),
                nr_regions_split=(figures.size_4k + figures.absent_pages * 4096) // SIZE_2M,
                nr_regions_stranded=figures.stranded,
                largest_intact_bytes=max(figures.size_1g // 3 // SIZE_1G * SIZE_1G, min(figures.size_2m, REGIONS_PER_1G * SIZE_2M)),
                kernel_bytes=present,
            ),
            splits=SplitsView(
                by_cause=dict(figures.splits),
                unexplained={},
                during_attach=attach,
                kernel_total={level: 400 + attach[level] + by_level[level] for level in attach},
                kernel_collapses={level: by_level[level] // 8 for level in attach},
                other_mappings=figures.calls["cpa"] // 50,
            ),
            cache=self._cache() if cached else None,
            operations={
                **{name: OperationView(number, figures.failed_calls * (name == "set_invalid")) for name, number in figures.calls.items()},
                "cache_alloc": OperationView(figures.requests, figures.failures),
            },
            latency={
                name: Histogram(tuple(buckets), figures.latency_sum[name])
                for name, buckets in figures.latency.items()
                if cached or name in figures.calls
            },
            shrinker=ShrinkerView(figures.shrinks, figures.shrinks * 4, figures.asked, figures.given) if cached else None,
            counters={"cache_refill_undone": 0, "contexts_lost": 0},
            audit=tuple(
                InvariantRow(number, title, figures.requests, figures.violations if number == 2 else 0)
                for number, title in enumerate(TITLES, 1)
            )
            if cached
            else (),
            hooks=hooks(cached),
            reconcile_error_bytes=0 if exact else figures.lost * 4096,
            reconcile_error_blocks=0 if cached else None,
        )

    def walks(self) -> WalkCounts:
        """What the processor's counters say now."""
        figures = self._figures
        cycles = figures.walk_cycles if self.profile.counts_walk_cycles else None
        return WalkCounts(figures.cycles, figures.walk_cycles // CYCLES_A_WALK, cycles, NR_CPUS, 1.0)

    def run(self, seconds: float, step_s: float) -> Iterator[Snapshot]:
        """A snapshot now and after every step, for so long; reboots on the way if the profile says so."""
        steps = int(seconds / step_s)
        reboot = None if self.profile.reboots_at is None else int(steps * self.profile.reboots_at)
        yield self.snapshot()
        for i in range(steps):
            if i == reboot:
                self.reboot("6.12.0-uaptrace")
            self.advance(step_s)
            yield self.snapshot()


FLEET = (
    Profile(
        "web-1",
        request_rate=40,
        reboots_at=0.62,
        split_rates={Cause.MODULE: 0.05, Cause.BPF: 0.2, Cause.FTRACE: 0.05, Cause.DRIVER: 0.02, Cause.SELF: 0.002, Cause.OTHER: 0.01},
    ),
    Profile("web-2", loses_events=True, already_split=0.1),
    Profile("db-1", memory_gib=256, already_split=0.3, counts_walk_cycles=False, split_rates={Cause.BPF: 0.4, Cause.KPROBE: 0.1}),
    Profile("db-2", memory_gib=256, already_split=0.55, has_series=False, split_rates={Cause.SECRETMEM: 1.2, Cause.MODULE: 0.1}),
    Profile("build-1", memory_gib=32, already_split=0.15, breaks_invariant=True, shrinker_works=False),
    Profile("idle-1", memory_gib=16, request_rate=0.5, counts_walks=False, split_rates={Cause.MODULE: 0.001}),
)


def fleet(start_wall_s: float) -> dict[str, Host]:
    """Hosts by the value of their ``instance`` label."""
    return {f"{profile.name}:9970": Host(profile, seed, start_wall_s) for seed, profile in enumerate(FLEET)}
