# SPDX-License-Identifier: Apache-2.0
"""From one Snapshot to fresh metric families: pure, no clock, no I/O.

docs/metrics.md lists every one of them, and tests/unit/test_exporter_docs.py compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric

from uaptrace.abi.events import Kind
from uaptrace.abi.hooks import HOOKS
from uaptrace.abi.units import LEVELS, NR_ORDERS, Level
from uaptrace.model.hook_status import HookStatus, attached_labels
from uaptrace.model.snapshot import (
    Cause,
    DirectMapView,
    Histogram,
    HostInfo,
    InvariantRow,
    ShrinkerView,
    SilenceView,
    Snapshot,
    SplitsView,
    UnmappedCacheView,
)
from uaptrace.model.walks import WalkCounts

FIRST_BUCKET: Final = 8
"""Exponent of the first histogram bound: 2**8 ns. Everything faster is in its bucket."""
LAST_BUCKET: Final = 26
"""Exponent of the last finite bound: 2**26 ns, 67 ms. Slower calls are only in +Inf."""

SPLIT_LEVELS: Final = (Level.M2, Level.G1)
DIRECT_MAP_OPERATIONS: Final = ("set_invalid", "set_default", "cpa")
TIMED_DIRECT_MAP_OPERATIONS: Final = DIRECT_MAP_OPERATIONS
TIMED_CACHE_OPERATIONS: Final = ("cache_hit", "cache_refill", "cache_free", "shrink")
MECHANISMS: Final = ("fentry", "kprobe", "tracepoint", "caller", "none")
LOST_KINDS: Final = (*(kind.name.lower() for kind in Kind if kind is not Kind.NONE), "unknown")

_BOUNDS: Final = tuple((exponent, repr(2**exponent / 1e9)) for exponent in range(FIRST_BUCKET, LAST_BUCKET + 1))


def readiness(snapshot: Snapshot | None) -> str | None:
    """Why /readyz says no, as one line; None where hooks are attached and the state is exact."""
    if snapshot is None:
        return "no state yet: the direct map is still being read"
    if not any(hook.mechanism for hook in snapshot.hooks):
        return "no hook is attached: see uaptrace check"
    if not snapshot.exactness.exact:
        return "the state is not exact: " + ("; ".join(snapshot.exactness.reasons) or "no reason given")
    return None


def snapshot_families(snapshot: Snapshot) -> Iterator[Metric]:
    """All metric families that show the traced host. Families whose figures are not known do not appear."""
    if snapshot.direct_map.is_read:
        yield from _direct_map(snapshot.direct_map)
        yield from _tlb_reach(snapshot)
    blind = blind_spots(snapshot.hooks)
    yield from _splits(snapshot.splits, blind)
    yield from _operations(snapshot, blind)
    yield _latency(snapshot, blind)
    yield _gauge("unmapped_cache_present", "1 where this kernel has the unmapped cache.", snapshot.host.has_series)
    if snapshot.cache is not None:
        yield from _cache(snapshot, snapshot.cache, blind)
    if snapshot.shrinker is not None:
        yield from _shrinker(snapshot.shrinker, blind)
    if snapshot.audit:
        yield from _audit(snapshot.audit)
    yield from _trust(snapshot)
    yield from _hooks(snapshot.hooks)
    yield from _host(snapshot.host)
    yield _gauge("tracing_start_timestamp_seconds", "Time at which tracing began.", _start_wall_time_s(snapshot))
    yield _gauge("snapshot_timestamp_seconds", "Time of the state that is shown.", snapshot.wall_time_s)


def walk_families(counts: WalkCounts) -> Iterator[Metric]:
    """What the processor's own counters say of walks of page tables."""
    yield _counter("kernel_cycles", "Cycles of the processor in kernel mode.", counts.cycles)
    yield _counter("kernel_dtlb_walks", "Walks of page tables for data in kernel mode.", counts.walks)
    if counts.walk_cycles is not None:
        yield _counter("kernel_dtlb_walk_cycles", "Cycles in kernel mode in which such a walk was going on.", counts.walk_cycles)
    yield _gauge("kernel_walk_counters_cpus", "CPUs whose walks are counted.", counts.nr_cpus)
    yield _gauge("kernel_walk_counters_ratio", "Part of the time in which the counters really counted.", counts.counted_share)


def blind_spots(hooks: Sequence[HookStatus]) -> frozenset[str]:
    """Figures (Hook.figures) that are not known because a hook that they need is not attached."""
    missing = {hook.name.lower() for hook in hooks if hook.mechanism is None and hook.needed} - attached_labels(hooks)
    return frozenset(figure for hook in HOOKS if hook.label in missing for figure in hook.figures)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"uaptrace_{name}", documentation, value=float(value))


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"uaptrace_{name}", documentation, value=float(value))


def _gauges(name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"uaptrace_{name}", documentation, labels=[label])
    for text, value in values:
        family.add_metric([text], float(value))
    return family


def _counters(name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"uaptrace_{name}", documentation, labels=[label])
    for text, value in values:
        family.add_metric([text], float(value))
    return family


def _by_level(values: Mapping[Level, int], levels: Sequence[Level] = LEVELS) -> Iterator[tuple[str, float]]:
    return ((level.label, values.get(level, 0)) for level in levels)


def _known_by_level(values: Mapping[Level, int], levels: Sequence[Level]) -> Iterator[tuple[str, float]]:
    """Only the levels that were read: the kernel does not print DirectMap1G on every CPU."""
    return ((level.label, values[level]) for level in levels if level in values)


def _by_order(blocks: Sequence[int]) -> Iterator[tuple[str, float]]:
    return ((str(order), blocks[order] if order < len(blocks) else 0) for order in range(NR_ORDERS))


def _direct_map(view: DirectMapView) -> Iterator[Metric]:
    yield _gauges("direct_map_bytes", "Present in the direct map, by size of the mapping.", "level", _by_level(view.present_bytes))
    yield _gauges(
        "direct_map_absent_bytes",
        "Absent from the direct map, by size of the entry that is not present.",
        "level",
        _by_level(view.absent_bytes_by_level),
    )
    if view.kernel_bytes is not None:
        yield _gauges(
            "direct_map_meminfo_bytes",
            "DirectMap lines of /proc/meminfo: size of entries, not presence; trust changes only.",
            "level",
            _known_by_level(view.kernel_bytes, LEVELS),
        )
    yield _gauge("direct_map_largest_intact_bytes", "Longest run of present 2M and 1G mappings.", view.largest_intact_bytes)
    yield _gauge("direct_map_touched_regions", "2M regions with at least one absent page.", view.nr_regions_touched)
    yield _gauge("direct_map_split_regions", "2M regions that are mapped by 4K entries.", view.nr_regions_split)
    yield _gauge(
        "direct_map_stranded_regions", "2M regions that are all present again but still mapped by 4K entries.", view.nr_regions_stranded
    )
    yield _gauge("direct_map_entries", "Present entries of all sizes: the TLB entries that cover all that is mapped.", view.nr_entries)


def _tlb_reach(snapshot: Snapshot) -> Iterator[Metric]:
    reach = snapshot.tlb_reach_bytes
    if reach is not None:
        yield _gauge("direct_map_tlb_reach_bytes", "Most bytes of the direct map that the TLB of a CPU can hold at once.", reach)


def _splits(view: SplitsView, blind: Set[str]) -> Iterator[Metric]:
    by_cause = CounterMetricFamily(
        "uaptrace_direct_map_splits", "Large mappings that were split, by size and cause.", labels=["level", "cause"]
    )
    if "splits" not in blind:
        for level in SPLIT_LEVELS:
            for cause in Cause:
                by_cause.add_metric([level.label, cause.value], float(view.by_cause.get((level, cause), 0)))
    yield by_cause
    yield _counters(
        "direct_map_unexplained_splits",
        "Splits that the kernel counted and no hook saw.",
        "level",
        _by_level(view.unexplained, SPLIT_LEVELS),
    )
    yield _counters(
        "direct_map_attach_splits",
        "Splits caused by attaching uaptrace itself.",
        "level",
        _by_level(view.during_attach, SPLIT_LEVELS),
    )
    if view.kernel_total is not None:
        yield _counters(
            "direct_map_vmstat_splits",
            "Splits since boot, by the kernel's own count.",
            "level",
            _known_by_level(view.kernel_total, SPLIT_LEVELS),
        )
    if view.kernel_collapses is not None:
        yield _counters(
            "direct_map_vmstat_collapses",
            "Mappings that the kernel made of smaller ones since boot, by the size that they have now.",
            "level",
            _known_by_level(view.kernel_collapses, SPLIT_LEVELS),
        )
    other = CounterMetricFamily("uaptrace_other_mapping_splits", "Splits outside the direct map and the kernel image.")
    if "splits" not in blind:
        other.add_metric([], float(view.other_mappings))
    yield other


def _operations(snapshot: Snapshot, blind: Set[str]) -> Iterator[Metric]:
    known = [(name, snapshot.operations[name]) for name in DIRECT_MAP_OPERATIONS if name in snapshot.operations and name not in blind]
    yield _counters(
        "direct_map_operations",
        "Calls that change the direct map.",
        "operation",
        ((name, operation.calls) for name, operation in known),
    )
    yield _counters(
        "direct_map_operation_failures",
        "Calls that change the direct map and returned an error.",
        "operation",
        ((name, operation.failed) for name, operation in known),
    )


def _latency(snapshot: Snapshot, blind: Set[str]) -> Metric:
    names = TIMED_DIRECT_MAP_OPERATIONS + (TIMED_CACHE_OPERATIONS if snapshot.cache is not None else ())
    family = HistogramMetricFamily("uaptrace_operation_duration_seconds", "Duration of calls.", labels=["operation"])
    for name in names:
        histogram = snapshot.latency.get(name)
        if histogram is not None and name not in blind:
            family.add_metric([name], buckets(histogram), histogram.sum_ns / 1e9)
    return family


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative buckets for Prometheus: pairs of upper bound in seconds and number of calls, ending with +Inf."""
    # Bucket i of the kernel has the calls of [2^i, 2^(i+1)) ns, so those up to the bound 2^e are in the buckets before e.
    seen = sum(histogram.buckets[:FIRST_BUCKET])
    cumulative = [(_BOUNDS[0][1], float(seen))]
    for exponent, bound in _BOUNDS[1:]:
        seen += histogram.buckets[exponent - 1]
        cumulative.append((bound, float(seen)))
    cumulative.append(("+Inf", float(seen + sum(histogram.buckets[LAST_BUCKET:]))))
    return cumulative


def _cache(snapshot: Snapshot, view: UnmappedCacheView, blind: Set[str]) -> Iterator[Metric]:
    if "cache" not in blind:
        yield _gauges("unmapped_cache_free_blocks", "Free blocks in the unmapped cache.", "order", _by_order(view.free))
        yield _gauge("unmapped_cache_cached_pages", "Pages that are free in the unmapped cache.", view.free_pages)
        yield _gauge("unmapped_cache_handed_out_pages", "Pages that are allocated from the unmapped cache.", view.handed_out_pages)
    if "cache_alloc" not in blind:
        requests = snapshot.operations.get("cache_alloc")
        if requests is not None:
            yield _counter("unmapped_cache_requests", "Calls of unmapped_pages_alloc().", requests.calls)
            yield _counter("unmapped_cache_request_failures", "Requests that failed.", requests.failed)
        yield _counter("unmapped_cache_hits", "Requests that were served without a refill.", view.hits)
        yield _counters("unmapped_cache_allocations", "Blocks handed out.", "order", _by_order(view.allocated))
        yield _counters(
            "unmapped_cache_refills",
            "Chunks taken from the page allocator since boot.",
            "order",
            _by_order(view.cached_total or view.cached),
        )
        yield _counter(
            "unmapped_cache_refill_fallbacks", "Refills that got less than the order that was tried first.", view.refill_fallbacks
        )
        undone = snapshot.counters.get("cache_refill_undone")
        if undone is not None:
            yield _counter("unmapped_cache_refills_undone", "Refills that were given back at once because unmapping failed.", undone)
    if "cache_free" not in blind:
        yield _counters("unmapped_cache_frees", "Blocks given back to the unmapped cache.", "order", _by_order(view.freed))
    if "cache_release" not in blind:
        yield _counters(
            "unmapped_cache_releases",
            "Blocks given back to the page allocator since boot.",
            "order",
            _by_order(view.released_total or view.released),
        )


def _shrinker(view: ShrinkerView, blind: Set[str]) -> Iterator[Metric]:
    if "shrink" not in blind:
        yield _counter("shrinker_runs", "Times reclaim asked the unmapped cache to give pages back.", view.runs)
        yield _counter("shrinker_asked_pages", "Pages that reclaim asked for.", view.asked_pages)
        yield _counter("shrinker_released_pages", "Pages that were given back.", view.released_pages)
    if "shrink_count" not in blind:
        yield _counter("shrinker_count_calls", "Times reclaim asked how many pages there are to give back.", view.counts)


def _audit(rows: Sequence[InvariantRow]) -> Iterator[Metric]:
    yield _counters("audit_checks", "Times an invariant was checked.", "invariant", ((str(row.number), row.checked) for row in rows))
    yield _counters("audit_violations", "Times an invariant was broken.", "invariant", ((str(row.number), row.violated) for row in rows))
    titles = InfoMetricFamily("uaptrace_audit_invariant", "Titles of the invariants.", labels=["invariant"])
    for row in rows:
        titles.add_metric([str(row.number)], {"title": row.title})
    yield titles


def _trust(snapshot: Snapshot) -> Iterator[Metric]:
    exactness, loss = snapshot.exactness, snapshot.loss
    yield _gauge("state_exact", "1 while the state is exact.", exactness.exact)
    if exactness.last_exact_time_ns is not None:
        yield _gauge(
            "last_exact_timestamp_seconds",
            "Time at which the state was last known to be exact.",
            snapshot.last_exact_wall_time_s
            if snapshot.last_exact_wall_time_s is not None
            else _wall_time_s(snapshot, exactness.last_exact_time_ns),
        )
    if snapshot.reconcile_error_bytes is not None:
        yield _gauge("reconcile_error_bytes", "Difference to the changes of /proc/meminfo.", snapshot.reconcile_error_bytes)
    if snapshot.reconcile_error_blocks is not None:
        yield _gauge("reconcile_error_blocks", "Difference to the debugfs rows of the unmapped cache.", snapshot.reconcile_error_blocks)
    yield _counter("page_table_rereads", "Times page tables were read again.", exactness.nr_rereads)
    yield _counter("events", "Records taken in.", loss.events_taken)
    yield _counters("events_lost", "Records that found no room in the ring buffer.", "kind", _lost(loss.lost_by_kind, loss.events_lost))
    yield _counter("decode_errors", "Records that could not be decoded.", loss.decode_errors)
    if loss.missed_runs is not None:
        yield _counter("missed_runs", "Times the kernel did not run a BPF program at all.", loss.missed_runs)
    yield _counter(
        "contexts_lost", "Calls that could not be followed: no room to remember the task, or their return was not seen.", loss.contexts_lost
    )
    yield from _silence(snapshot.silence)
    yield _gauge("kfence_enabled", "1 where KFENCE is on: its own changes cannot be seen.", snapshot.host.kfence)


def _silence(silence: SilenceView) -> Iterator[Metric]:
    if not silence.active:
        return  # from before uaptrace listened for silence: not known
    silent = "1 where hooks that are attached are not called, or are not yet known to be called again."
    yield _gauges("hooks_silent", silent, "reason", silence.active.items())
    yield _counters("silences", "Times hooks were found to be silent.", "reason", silence.found.items())
    yield _counter("unseen_pages", "Pages that were found changed and that no hook reported.", silence.unseen_pages)


def _lost(by_kind: Mapping[str, int], total: int) -> Iterator[tuple[str, float]]:
    """Lost records by kind; what no kind accounts for is ``unknown``, so that the sum is always the total."""
    explained = 0
    for name in LOST_KINDS[:-1]:
        number = by_kind.get(name, 0)
        explained += number
        yield name, number
    yield LOST_KINDS[-1], max(0, total - explained)


def _hooks(hooks: Sequence[HookStatus]) -> Iterator[Metric]:
    by_mechanism = dict.fromkeys(MECHANISMS, 0)
    attached: dict[str, bool] = {}
    for hook in hooks:
        if hook.state == "not needed":
            continue  # neither a figure of what is attached nor of what is missing
        mechanism = hook.mechanism or "none"
        by_mechanism[mechanism] = by_mechanism.get(mechanism, 0) + 1
        # A name that stands for two programs is attached when both are.
        attached[hook.name] = attached.get(hook.name, True) and hook.mechanism is not None
    yield _gauges("hooks", "Hooks by how they are attached.", "mechanism", by_mechanism.items())
    yield _gauges("hook_attached", "1 where the hook is attached.", "hook", attached.items())
    faults = GaugeMetricFamily(
        "uaptrace_hook_fault", "1 for each hook without which something goes unseen.", labels=["hook", "state", "why"]
    )
    for hook in hooks:
        if hook.state in ("missing", "refused"):
            faults.add_metric([hook.name, hook.state, hook.reason], 1)
    yield faults


def _host(host: HostInfo) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "uaptrace_host",
        "The traced host.",
        value={
            "hostname": host.name,
            "kernel_release": host.kernel_release,
            "boot_id": host.boot_id,
            "paging_levels": "" if host.paging_levels is None else str(host.paging_levels),
        },
    )
    if host.nr_cpus > 0:
        yield _gauge("host_cpus", "CPUs of the traced host.", host.nr_cpus)
    if host.memory_bytes is not None:
        yield _gauge("host_memory_bytes", "Memory of the traced host.", host.memory_bytes)


def _start_wall_time_s(snapshot: Snapshot) -> float:
    """As it was when tracing began: computed anew from the clocks it would differ at every scrape, and move when the clock is set."""
    known = snapshot.start_wall_time_s
    return _wall_time_s(snapshot, snapshot.start_time_ns) if known is None else known


def _wall_time_s(snapshot: Snapshot, time_ns: int) -> float:
    """Seconds since 1970 of a CLOCK_MONOTONIC time of the traced host."""
    return snapshot.wall_time_s - (snapshot.time_ns - time_ns) / 1e9
