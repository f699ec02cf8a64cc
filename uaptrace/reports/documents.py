# SPDX-License-Identifier: Apache-2.0
"""The JSON that scripts read: ``uaptrace top --once --json``, ``splits --json``, ``audit --json``. docs/json.md describes every key.

Within one ``schema`` keys are added, never renamed or removed. What is not known is null. (The exchange between uaptrace
processes is another form: uaptrace.model.snapshot_json.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from uaptrace.abi.units import LEVELS, Level
from uaptrace.model.snapshot import (
    Cause,
    Histogram,
    InvariantRow,
    Loss,
    ProcessRow,
    ShrinkerView,
    SilenceView,
    Snapshot,
    SplitRow,
    UnmappedCacheView,
    Violation,
)
from uaptrace.views import map_grid
from uaptrace.views.rates import rates_between

SCHEMA: Final = 1
LARGE: Final = (Level.M2, Level.G1)

GroupBy = Literal["row", "cause", "process", "cgroup", "stack"]
GROUPS: Final[tuple[GroupBy, ...]] = ("row", "cause", "process", "cgroup", "stack")
Document = dict[str, Any]


def snapshot_to_json(snapshot: Snapshot, interval: Snapshot | None = None) -> Document:
    """The whole snapshot. ``interval``: an earlier snapshot of the same tracing; with it, ``rates`` are given per second."""
    rates = rates_between(interval, snapshot)
    return {
        **snapshot_head(snapshot),
        "loss": _loss(snapshot.loss),
        "silence": _silence(snapshot.silence) if snapshot.silence.active else None,
        "direct_map": _direct_map(snapshot),
        "splits": {**_splits(snapshot), "rows": [_split_row(row) for row in snapshot.split_rows]},
        "unmapped_cache": _cache(snapshot.cache) if snapshot.cache is not None else None,
        "operations": {name: {"calls": o.calls, "failed": o.failed} for name, o in snapshot.operations.items()},
        "latency": {name: _histogram(h) for name, h in snapshot.latency.items()},
        "shrinker": _shrinker(snapshot.shrinker) if snapshot.shrinker is not None else None,
        "counters": {name: int(value) for name, value in snapshot.counters.items()},
        "rates": {"interval_s": rates.interval_s, **rates.as_dict()} if rates is not None else None,
        "processes": [_process(row) for row in snapshot.processes],
        "audit": {"invariants": [_invariant(row) for row in snapshot.audit]},
        "hooks": [
            {"name": h.name, "symbol": h.symbol, "mechanism": h.mechanism, "state": h.state, "reason": h.reason} for h in snapshot.hooks
        ],
        "reconcile": {"error_bytes": snapshot.reconcile_error_bytes, "error_blocks": snapshot.reconcile_error_blocks},
        "map": map_grid.ranges_of(snapshot.regions) if snapshot.regions is not None else None,
    }


def _loss(loss: Loss) -> Document:
    return {
        "events_taken": loss.events_taken,
        "events_lost": loss.events_lost,
        "lost_by_kind": dict(loss.lost_by_kind),
        "decode_errors": loss.decode_errors,
        "missed_runs": loss.missed_runs,
        "contexts_lost": loss.contexts_lost,
    }


def _silence(silence: SilenceView) -> Document:
    return {
        "active": [reason for reason, is_active in silence.active.items() if is_active],
        "found": dict(silence.found),
        "unseen_pages": silence.unseen_pages,
    }


def _direct_map(snapshot: Snapshot) -> Document:
    view = snapshot.direct_map
    known = view.total_bytes > 0  # No host has no memory: the map was not read yet.
    read = {
        **_levels(view.present_bytes, missing=0),
        "absent": view.absent_bytes,
        "absent_by_level": _levels(view.absent_bytes_by_level, missing=0),
        "total": view.total_bytes,
        "entries": view.nr_entries,
        "entries_unsplit": view.nr_entries_unsplit,
        "page_table_bytes": view.page_table_bytes,
        "tlb_reach": snapshot.tlb_reach_bytes,
        "tlb_reach_unsplit": snapshot.tlb_reach_unsplit_bytes,
    }
    unread = {name: _levels(None, missing=None) if name == "absent_by_level" else None for name in read}
    return {
        **(read if known else unread),
        "large_share": view.large_share,
        "regions_touched": view.nr_regions_touched,
        "regions_split": view.nr_regions_split,
        "regions_stranded": view.nr_regions_stranded,
        "absent_pages_per_touched_region": view.absent_pages_per_touched_region,
        "largest_intact_bytes": view.largest_intact_bytes,
        "kernel": _levels(view.kernel_bytes, missing=None) if view.kernel_bytes is not None else None,
    }


def _shrinker(shrinker: ShrinkerView) -> Document:
    return {
        "runs": shrinker.runs,
        "counts": shrinker.counts,
        "asked_pages": shrinker.asked_pages,
        "released_pages": shrinker.released_pages,
    }


def _process(row: ProcessRow) -> Document:
    return {
        "tgid": row.tgid,
        "comm": row.comm,
        "started_ns": row.started_ns,
        "cgroup_id": row.cgroup_id,
        "cgroup": row.cgroup or None,
        "events": row.events,
        "allocated_pages": row.allocated_pages,
        "freed_pages": row.freed_pages,
        "set_direct_map_calls": row.set_direct_map_calls,
        "splits": row.splits,
        "refills": row.refills,
    }


def audit_to_json(snapshot: Snapshot) -> Document:
    """The invariants, and whether all of them hold. ``clean`` is null where nothing was checked."""
    violated = sum(row.violated for row in snapshot.audit)
    checked = any(row.checked for row in snapshot.audit)
    return {
        **snapshot_head(snapshot),
        "clean": False if violated else True if checked else None,
        "violated": violated,
        "invariants": [_invariant(row) for row in snapshot.audit],
    }


def splits_to_json(snapshot: Snapshot, group_by: GroupBy = "row") -> Document:
    """The ledger, grouped. By cause the groups are all splits; otherwise those that the ledger has rows for (``complete``)."""
    return {
        **snapshot_head(snapshot),
        **_splits(snapshot),
        "group_by": group_by,
        "complete": group_by == "cause" or snapshot.ledger_is_complete,
        "groups": [_split_row(row) for row in snapshot.split_rows] if group_by == "row" else split_groups(snapshot, group_by),
    }


def split_groups(snapshot: Snapshot, group_by: GroupBy) -> list[Document]:
    """Groups with counts by level and times, most splits first."""
    groups: dict[tuple[Any, ...], Document] = {}
    for row in snapshot.split_rows:
        identity = _identity(row, group_by)
        group = groups.setdefault(tuple(identity.values()), {**identity, "2m": 0, "1g": 0, "first_time_ns": None, "last_time_ns": None})
        if group_by != "cause":
            group[row.level.label] += row.count
        if isinstance(group.get("stack"), tuple):
            group["stack"] = list(group["stack"])
        group["first_time_ns"] = min(row.first_time_ns, group["first_time_ns"] or row.first_time_ns)
        group["last_time_ns"] = max(row.last_time_ns, group["last_time_ns"] or 0)
    if group_by == "cause":
        # These counts are whole, whatever the ledger had room for.
        for (level, cause), number in snapshot.splits.by_cause.items():
            group = groups.setdefault((cause.value,), {"cause": cause.value, "2m": 0, "1g": 0, "first_time_ns": None, "last_time_ns": None})
            group[level.label] += number
    return sorted((g for g in groups.values() if g["2m"] + g["1g"]), key=lambda g: -(g["2m"] + g["1g"]))


def _identity(row: SplitRow, group_by: GroupBy) -> Document:
    match group_by:
        case "cause":
            return {"cause": row.cause.value}
        case "process":
            return {"tgid": row.tgid, "comm": row.comm, "started_ns": row.started_ns}
        case "cgroup":
            return {"cgroup_id": row.cgroup_id, "cgroup": row.cgroup or None}
        case "stack":
            return {"stack_id": row.stack_id, "cause": row.cause.value, "stack": row.stack}
        case "row":
            raise AssertionError("rows are not grouped")


def snapshot_head(snapshot: Snapshot) -> Document:
    host = snapshot.host
    return {
        "schema": SCHEMA,
        "time_ns": snapshot.time_ns,
        "wall_time_s": snapshot.wall_time_s,
        "start_time_ns": snapshot.start_time_ns,
        "duration_s": (snapshot.time_ns - snapshot.start_time_ns) / 1e9,
        "exact": snapshot.exactness.exact,
        "reasons": list(snapshot.exactness.reasons),
        "last_exact_time_ns": snapshot.exactness.last_exact_time_ns,
        "rereads": snapshot.exactness.nr_rereads,
        "lost": snapshot.loss.total,
        "host": {
            "hostname": host.name or None,
            "kernel_release": host.kernel_release or None,
            "boot_id": host.boot_id or None,
            "nr_cpus": host.nr_cpus or None,
            "memory_bytes": host.memory_bytes,
            "paging_levels": host.paging_levels,
            "has_series": host.has_series,
            "kfence": host.kfence,
            "tlb": [{"level": part.level, "entries": part.nr_entries, "sizes": [size.label for size in part.sizes]} for part in host.tlb],
        },
    }


def _levels(values: Mapping[Level, int] | None, levels: Sequence[Level] = LEVELS, missing: int | None = 0) -> Document:
    return {level.label: missing if values is None else values.get(level, missing) for level in levels}


def _splits(snapshot: Snapshot) -> Document:
    splits = snapshot.splits
    return {
        **{level.label: splits.by_level(level) for level in LARGE},
        "by_cause": {cause.value: {level.label: splits.by_cause.get((level, cause), 0) for level in LARGE} for cause in Cause},
        "unexplained": _levels(splits.unexplained, LARGE),
        "undecided": _levels(splits.undecided, LARGE),
        "during_attach": _levels(splits.during_attach, LARGE),
        "kernel_total": _levels(splits.kernel_total, LARGE, None) if splits.kernel_total is not None else None,
        "kernel_collapses": _levels(splits.kernel_collapses, LARGE, None) if splits.kernel_collapses is not None else None,
        "other_mappings": splits.other_mappings,
    }


def _split_row(row: SplitRow) -> Document:
    return {
        "level": row.level.label,
        "cause": row.cause.value,
        "tgid": row.tgid,
        "comm": row.comm,
        "started_ns": row.started_ns,
        "cgroup_id": row.cgroup_id,
        "cgroup": row.cgroup or None,
        "stack_id": row.stack_id,
        "stack": list(row.stack),
        "count": row.count,
        "first_time_ns": row.first_time_ns,
        "last_time_ns": row.last_time_ns,
        "pfns": list(row.pfns),
    }


def _cache(cache: UnmappedCacheView) -> Document:
    kernel = {"free": cache.kernel_free, "cached": cache.kernel_cached, "released": cache.kernel_released}
    return {
        "free": list(cache.free),
        "cached": list(cache.cached),
        "released": list(cache.released),
        "allocated": list(cache.allocated),
        "freed": list(cache.freed),
        "free_pages": cache.free_pages,
        "handed_out_pages": cache.handed_out_pages,
        "requests": cache.requests,
        "hits": cache.hits,
        "refills": cache.refills,
        "refill_fallbacks": cache.refill_fallbacks,
        "failures": cache.failures,
        "kernel": {name: list(row) if row is not None else None for name, row in kernel.items()},
    }


def _histogram(histogram: Histogram) -> Document:
    return {
        "count": histogram.count,
        "sum_ns": histogram.sum_ns,
        "p50_ns": histogram.quantile_ns(0.5),
        "p99_ns": histogram.quantile_ns(0.99),
        "buckets": list(histogram.buckets),
    }


def _invariant(row: InvariantRow) -> Document:
    return {
        "number": row.number,
        "title": row.title,
        "checked": row.checked,
        "violated": row.violated,
        "note": row.note,
        "first": [_violation(v) for v in row.first],
    }


def _violation(violation: Violation) -> Document:
    return {
        "time_ns": violation.time_ns,
        "pfn": violation.pfn,
        "nr_pages": violation.nr_pages,
        "block": violation.block,
        "expected": violation.expected,
        "seen": violation.seen,
        "tgid": violation.tgid,
        "comm": violation.comm,
        "stack": list(violation.stack),
    }
