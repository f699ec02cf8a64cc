# SPDX-License-Identifier: Apache-2.0
"""*Who splits it*: causes, calls, and whether every split is accounted for."""

from __future__ import annotations

from .direct_map import splits_by_level
from .layout import Row, dashboard
from .panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    TEXT,
    ZERO_IS_GOOD,
    Column,
    Json,
    Query,
    bars,
    count_of,
    metric,
    named_color,
    quantile,
    rate,
    stat,
    table,
    thresholds,
    timeseries,
    total,
)

UID = "uaptrace-splits"
SPLITS = metric("direct_map_splits_total")


def causes() -> Row:
    """Which cause?"""
    return Row(
        "Which cause?",
        [
            bars(
                "By cause in the time shown",
                "The six most frequent. The longest bar is what to work on. unmapped_alloc: the unmapped cache refills; secretmem:"
                " memfd_secret; module: loading"
                " modules; bpf: JIT images; ftrace, kprobe: tracing; execmem: executable memory for several users; kexec: a kernel"
                " to boot next; confidential: encrypted guests; memory_failure: a page whose memory failed; hibernation: its image;"
                " driver: graphics and DMA; self: uaptrace; other: anything else.",
                Query(f"sort_desc(topk(6, {count_of(SPLITS, 'cause')}))", "{{cause}}", instant=True),
                unit="short",
                decimals=0,
                title_size=14,
                width=8,
                height=9,
            ),
            timeseries(
                "By cause, per minute",
                "When each cause was at work. Compare with deployments and with the annotations. Then run `uaptrace splits` on the host "
                "for processes, cgroups and stacks.",
                Query(f"60 * {total(rate(SPLITS), 'cause')}", "{{cause}}"),
                unit="cpm",
                stacked=True,
                width=16,
                height=9,
                legend_table=True,
            ),
            table(
                "Cause and size",
                "Splits by what was split, in the time shown and since tracing began. A 1G split takes 1 GiB out of the largest mappings "
                "at once, and often a 2M split follows.",
                Query(count_of(metric("direct_map_splits_total", level="2m"), "cause"), instant=True, table=True),
                Query(count_of(metric("direct_map_splits_total", level="1g"), "cause"), instant=True, table=True),
                Query(total(SPLITS, "cause"), instant=True, table=True),
                by="cause",
                columns=[
                    Column("cause", "Cause"),
                    Column("Value #A", "2M, time shown", unit="locale", width=180),
                    Column("Value #B", "1G, time shown", unit="locale", width=180),
                    Column("Value #C", "all, since tracing began", unit="locale", width=220),
                ],
                sort=("2M, time shown", True),
                width=14,
                height=11,
            ),
            splits_by_level(height=11),
        ],
    )


def calls() -> Row:
    """Which calls?"""
    operations = metric("direct_map_operations_total")
    return Row(
        "Which calls change the direct map?",
        [
            timeseries(
                "Calls",
                "set_invalid takes pages out of the direct map, set_default puts them back, cpa is every attribute change (modules, BPF, "
                "drivers). "
                "More set_invalid than set_default, all the time: pages are taken and not given back.",
                Query(total(rate(operations), "operation"), "{{operation}}"),
                unit="ops",
                width=8,
            ),
            timeseries(
                "Splits for each thousand calls",
                "How destructive a call is on average. Grouping (the unmapped cache) lowers it; a rise means that calls hit memory that "
                "was still whole.",
                Query(f"1000 * {total(rate(SPLITS))} / ({total(rate(operations))} > 0)", "splits / 1000 calls"),
                unit="short",
                width=8,
                no_value="no calls",
            ),
            timeseries(
                "Time of a call (99 % are faster)",
                "Upper bound of a power-of-two bucket. Calls that split a mapping allocate a page table and flush every CPU's TLB.",
                Query(
                    quantile(0.99, metric("operation_duration_seconds_bucket", operation="set_invalid|set_default|cpa"), "operation"),
                    "{{operation}}",
                ),
                unit="s",
                log=True,
                minimum=None,
                width=8,
            ),
        ],
    )


def accounted() -> Row:
    """Is every split accounted for?"""
    vmstat = metric("direct_map_vmstat_splits_total")
    # The kernel's count has a history when uaptrace sees it for the first time after a reboot: that is no burst.
    since_boot = f"{rate(vmstat)} unless resets({vmstat}[$__rate_interval]) > 0"
    return Row(
        "Is every split accounted for?",
        [
            timeseries(
                "The kernel's count and uaptrace's, per minute",
                "Splits by /proc/vmstat, and those that hooks saw and explained. The lines lie on each other; where the kernel's is "
                "higher, a hook missed some: "
                "see “Not explained” and the hooks in *uaptrace itself*.",
                Query(f"60 * {total(since_boot)}", "counted by the kernel"),
                Query(f"60 * {total(rate(SPLITS))}", "explained"),
                unit="cpm",
                overrides=(named_color("counted by the kernel", BLUE), named_color("explained", GREEN)),
            ),
            stat(
                "Since boot, by the kernel",
                "What /proc/vmstat has counted since boot, uaptrace running or not. Collapsed: made of smaller mappings again, which newer "
                "kernels do for executable memory.",
                Query(f"{total(metric('direct_map_vmstat_splits_total', level='2m'))}", "2M"),
                Query(f"{total(metric('direct_map_vmstat_splits_total', level='1g'))}", "1G"),
                Query(f"{total(metric('direct_map_vmstat_collapses_total', level='2m'))}", "2M collapsed"),
                Query(f"{total(metric('direct_map_vmstat_collapses_total', level='1g'))}", "1G collapsed"),
                unit="locale",
                width=6,
                no_value="kernel does not count",
            ),
            stat(
                "Not explained",
                "Splits since tracing began that the kernel counted and no hook saw. Should be zero. KFENCE and hibernation change "
                "mappings in ways that no hook can see.",
                Query(total(metric("direct_map_unexplained_splits_total"))),
                unit="locale",
                steps=ZERO_IS_GOOD,
                width=6,
            ),
            stat(
                "By uaptrace",
                "What attaching cost, and what uaptrace split while it ran. The observer's own effect is shown, and never counted as a "
                "finding.",
                Query(total(metric("direct_map_attach_splits_total")), "attaching"),
                Query(total(metric("direct_map_splits_total", cause="self")), "running"),
                unit="locale",
                steps=thresholds(TEXT, (100, ORANGE)),
                width=6,
            ),
            stat(
                "Outside the direct map",
                "Splits of mappings elsewhere (vmalloc, modules). The kernel does not count them and they do not fragment the direct map;"
                " they explain TLB flushes without splits above.",
                Query(total(metric("other_mapping_splits_total"))),
                unit="locale",
                steps=thresholds(TEXT, (1_000_000, RED)),
                width=6,
            ),
        ],
    )


def make() -> Json:
    """The dashboard."""
    return dashboard(
        UID,
        "uaptrace / Who splits it",
        "What splits the large mappings of the direct map, when, by which calls, and whether every split that the kernel counted is "
        "explained. "
        "Processes, cgroups and stacks are on the host: `uaptrace splits`.",
        [causes(), calls(), accounted()],
    )
