# SPDX-License-Identifier: Apache-2.0
"""What every view is given: one frozen picture of the state at one moment.

``KernelState.snapshot()`` builds it; top, the exporter, reports, the map, the audit and the JSON output
only read it. A figure that is not known is None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import LEVELS, PAGE_SIZE, PAGES_PER_2M, Level, pages_to_bytes
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.tlb import TlbPart, reach_bytes


class Cause(StrEnum):
    """Why a large mapping was split (design.md point 8: a closed set)."""

    UNMAPPED_ALLOC = "unmapped_alloc"
    SECRETMEM = "secretmem"
    MODULE = "module"
    BPF = "bpf"
    FTRACE = "ftrace"
    KPROBE = "kprobe"
    EXECMEM = "execmem"
    KEXEC = "kexec"
    CONFIDENTIAL = "confidential"
    MEMORY_FAILURE = "memory_failure"
    HIBERNATION = "hibernation"
    DRIVER = "driver"
    SELF = "self"
    OTHER = "other"


NO_NODE_NAME: Final = "(none)"
"""What the kernel says where nobody has given the host a name (CONFIG_DEFAULT_HOSTNAME)."""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Facts of the traced host; what is not known is None or empty."""

    hostname: str = ""
    kernel_release: str = ""
    boot_id: str = ""
    nr_cpus: int = 0
    memory_bytes: int | None = None
    paging_levels: int | None = None
    has_series: bool = False
    """The kernel has unmapped_pages_alloc()."""
    kfence: bool = False
    """KFENCE is on: its raw PTE flips cannot be seen (docs/kernel.md, section 2)."""
    buddyinfo: str = ""
    """/proc/buddyinfo when tracing began: what-if replays begin with as many free blocks."""
    tlb: tuple[TlbPart, ...] = ()
    """Of one processor, for data; empty where it is not known."""

    @property
    def name(self) -> str:
        """The host's name; empty where it has none."""
        return "" if self.hostname == NO_NODE_NAME else self.hostname


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations in power-of-two buckets: ``buckets[i]`` calls took [2**i, 2**(i+1)) ns; the first has 0 too, the last all longer ones."""

    buckets: tuple[int, ...] = (0,) * 32
    sum_ns: int = 0

    @property
    def count(self) -> int:
        """Number of calls that were timed."""
        return sum(self.buckets)

    def quantile_ns(self, quantile: float) -> float | None:
        """Upper bound in ns of the bucket that holds the quantile (0 to 1), None where nothing was timed."""
        total = self.count
        if total == 0:
            return None
        seen = 0
        for i, number in enumerate(self.buckets):
            seen += number
            if seen >= quantile * total:
                return float(2 ** (i + 1))
        return float(2 ** len(self.buckets))


@dataclass(frozen=True, slots=True)
class Exactness:
    """Whether the state is exact, and if not, why (each reason is one short sentence)."""

    exact: bool
    reasons: tuple[str, ...] = ()
    last_exact_time_ns: int | None = None
    nr_rereads: int = 0
    """Times the page tables were read again after the baseline."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What did not reach the model. All are cumulative."""

    events_taken: int = 0
    """Records taken in from the ring (or a recording)."""
    events_lost: int = 0
    """Records that found no room in the ring; counted in the kernel."""
    lost_by_kind: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    decode_errors: int = 0
    missed_runs: int | None = 0
    """Times the kernel did not run a program at all (bpf_prog_info.recursion_misses); None where it does not say."""
    contexts_lost: int = 0
    """Calls that could not be followed: no room to remember the task, or their return was not seen."""

    @property
    def total(self) -> int:
        return self.events_lost + self.decode_errors + (self.missed_runs or 0) + self.contexts_lost


@dataclass(frozen=True, slots=True)
class SilenceView:
    """Whether the kernel still calls the hooks. Keys are those of uaptrace.model.silence.Silence; a recording from before has none."""

    active: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """Whether the hooks are silent for that reason, or not yet known to be called again."""
    found: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Times a silence of that kind was found. Cumulative."""
    unseen_pages: int = 0
    """Pages that re-reading found changed and no hook had told of. Cumulative."""


@dataclass(frozen=True, slots=True)
class DirectMapView:
    """The direct map by size of mapping. Present bytes by level plus absent bytes is all of it."""

    present_bytes: Mapping[Level, int]
    absent_bytes_by_level: Mapping[Level, int]
    """Absent bytes by the size of the entry that is absent (4K pages, or whole 2M or 1G entries)."""
    nr_regions_touched: int
    """2M regions with at least one absent page."""
    nr_regions_split: int
    """2M regions that are mapped by 4K entries."""
    nr_regions_stranded: int
    """2M regions mapped by 4K entries whose 512 pages are all present and were made absent at least once, or which
    were split while uaptrace watched: fully restored but still 4K."""
    largest_intact_bytes: int
    """Longest run of present 2M and 1G mappings."""
    kernel_bytes: Mapping[Level, int] | None = None
    """/proc/meminfo's DirectMap4k, 2M, 1G, which count granularity, not presence (docs/kernel.md, section 3)."""
    is_read: bool = True
    """False before the page tables were read: the figures are then only what records told of so far."""

    @property
    def absent_bytes(self) -> int:
        return sum(self.absent_bytes_by_level.values())

    @property
    def total_bytes(self) -> int:
        return sum(self.present_bytes.values()) + self.absent_bytes

    def nr_present(self, level: Level) -> int:
        """Present entries of that size."""
        return self.present_bytes[level] // pages_to_bytes(level.nr_pages)

    @property
    def nr_entries(self) -> int:
        """Present entries of all sizes: with so many in the TLB, all that is mapped is within reach."""
        return sum(map(self.nr_present, LEVELS))

    @property
    def nr_entries_unsplit(self) -> int:
        """As many if each 2M region in 4K entries were one of 2M, its absent pages included. 1G mappings that were split stay so."""
        return self.nr_present(Level.G1) + self.nr_present(Level.M2) + self.nr_regions_split

    @property
    def page_table_bytes(self) -> int:
        """Page tables of 4K entries: one page for each 2M region that has them."""
        return self.nr_regions_split * PAGE_SIZE

    @property
    def absent_pages_per_touched_region(self) -> float | None:
        if self.nr_regions_touched == 0:
            return None
        return self.absent_bytes / PAGE_SIZE / self.nr_regions_touched

    @property
    def large_share(self) -> float | None:
        """Share of the direct map that is in 2M and 1G mappings (present), 0 to 1."""
        if self.total_bytes == 0:
            return None
        return (self.present_bytes[Level.M2] + self.present_bytes[Level.G1]) / self.total_bytes


@dataclass(frozen=True, slots=True)
class SplitsView:
    """Splits of large mappings since tracing began. Keys of level are what was split: M2 or G1."""

    by_cause: Mapping[tuple[Level, Cause], int]
    unexplained: Mapping[Level, int]
    """Splits that the kernel's own counters know and no record explains."""
    during_attach: Mapping[Level, int]
    """What attaching uaptrace split before its hooks saw anything: the observer's own effect, not in by_cause."""
    kernel_total: Mapping[Level, int] | None = None
    """/proc/vmstat direct_map_level2_splits and level3_splits since boot."""
    kernel_collapses: Mapping[Level, int] | None = None
    """/proc/vmstat direct_map_level2_collapses and level3_collapses since boot, by what the mappings became; None where the kernel has
    no such counters."""
    other_mappings: int = 0
    """Splits outside the direct map and the kernel image (vmalloc, modules). Some kernels' vmstat counts them, and others' does not."""
    undecided: Mapping[Level, int] = field(default_factory=lambda: MappingProxyType({}))
    """Splits that the kernel counted and whose records may be on their way: explained or unexplained at the next comparison."""

    def by_level(self, level: Level) -> int:
        """All splits of that level since tracing began, explained or not."""
        explained = sum(n for (lv, _), n in self.by_cause.items() if lv == level)
        return explained + self.unexplained.get(level, 0) + self.undecided.get(level, 0)


@dataclass(frozen=True, slots=True)
class UnmappedCacheView:
    """The unmapped cache. Tuples are by order, 0 to 10."""

    free: tuple[int, ...]
    """Free blocks now, rebuilt from events."""
    cached: tuple[int, ...]
    """Chunks refilled since boot (kernel's row at attach, plus events)."""
    released: tuple[int, ...]
    """Blocks given back to the page allocator since boot."""
    allocated: tuple[int, ...]
    """Blocks handed out since tracing began."""
    freed: tuple[int, ...]
    handed_out_pages: int
    """Pages that are allocated from the cache now (as far as is known: since tracing began, or absent at the baseline)."""
    requests: int = 0
    hits: int = 0
    refills: int = 0
    refill_fallbacks: int = 0
    failures: int = 0
    kernel_free: tuple[int, ...] | None = None
    """debugfs rows as they were last read, for comparison."""
    kernel_cached: tuple[int, ...] | None = None
    kernel_released: tuple[int, ...] | None = None
    cached_total: tuple[int, ...] | None = None
    """``cached`` and ``released`` as counters that never fall: the kernel's own rows where they can be read."""
    released_total: tuple[int, ...] | None = None

    @property
    def free_pages(self) -> int:
        return sum(n << order for order, n in enumerate(self.free))


@dataclass(frozen=True, slots=True)
class OperationView:
    """Calls of one operation since tracing began."""

    calls: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ShrinkerView:
    runs: int = 0
    counts: int = 0
    """Calls of the count callback."""
    asked_pages: int = 0
    released_pages: int = 0


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """What one process did since tracing began."""

    tgid: int
    comm: str
    cgroup_id: int
    cgroup: str
    """Path of the cgroup, empty where it is not known."""
    events: int
    allocated_pages: int
    freed_pages: int
    set_direct_map_calls: int
    splits: int
    refills: int
    started_ns: int | None = None
    """CLOCK_MONOTONIC when the process began; tells it from others with the same tgid. None where it is not known."""


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One group of equal splits in the ledger."""

    level: Level
    cause: Cause
    tgid: int
    comm: str
    cgroup_id: int
    cgroup: str
    stack_id: int
    stack: tuple[str, ...]
    """Innermost frame first, ``symbol+0xoff`` or ``0xaddress``; empty where none was taken."""
    count: int
    first_time_ns: int
    last_time_ns: int
    pfns: tuple[int, ...]
    """First pages of up to eight of the mappings that were split."""
    started_ns: int | None = None
    """CLOCK_MONOTONIC when the process began; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A page that breaks an invariant."""

    number: int
    time_ns: int
    pfn: int
    nr_pages: int
    expected: str
    seen: str
    tgid: int
    comm: str
    stack: tuple[str, ...] = ()

    @property
    def block(self) -> int:
        """Number of the 2M region the page is in."""
        return self.pfn // PAGES_PER_2M


@dataclass(frozen=True, slots=True)
class InvariantRow:
    """One invariant of docs/kernel.md, section 1: how often it was checked and broken, and the first that broke it."""

    number: int
    title: str
    checked: int
    violated: int
    first: tuple[Violation, ...] = ()
    note: str = ""
    """Why it was not checked, or what its figure means."""


@dataclass(frozen=True, slots=True)
class RegionTable:
    """The direct map region by region, for pictures. Arrays are read only, one element for each 2M region from physical 0.

    ``level`` is uint8 (Level; NONE where there is no memory), ``nr_absent`` uint16 (0 to 512, pages absent from the
    direct map), ``nr_cached`` uint16 (pages free in the unmapped cache), ``was_split`` bool (split while uaptrace watched).
    """

    level: NDArray[np.uint8]
    nr_absent: NDArray[np.uint16]
    nr_cached: NDArray[np.uint16]
    was_split: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a view may show, at ``time_ns`` (CLOCK_MONOTONIC of the traced host)."""

    time_ns: int
    wall_time_s: float
    start_time_ns: int
    """When tracing began."""
    host: HostInfo
    exactness: Exactness
    loss: Loss
    direct_map: DirectMapView
    splits: SplitsView
    cache: UnmappedCacheView | None
    """None on a kernel without the series."""
    operations: Mapping[str, OperationView]
    """Keys: set_invalid, set_default, cpa, cache_alloc, cache_free, cache_release, cache_refill."""
    latency: Mapping[str, Histogram]
    """Keys: cache_hit, cache_refill, cache_free, shrink, set_invalid, set_default, cpa."""
    shrinker: ShrinkerView | None
    counters: Mapping[str, int]
    """The kernel-side counters by name (enum uap_counter in lower case), summed over CPUs."""
    processes: tuple[ProcessRow, ...] = ()
    """Most events first; at most 64."""
    split_rows: tuple[SplitRow, ...] = ()
    """Most splits first; at most 256."""
    audit: tuple[InvariantRow, ...] = ()
    hooks: tuple[HookStatus, ...] = ()
    reconcile_error_bytes: int | None = None
    """Bytes by which the state's granularity figures differ from meminfo's changes; None where it was not compared."""
    reconcile_error_blocks: int | None = None
    """Sum over orders and rows of the difference to the kernel's debugfs rows, at the last quiet comparison."""
    regions: RegionTable | None = None
    """Only where it was asked for."""
    start_wall_time_s: float | None = None
    """``start_time_ns`` as time since the epoch, by the host's clock then: the same in every snapshot of a tracing run."""
    last_exact_wall_time_s: float | None = None
    """Exactness.last_exact_time_ns likewise: setting the clock does not move it."""
    silence: SilenceView = field(default_factory=SilenceView)

    @property
    def tlb_reach_bytes(self) -> int | None:
        """The most bytes of the direct map that the TLB can hold at once; None where the TLB or the direct map is not known."""
        view = self.direct_map
        return reach_bytes(self.host.tlb, {level: view.nr_present(level) for level in LEVELS}) if view.total_bytes else None

    @property
    def tlb_reach_unsplit_bytes(self) -> int | None:
        """As many if each 2M region in 4K entries were one of 2M. 1G mappings that were split stay so."""
        view = self.direct_map
        unsplit = {Level.G1: view.nr_present(Level.G1), Level.M2: view.nr_present(Level.M2) + view.nr_regions_split}
        return reach_bytes(self.host.tlb, unsplit) if view.total_bytes else None

    @property
    def ledger_is_complete(self) -> bool:
        """``split_rows`` add up to the splits by cause: no row was left out."""
        return sum(row.count for row in self.split_rows) == sum(self.splits.by_cause.values())
