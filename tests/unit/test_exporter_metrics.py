# SPDX-License-Identifier: Apache-2.0
"""The figures on /metrics are those of the snapshot, in both formats; what is unknown is not there; the number of series is bounded."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.build import counters, traced
from tests.unit import view_snapshots as snapshots
from tests.unit.exporter_snapshots import LARGEST_NR_HOOKS, largest_snapshot, small_snapshot
from tests.unit.metric_series import OPENMETRICS, Series, series, value
from tests.unit.simulated_host import host_updates
from uaptrace.abi.events import Kind
from uaptrace.abi.units import LEVELS, NR_ORDERS, Level
from uaptrace.exporter.metrics import FIRST_BUCKET, LAST_BUCKET, buckets, readiness, snapshot_families
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import Cause, Exactness, Histogram, HostInfo, Loss, Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import MapReading, Start


def names(found: Series) -> set[str]:
    return {name for name, _ in found}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_figure_of_the_largest_host_arrives(accept: str) -> None:
    snapshot = largest_snapshot()
    found = series(snapshot, accept)
    view, cache, shrinker = snapshot.direct_map, snapshot.cache, snapshot.shrinker
    assert cache is not None
    assert shrinker is not None
    assert view.kernel_bytes is not None
    for level in LEVELS:
        assert value(found, "uaptrace_direct_map_bytes", level=level.label) == view.present_bytes[level]
        assert value(found, "uaptrace_direct_map_absent_bytes", level=level.label) == view.absent_bytes_by_level[level]
        assert value(found, "uaptrace_direct_map_meminfo_bytes", level=level.label) == view.kernel_bytes[level]
    assert value(found, "uaptrace_direct_map_largest_intact_bytes") == view.largest_intact_bytes
    assert value(found, "uaptrace_direct_map_touched_regions") == view.nr_regions_touched
    assert value(found, "uaptrace_direct_map_split_regions") == view.nr_regions_split
    assert value(found, "uaptrace_direct_map_stranded_regions") == view.nr_regions_stranded
    assert snapshot.splits.kernel_total is not None
    assert snapshot.splits.kernel_collapses is not None
    for level in (Level.M2, Level.G1):
        for cause in Cause:
            assert (
                value(found, "uaptrace_direct_map_splits_total", level=level.label, cause=cause) == snapshot.splits.by_cause[level, cause]
            )
        assert value(found, "uaptrace_direct_map_unexplained_splits_total", level=level.label) == snapshot.splits.unexplained[level]
        assert value(found, "uaptrace_direct_map_attach_splits_total", level=level.label) == snapshot.splits.during_attach[level]
        assert value(found, "uaptrace_direct_map_vmstat_splits_total", level=level.label) == snapshot.splits.kernel_total[level]
        assert value(found, "uaptrace_direct_map_vmstat_collapses_total", level=level.label) == snapshot.splits.kernel_collapses[level]
    assert value(found, "uaptrace_other_mapping_splits_total") == snapshot.splits.other_mappings
    for name in ("set_invalid", "set_default", "cpa"):
        operation = snapshot.operations[name]
        assert value(found, "uaptrace_direct_map_operations_total", operation=name) == operation.calls
        assert value(found, "uaptrace_direct_map_operation_failures_total", operation=name) == operation.failed
    assert len(snapshot.latency) == 7
    for name, histogram in snapshot.latency.items():
        assert value(found, "uaptrace_operation_duration_seconds_count", operation=name) == histogram.count
        assert value(found, "uaptrace_operation_duration_seconds_sum", operation=name) == histogram.sum_ns / 1e9
        assert value(found, "uaptrace_operation_duration_seconds_bucket", operation=name, le="1.024e-06") == sum(histogram.buckets[:10])
    for order in range(NR_ORDERS):
        assert value(found, "uaptrace_unmapped_cache_free_blocks", order=str(order)) == cache.free[order]
        assert value(found, "uaptrace_unmapped_cache_refills_total", order=str(order)) == cache.cached[order]
        assert value(found, "uaptrace_unmapped_cache_releases_total", order=str(order)) == cache.released[order]
        assert value(found, "uaptrace_unmapped_cache_allocations_total", order=str(order)) == cache.allocated[order]
        assert value(found, "uaptrace_unmapped_cache_frees_total", order=str(order)) == cache.freed[order]
    assert value(found, "uaptrace_unmapped_cache_present") == 1
    assert value(found, "uaptrace_unmapped_cache_cached_pages") == cache.free_pages
    assert value(found, "uaptrace_unmapped_cache_handed_out_pages") == cache.handed_out_pages
    assert value(found, "uaptrace_unmapped_cache_requests_total") == snapshot.operations["cache_alloc"].calls
    assert value(found, "uaptrace_unmapped_cache_request_failures_total") == snapshot.operations["cache_alloc"].failed
    assert value(found, "uaptrace_unmapped_cache_hits_total") == cache.hits
    assert value(found, "uaptrace_unmapped_cache_refill_fallbacks_total") == cache.refill_fallbacks
    assert value(found, "uaptrace_unmapped_cache_refills_undone_total") == snapshot.counters["cache_refill_undone"]
    assert value(found, "uaptrace_shrinker_runs_total") == shrinker.runs
    assert value(found, "uaptrace_shrinker_count_calls_total") == shrinker.counts
    assert value(found, "uaptrace_shrinker_asked_pages_total") == shrinker.asked_pages
    assert value(found, "uaptrace_shrinker_released_pages_total") == shrinker.released_pages
    for row in snapshot.audit:
        assert value(found, "uaptrace_audit_checks_total", invariant=str(row.number)) == row.checked
        assert value(found, "uaptrace_audit_violations_total", invariant=str(row.number)) == row.violated
        assert value(found, "uaptrace_audit_invariant_info", invariant=str(row.number), title=row.title) == 1
    assert value(found, "uaptrace_state_exact") == 0
    assert value(found, "uaptrace_ready") == 0
    assert value(found, "uaptrace_last_exact_timestamp_seconds") == pytest.approx(1_700_000_123.25 - 1.321012345, abs=1e-6)
    assert value(found, "uaptrace_reconcile_error_bytes") == snapshot.reconcile_error_bytes
    assert value(found, "uaptrace_reconcile_error_blocks") == snapshot.reconcile_error_blocks
    assert value(found, "uaptrace_page_table_rereads_total") == 3
    assert value(found, "uaptrace_events_total") == snapshot.loss.events_taken
    assert value(found, "uaptrace_events_lost_total", kind="split") == 100
    assert value(found, "uaptrace_events_lost_total", kind="unknown") == 5
    assert value(found, "uaptrace_decode_errors_total") == snapshot.loss.decode_errors
    assert value(found, "uaptrace_missed_runs_total") == snapshot.loss.missed_runs
    assert value(found, "uaptrace_contexts_lost_total") == snapshot.loss.contexts_lost
    for mechanism in ("fentry", "kprobe", "tracepoint", "caller", None):
        nr_hooks = sum(hook.mechanism == mechanism for hook in snapshot.hooks)
        assert value(found, "uaptrace_hooks", mechanism=mechanism or "none") == nr_hooks > 0
    assert value(found, "uaptrace_hook_attached", hook="hook_3") == 1
    assert value(found, "uaptrace_hook_attached", hook="hook_4") == 0
    assert value(found, "uaptrace_kfence_enabled") == 1
    assert value(found, "uaptrace_host_cpus") == 448
    assert value(found, "uaptrace_host_memory_bytes") == 12 << 40
    assert value(found, "uaptrace_tracing_start_timestamp_seconds") == pytest.approx(1_700_000_123.25 - 987_650.321012345, abs=1e-6)
    assert value(found, "uaptrace_snapshot_timestamp_seconds") == 1_700_000_123.25


def test_the_largest_host_has_at_most_400_series() -> None:
    snapshot = largest_snapshot()
    found = series(snapshot)
    assert len(found) <= 400, f"{len(found)} series"
    # As many again would still be bounded by the number of hooks, the only label that is not a closed set of docs/metrics.md.
    of_hooks = LARGEST_NR_HOOKS + sum(hook.mechanism is None for hook in snapshot.hooks)
    assert len(found) - of_hooks + LARGEST_NR_HOOKS <= 400


def test_silence_has_a_series_for_each_reason_and_none_where_it_is_not_known() -> None:
    found = series(snapshots.silent(small_snapshot()))
    assert value(found, "uaptrace_hooks_silent", reason="unseen_pages") == 1
    assert value(found, "uaptrace_hooks_silent", reason="kprobes_off") == 0
    assert value(found, "uaptrace_silences_total", reason="kprobes_off") == 2
    assert value(found, "uaptrace_unseen_pages_total") == 1021
    assert not [name for name, _ in series(small_snapshot()) if "silen" in name or "unseen_pages" in name]


def test_a_kernel_without_the_cache_has_no_cache_series_rather_than_zeros() -> None:
    snapshot = largest_snapshot()
    without = replace(snapshot, cache=None, shrinker=None, host=replace(snapshot.host, has_series=False))
    found = series(without)
    assert value(found, "uaptrace_unmapped_cache_present") == 0
    assert not {n for n in names(found) if n.startswith(("uaptrace_unmapped_cache_", "uaptrace_shrinker_"))} - {
        "uaptrace_unmapped_cache_present"
    }
    assert {dict(labels)["operation"] for name, labels in found if name == "uaptrace_operation_duration_seconds_count"} == {
        "set_invalid",
        "set_default",
        "cpa",
    }


def test_what_is_not_known_is_absent() -> None:
    unknown = {
        "uaptrace_direct_map_meminfo_bytes",
        "uaptrace_direct_map_vmstat_splits_total",
        "uaptrace_direct_map_operations_total",
        "uaptrace_operation_duration_seconds_count",
        "uaptrace_audit_violations_total",
        "uaptrace_reconcile_error_bytes",
        "uaptrace_reconcile_error_blocks",
        "uaptrace_last_exact_timestamp_seconds",
        "uaptrace_host_memory_bytes",
        "uaptrace_host_cpus",
    }
    assert not names(series(small_snapshot())) & unknown
    assert unknown <= names(series(largest_snapshot()))


def test_closed_label_sets_are_there_before_anything_happens() -> None:
    found = series(small_snapshot())
    assert value(found, "uaptrace_direct_map_splits_total", level="1g", cause="secretmem") == 0
    assert value(found, "uaptrace_events_lost_total", kind="shrink") == 0
    assert value(found, "uaptrace_hooks", mechanism="kprobe") == 0
    assert len([1 for name, _ in found if name == "uaptrace_direct_map_splits_total"]) == 2 * len(Cause)


def test_before_the_first_state_the_endpoint_shows_itself_only() -> None:
    found = series(None)
    assert value(found, "uaptrace_ready") == 0
    assert {"uaptrace_build_info", "process_resident_memory_bytes", "uaptrace_scrape_duration_seconds_count"} <= names(found)
    assert not {n for n in names(found) if n.startswith("uaptrace_direct_map")}


def test_levels_that_the_kernel_does_not_print_are_absent() -> None:
    snapshot = small_snapshot()
    view = replace(snapshot.direct_map, kernel_bytes=MappingProxyType({Level.K4: 8192, Level.M2: 0}))
    found = series(replace(snapshot, direct_map=view))
    levels = {dict(labels)["level"] for name, labels in found if name == "uaptrace_direct_map_meminfo_bytes"}
    assert levels == {"4k", "2m"}


def test_a_hook_of_two_programs_is_attached_when_both_are() -> None:
    hooks = (HookStatus("cpa", "f", "fentry"), HookStatus("cpa", "f", None, "not in this kernel"), HookStatus("split", "g", "kprobe"))
    found = series(replace(small_snapshot(), hooks=hooks))
    assert value(found, "uaptrace_hook_attached", hook="cpa") == 0
    assert value(found, "uaptrace_hook_attached", hook="split") == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**50), min_size=32, max_size=32).map(tuple),
    st.integers(0, 2**50),
)
def test_buckets_are_cumulative_and_no_call_is_in_a_bucket_below_its_duration(counts: tuple[int, ...], sum_ns: int) -> None:
    histogram = Histogram(counts, sum_ns)
    found = buckets(histogram)
    assert [bound for bound, _ in found] == [*(repr(2**e / 1e9) for e in range(FIRST_BUCKET, LAST_BUCKET + 1)), "+Inf"]
    numbers = [number for _, number in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] == float(histogram.count)
    for bound, number in found[:-1]:
        # Bucket i holds calls of at most 2^(i+1) ns, so all of these took at most the bound.
        assert number == float(sum(n for i, n in enumerate(counts) if 2 ** (i + 1) <= round(float(bound) * 1e9)))


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (None, "no state yet"),
        (replace(small_snapshot(), hooks=()), "no hook is attached"),
        (replace(small_snapshot(), hooks=(HookStatus("cpa", None, None, "locked down"),)), "no hook is attached"),
        (replace(small_snapshot(), exactness=Exactness(False, ("3 events lost", "drift"))), "3 events lost; drift"),
    ],
)
def test_readiness_says_why_not(snapshot: Snapshot | None, why: str) -> None:
    assert why in str(readiness(snapshot))


def test_ready_when_attached_and_exact() -> None:
    assert readiness(small_snapshot()) is None
    assert value(series(small_snapshot()), "uaptrace_ready") == 1


def test_loss_of_kinds_that_were_not_counted_is_shown_as_unknown() -> None:
    found = series(replace(small_snapshot(), loss=Loss(events_lost=7, lost_by_kind={"free": 3})))
    assert value(found, "uaptrace_events_lost_total", kind="free") == 3
    assert value(found, "uaptrace_events_lost_total", kind="unknown") == 4


@pytest.mark.parametrize(
    ("hook", "gone", "stays"),
    [
        (
            "FLUSH_ALL",
            ["uaptrace_direct_map_splits_total", "uaptrace_other_mapping_splits_total"],
            "uaptrace_direct_map_unexplained_splits_total",
        ),
        (
            "CACHE_FREE",
            ["uaptrace_unmapped_cache_frees_total", "uaptrace_unmapped_cache_free_blocks"],
            "uaptrace_unmapped_cache_hits_total",
        ),
        (
            "CACHE_ALLOC",
            ["uaptrace_unmapped_cache_requests_total", "uaptrace_unmapped_cache_hits_total"],
            "uaptrace_unmapped_cache_frees_total",
        ),
        ("CACHE_RELEASE", ["uaptrace_unmapped_cache_releases_total"], "uaptrace_unmapped_cache_refills_total"),
        ("SHRINK_SCAN", ["uaptrace_shrinker_runs_total", "uaptrace_shrinker_released_pages_total"], "uaptrace_shrinker_count_calls_total"),
        ("SHRINK_COUNT", ["uaptrace_shrinker_count_calls_total"], "uaptrace_shrinker_runs_total"),
    ],
)
def test_what_no_hook_watches_is_absent_rather_than_zero(hook: str, gone: list[str], stays: str) -> None:
    snapshot = largest_snapshot()
    found = names(series(replace(snapshot, hooks=(*snapshot.hooks, HookStatus(hook, None, None, "not in this kernel")))))
    assert not found & set(gone)
    assert stays in found
    assert found | set(gone) <= names(series(snapshot))


def test_operations_that_no_hook_watches_are_absent() -> None:
    snapshot = largest_snapshot()
    found = series(replace(snapshot, hooks=(HookStatus("SET_INVALID", None, None, "gone"), HookStatus("CPA", "f", "fentry"))))
    for name in ("uaptrace_direct_map_operations_total", "uaptrace_direct_map_operation_failures_total"):
        assert {dict(labels)["operation"] for series_name, labels in found if series_name == name} == {"set_default", "cpa"}
    timed = {dict(labels)["operation"] for name, labels in found if name == "uaptrace_operation_duration_seconds_sum"}
    assert timed == {"set_default", "cpa", "cache_hit", "cache_refill", "cache_free", "shrink"}


def test_a_hook_that_is_not_needed_hides_no_figure_and_raises_no_alert() -> None:
    hook = HookStatus("set_invalid", None, None, "replaced by set_direct_map_valid_noflush()", needed=False)
    found = series(replace(largest_snapshot(), hooks=(HookStatus("cpa", "f", "fentry"), hook)))
    assert value(found, "uaptrace_direct_map_operations_total", operation="set_invalid") > 0
    assert not [key for key in found if key[0] == "uaptrace_hook_attached" and ("hook", "set_invalid") in key[1]]
    assert value(found, "uaptrace_hooks", mechanism="none") == 0


def test_the_largest_host_has_as_many_hooks_as_there_are() -> None:
    from uaptrace.abi.hooks import HOOKS

    assert len(HOOKS) <= LARGEST_NR_HOOKS


def test_before_the_page_tables_were_read_the_direct_map_is_absent_not_small() -> None:
    """Records that came before the baseline tell of a few pages: that is not the direct map."""
    from pathlib import Path

    from uaptrace.recording import read_updates

    state = KernelState()
    recording = Path(__file__).parents[1] / "data" / "debian-6.1.uaptrace"
    for update in read_updates(recording):
        if isinstance(update, MapReading):
            break
        state.update(update)
    names = {family.name for family in snapshot_families(state.snapshot(0, 0.0))}
    assert "uaptrace_direct_map_bytes" not in names
    assert "uaptrace_state_exact" in names
    state.update(update)
    assert "uaptrace_direct_map_bytes" in {family.name for family in snapshot_families(state.snapshot(0, 0.0))}


def test_a_scrape_shows_nothing_that_is_left_out_of_its_snapshot() -> None:
    """Rows of splits and processes are not made for a scrape: they take as long as all the rest."""
    state = KernelState()
    for update in host_updates():
        state.update(update)
    whole, figures = state.snapshot(10**12, 1.0), state.snapshot(10**12, 1.0, rows=False)
    assert whole.processes
    assert whole.split_rows
    assert not figures.processes
    assert not figures.split_rows
    assert list(snapshot_families(figures)) == list(snapshot_families(whole))


def test_the_start_of_tracing_is_one_value_at_every_scrape_also_after_the_clock_was_set() -> None:
    state = KernelState()
    state.update(Start(HostInfo(), (), 5_000_000_123, 1_700_000_000.25, frozenset()))
    starts = set()
    for i, clock in enumerate([1_700_000_001.5346355, 1_700_000_002.6372, 1_700_000_003.639, 946_684_800.0, 1_900_000_000.1]):
        starts.add(value(series(state.snapshot(6_000_000_000 + i * 1_000_000_007, clock)), "uaptrace_tracing_start_timestamp_seconds"))
    assert starts == {1_700_000_000.25}


def test_when_the_state_was_last_exact_does_not_move_while_it_is_not() -> None:
    state = traced(has_series=False)
    state.update(counters(time_ns=10**9))
    state.snapshot(2 * 10**9, 1_700_000_000.0)
    state.update(counters(time_ns=3 * 10**9, lost={Kind.SPLIT: 1}))
    moments = {
        value(series(state.snapshot(4 * 10**9 + i * 1_000_000_007, clock)), "uaptrace_last_exact_timestamp_seconds")
        for i, clock in enumerate([1_700_000_002.1, 1_700_000_003.3, 946_684_800.0])
    }
    assert moments == {1_700_000_000.0}
