# SPDX-License-Identifier: Apache-2.0
"""*uaptrace itself*: loss, exactness, cost."""

from __future__ import annotations

from .layout import Row, dashboard
from .panels import (
    GREEN,
    ORANGE,
    RED,
    TEXT,
    YELLOW,
    ZERO_IS_GOOD,
    Column,
    Json,
    Query,
    bars,
    count_of,
    metric,
    named_color,
    rate,
    stat,
    table,
    thresholds,
    timeseries,
    total,
    value_names,
)
from .trust import EXACT_NAMES

UID = "uaptrace-itself"
YES_NO = value_names({0: ("no", RED), 1: ("yes", GREEN)})
ATTACHED = value_names({0: ("no", TEXT), 1: ("yes", GREEN)})


def exact() -> Row:
    """Is it exact?"""
    return Row(
        "Is it exact?",
        [
            stat(
                "State",
                "Exact: nothing lost, and in agreement with the kernel's own counters (the worst of the hosts chosen). Not exact for more"
                " than some minutes: see what was lost below, "
                "and whether uaptrace gets CPU time.",
                Query(f"min({metric('state_exact')})"),
                unit="none",
                background=True,
                mappings=(EXACT_NAMES,),
                steps=thresholds(RED, (1, GREEN)),
            ),
            stat(
                "Last exact",
                "How long ago the state was last known to be exact, at the time of the scrape. It grows while the state is not exact.",
                Query(f"max({metric('snapshot_timestamp_seconds')} - {metric('last_exact_timestamp_seconds')})"),
                unit="s",
                steps=thresholds(GREEN, (60, YELLOW), (600, RED)),
                no_value="never",
            ),
            stat(
                "Ready",
                "What /readyz says: there is a state, hooks are attached, and it is exact.",
                Query(f"min({metric('ready')})"),
                unit="none",
                mappings=(YES_NO,),
                steps=thresholds(RED, (1, GREEN)),
            ),
            stat(
                "Difference to meminfo",
                "Bytes by which the state differs from the changes of the kernel's DirectMap figures. Must be zero; empty until something"
                " was compared.",
                Query(f"sum({metric('reconcile_error_bytes')})"),
                unit="bytes",
                steps=ZERO_IS_GOOD,
                no_value="not compared",
            ),
            stat(
                "Difference to debugfs",
                "Blocks by which the cache's state differs from the kernel's rows in debugfs, at the last quiet moment. Must be zero; "
                "empty on a kernel without the cache.",
                Query(f"sum({metric('reconcile_error_blocks')})"),
                unit="short",
                decimals=0,
                steps=ZERO_IS_GOOD,
                no_value="not compared",
            ),
            stat(
                "Page tables read again",
                "Times in the time shown that page tables were read again because something was uncertain. This is how a loss is "
                "repaired; many of them cost CPU time.",
                Query(count_of(metric("page_table_rereads_total")), instant=True),
                unit="short",
                decimals=0,
                steps=thresholds(TEXT, (100, ORANGE)),
            ),
            timeseries(
                "Exact over time",
                "1 while the state of every chosen host was exact.",
                Query(f"min({metric('state_exact')})", "exact"),
                unit="bool_yes_no",
                stepped=True,
                maximum=1,
                width=8,
                height=7,
                overrides=(named_color("exact", GREEN),),
            ),
            timeseries(
                "Events taken in",
                "Records from the kernel per second. A host that is busy with direct-map calls has many; uaptrace keeps up with millions.",
                Query(total(rate(metric("events_total"))), "events"),
                unit="eps",
                width=8,
                height=7,
            ),
            timeseries(
                "Lost, per second",
                "Where something got lost: no room in the ring (by kind of record), records that could not be decoded, programs that "
                "the kernel did not run, calls that could not be followed. "
                "Give uaptrace a larger ring buffer or a higher priority.",
                Query(f"{total(rate(metric('events_lost_total')), 'kind')} > 0", "ring full: {{kind}}"),
                Query(total(rate(metric("decode_errors_total"))), "not decoded"),
                Query(total(rate(metric("missed_runs_total"))), "not run by the kernel"),
                Query(total(rate(metric("contexts_lost_total"))), "not followed"),
                unit="eps",
                width=8,
                height=7,
            ),
        ],
    )


def hooks() -> Row:
    """What does it see?"""
    return Row(
        "What does it see?",
        [
            table(
                "Hooks",
                "Every function that uaptrace can watch. Those of the unmapped cache are attached where the kernel has it, set_valid "
                "exists on newer kernels "
                "only, and alloc_pages_count is attached on request. What any other that is not attached would show is missing from all "
                "dashboards; "
                "`uaptrace check` on the host says why.",
                Query(f"min by (hook) ({metric('hook_attached')})", instant=True, table=True),
                by="hook",
                columns=[
                    Column("hook", "Hook"),
                    Column("Value", "Attached", width=140, mappings=(ATTACHED,), steps=thresholds(TEXT, (1, GREEN))),
                ],
                width=8,
                height=9,
                sort=("Attached", False),
            ),
            bars(
                "Hooks by mechanism",
                "fentry is the cheapest, kprobes the fall-back for functions that it cannot reach. A “caller” has no program: the exit "
                "of the attribute change tells which function made it. “none” is not attached.",
                Query(f"sort_desc({total(metric('hooks'), 'mechanism')})", "{{mechanism}}", instant=True),
                unit="short",
                title_size=13,
                decimals=0,
                width=6,
                height=9,
            ),
            table(
                "Hosts",
                "What runs where. A kernel change is marked in all graphs, for the direct map starts anew at every boot.",
                Query(f"max by (instance, hostname, kernel_release, paging_levels) ({metric('host_info')})", instant=True, table=True),
                Query(f"max by (instance, version) ({metric('build_info')})", instant=True, table=True),
                Query(f"max by (instance) ({metric('kfence_enabled')})", instant=True, table=True),
                by="instance",
                columns=[
                    Column("instance", "Host"),
                    Column("kernel_release", "Kernel"),
                    Column("version", "uaptrace", width=100),
                    # KFENCE's own changes cannot be seen, so “on” is a limit of what can be exact.
                    Column("Value #C", "KFENCE", width=90, mappings=(value_names({0: ("off", GREEN), 1: ("on", ORANGE)}),)),
                ],
                hidden=("Value #A", "Value #B", "hostname", "paging_levels"),
                width=10,
                height=9,
            ),
        ],
    )


def cost() -> Row:
    """What does it cost?"""
    started = metric("tracing_start_timestamp_seconds")
    process = {name: metric(f"process_{name}") for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds")}
    # Only processes that are uaptrace: other exporters publish the same process metrics.
    ours = f"and on (instance, job) {metric('build_info')}"
    scrapes = metric("scrape_duration_seconds_count")
    return Row(
        "What does it cost?",
        [
            timeseries(
                "CPU time",
                "Share of one CPU that the daemon takes on each host. Idle hosts are below 1 %. The cost inside the kernel is in the "
                "calls themselves: see “Time of a call” in *Who splits it*.",
                Query(f"{rate(process['cpu_seconds_total'])} {ours}", "{{instance}}"),
                unit="percentunit",
                width=8,
            ),
            timeseries(
                "Memory",
                "Resident memory of the daemon. It grows with the number of split regions, not with time; under 60 MiB is usual.",
                Query(f"{process['resident_memory_bytes']} {ours}", "{{instance}}"),
                unit="bytes",
                width=8,
            ),
            timeseries(
                "Time of a scrape",
                "Average time to answer a scrape. Above 10 ms the host is short of CPU.",
                Query(f"{rate(metric('scrape_duration_seconds_sum'))} / ({rate(scrapes)} > 0)", "{{instance}}"),
                unit="s",
                width=8,
            ),
            timeseries(
                "Connections to the endpoint",
                "Open connections, the scrape's own among them.",
                Query(total(metric("http_connections")), "open"),
                unit="short",
                decimals=0,
                width=8,
                height=6,
            ),
            timeseries(
                "Connections turned away, per minute",
                "By reason: handshake, deadline, limit, malformed, unauthorized. A steady rate is a misconfigured client or one that "
                "guesses passwords.",
                Query(f"60 * {total(rate(metric('http_connections_dropped_total')), 'reason')}", "{{reason}}"),
                unit="cpm",
                width=8,
                height=6,
            ),
            stat(
                "Descriptors in use",
                "Open file descriptors as a share of the limit, the worst host. Near 1, connections will be refused.",
                Query(f"max({process['open_fds']} / {process['max_fds']} {ours})"),
                unit="percentunit",
                decimals=1,
                steps=thresholds(GREEN, (0.8, ORANGE), (0.95, RED)),
                width=4,
                height=6,
            ),
            stat(
                "Tracing for",
                "Time since tracing began, on the host where it began last. Counters count from there.",
                Query(f"min({metric('snapshot_timestamp_seconds')} - {started})"),
                unit="s",
                steps=thresholds(TEXT, (0, TEXT)),
                width=4,
                height=6,
            ),
        ],
    )


def make() -> Json:
    """The dashboard."""
    return dashboard(
        UID,
        "uaptrace / uaptrace itself",
        "Whether uaptrace's figures can be trusted and what it costs: exactness, loss, hooks, CPU, memory, the scrape endpoint.",
        [exact(), hooks(), cost()],
    )
