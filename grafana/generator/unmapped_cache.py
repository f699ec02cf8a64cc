# SPDX-License-Identifier: Apache-2.0
"""*Unmapped cache*: what is in it, how it refills, whether it gives memory back, whether it is correct."""

from __future__ import annotations

from .layout import Row, dashboard
from .panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    TEXT,
    ZERO_IS_GOOD,
    Column,
    Json,
    Query,
    bars,
    count_of,
    heatmap,
    metric,
    named_color,
    quantile,
    rate,
    stat,
    table,
    thresholds,
    timeseries,
    total,
    value_names,
)

UID = "uaptrace-unmapped-cache"


def by_order(expr: str) -> str:
    """Sum by order, with a label in two digits that sorts before ``order``: Prometheus lists series by their labels."""
    return f'label_replace({total(expr, "order")}, "nr", "0$1", "order", "([0-9])")'


def ordered(expr: str) -> str:
    """``by_order`` for two digits as well."""
    return f'label_replace({by_order(expr)}, "nr", "$1", "order", "([0-9][0-9])")'


def helps() -> Row:
    """Is it there, and does it help?"""
    hits = f"increase({metric('unmapped_cache_hits_total')}[$__range])"
    requests = f"increase({metric('unmapped_cache_requests_total')}[$__range])"
    whole = f"increase({metric('unmapped_cache_refills_total', order='9')}[$__range])"
    refills = f"increase({metric('unmapped_cache_refills_total')}[$__range])"
    return Row(
        "Is it there, and does it help?",
        [
            stat(
                "Kernel",
                "Whether this kernel has the unmapped cache at all. On one without it the rest of this page is empty, and that is right.",
                Query(f"max({metric('unmapped_cache_present')})"),
                unit="none",
                mappings=(value_names({0: ("without", TEXT), 1: ("with cache", GREEN)}),),
                width=4,
            ),
            stat(
                "Served without a refill",
                "Hit ratio in the time shown. Above 90 % the cost of unmapping is paid once for many requests. Low: short-lived users "
                "drain it, or reclaim empties it all the time (see below).",
                Query(f"{total(hits)} / ({total(requests)} > 0)", instant=True),
                unit="percentunit",
                decimals=1,
                steps=thresholds(RED, (0.5, ORANGE), (0.9, GREEN)),
                no_value="no requests",
                width=4,
            ),
            stat(
                "Refills of whole 2M",
                "Share of refills that got an aligned 2M block: only these keep damage to one large mapping. Low means that free memory "
                "is too fragmented; "
                "more free memory (vm.min_free_kbytes) or an earlier start of the user helps.",
                Query(f"{total(whole)} / ({total(refills)} > 0)", instant=True),
                unit="percentunit",
                decimals=1,
                steps=thresholds(RED, (0.5, ORANGE), (0.9, GREEN)),
                no_value="no refills",
                width=4,
            ),
            stat(
                "Handed out",
                "Memory that users of the cache hold now.",
                Query(f"4096 * {total(metric('unmapped_cache_handed_out_pages'))}"),
                unit="bytes",
                sparkline=True,
                width=4,
            ),
            stat(
                "Free in the cache",
                "Memory in the cache that nobody uses now: absent from the direct map and lost to the rest of the system until it is "
                "asked for or reclaimed.",
                Query(f"4096 * {total(metric('unmapped_cache_cached_pages'))}"),
                unit="bytes",
                sparkline=True,
                width=4,
            ),
            stat(
                "Failed requests",
                "Requests in the time shown that got nothing. A module may not load, a process gets SIGBUS. Look for memory pressure, "
                "then for undone refills below.",
                Query(count_of(metric("unmapped_cache_request_failures_total")), instant=True),
                unit="short",
                decimals=0,
                steps=ZERO_IS_GOOD,
                width=4,
            ),
            timeseries(
                "Requests",
                "Hits, refills and failures per second. Bursts of refills with few hits are start-up; refills that go on are churn: pages"
                " are released by reclaim and taken again.",
                Query(total(rate(metric("unmapped_cache_hits_total"))), "hits"),
                Query(total(rate(metric("unmapped_cache_refills_total"))), "refills"),
                Query(total(rate(metric("unmapped_cache_request_failures_total"))), "failures"),
                unit="reqps",
                overrides=(named_color("hits", GREEN), named_color("refills", ORANGE), named_color("failures", RED)),
            ),
            timeseries(
                "Memory",
                "Handed out and free memory of the cache. The sum only falls when the shrinker releases pages.",
                Query(f"4096 * {total(metric('unmapped_cache_handed_out_pages'))}", "handed out"),
                Query(f"4096 * {total(metric('unmapped_cache_cached_pages'))}", "free in the cache"),
                unit="bytes",
                stacked=True,
                overrides=(named_color("handed out", PURPLE), named_color("free in the cache", BLUE)),
            ),
        ],
    )


def content() -> Row:
    """What is in it?"""
    free = metric("unmapped_cache_free_blocks")
    return Row(
        "What is in it?",
        [
            bars(
                "Free blocks by order now",
                "Blocks of 2^order pages that are free in the cache: order 0 is one page, order 9 a whole 2M mapping. Many small and no "
                "large ones: the cache is fragmented itself.",
                Query(ordered(free), "order {{order}}"),
                unit="short",
                decimals=0,
                height=10,
            ),
            timeseries(
                "Free blocks by order",
                "The same over time. After a burst of frees the small orders should fall again, as neighbours merge.",
                Query(ordered(free), "order {{order}}"),
                unit="short",
                decimals=0,
                width=16,
                height=10,
                legend_table=True,
            ),
        ],
    )


def refill() -> Row:
    """How does it refill?"""
    return Row(
        "How does it refill, and who gets what?",
        [
            timeseries(
                "Refills per minute by order",
                "Chunks taken from the page allocator. Order 9 is what is meant to happen; each lower order is a chunk that shares its 2M"
                " mapping with ordinary memory, and splits it.",
                Query(f"60 * {ordered(rate(metric('unmapped_cache_refills_total')))}", "order {{order}}"),
                unit="cpm",
                stacked=True,
                width=8,
            ),
            timeseries(
                "Refills that went wrong, per minute",
                "Fall-backs got a smaller chunk than the first that was tried; undone ones were given back because unmapping failed. The "
                "first is fragmentation, the second is a bug.",
                Query(f"60 * {total(rate(metric('unmapped_cache_refill_fallbacks_total')))}", "smaller than wanted"),
                Query(f"60 * {total(rate(metric('unmapped_cache_refills_undone_total')))}", "undone"),
                unit="cpm",
                width=8,
                overrides=(named_color("smaller than wanted", ORANGE), named_color("undone", RED)),
            ),
            timeseries(
                "Blocks handed out by order",
                "What users ask for. memfd_secret takes single pages, modules take larger blocks.",
                Query(ordered(rate(metric("unmapped_cache_allocations_total"))), "order {{order}}"),
                unit="cps",
                stacked=True,
                width=8,
            ),
        ],
    )


def latency() -> Row:
    """How fast is it?"""
    buckets = metric("operation_duration_seconds_bucket", operation="cache_hit|cache_refill|cache_free")
    return Row(
        "How fast is it?",
        [
            timeseries(
                "Time of a call: median and 99 %",
                "Upper bounds of power-of-two buckets. A hit should take around a microsecond; a refill unmaps up to 512 pages and "
                "flushes the TLB of every CPU.",
                Query(quantile(0.5, buckets, "operation"), "{{operation}} median"),
                Query(quantile(0.99, buckets, "operation"), "{{operation}} 99 %"),
                unit="s",
                log=True,
                minimum=None,
            ),
            heatmap(
                "Refills by duration",
                "How many refills took how long. A second band far above the first is contention for the TLB flush or for memory.",
                Query(
                    total(rate(metric("operation_duration_seconds_bucket", operation="cache_refill")), "le"),
                    "{{le}}",
                    heatmap=True,
                ),
            ),
        ],
    )


def reclaim() -> Row:
    """Does it give memory back?"""
    return Row(
        "Does it give memory back?",
        [
            timeseries(
                "Asked for and released",
                "What reclaim asked of the cache and what it got. Asked for without released for minutes, while memory is free in the "
                "cache, is a shrinker that does not work.",
                Query(f"4096 * {total(rate(metric('shrinker_asked_pages_total')))}", "asked for"),
                Query(f"4096 * {total(rate(metric('shrinker_released_pages_total')))}", "released"),
                unit="binBps",
                width=8,
                overrides=(named_color("asked for", ORANGE), named_color("released", GREEN)),
            ),
            timeseries(
                "Shrinker runs",
                "Calls of the shrinker's two callbacks. Counting without scanning: the cache says that it has nothing to give.",
                Query(f"60 * {total(rate(metric('shrinker_runs_total')))}", "scans"),
                Query(f"60 * {total(rate(metric('shrinker_count_calls_total')))}", "counts"),
                unit="cpm",
                width=8,
            ),
            timeseries(
                "Blocks released per minute by order",
                "The shrinker begins with the smallest. A released chunk stays split: small orders here are large mappings that do not "
                "come back.",
                Query(f"60 * {ordered(rate(metric('unmapped_cache_releases_total')))}", "order {{order}}"),
                unit="cpm",
                stacked=True,
                width=8,
            ),
        ],
    )


def correct() -> Row:
    """Is it correct?"""
    # One title for each, even where hosts run versions of uaptrace that word it differently.
    title = f"topk by (invariant) (1, max by (invariant, title) ({metric('audit_invariant_info')}))"
    return Row(
        "Is it correct?",
        [
            table(
                "Invariants",
                "What must hold for every page of the cache, how often it was checked and how often it was broken since tracing began. "
                "A broken one is a kernel bug or memory damage: `uaptrace audit` names page, expectation and caller. Not checked: the "
                "hook for it is missing.",
                Query(
                    f"{total(metric('audit_violations_total'), 'invariant')} * on (invariant) group_left (title) {title}",
                    instant=True,
                    table=True,
                ),
                Query(total(metric("audit_checks_total"), "invariant"), instant=True, table=True),
                by="invariant",
                columns=[
                    Column("invariant", "No.", width=70),
                    Column("title", "Invariant"),
                    Column("Value #B", "Checked", unit="locale", width=180),
                    Column("Value #A", "Broken", unit="locale", width=120, steps=ZERO_IS_GOOD),
                ],
                height=13,
                sort=("Broken", True),
                numeric="invariant",
            ),
        ],
    )


def make() -> Json:
    """The dashboard."""
    return dashboard(
        UID,
        "uaptrace / Unmapped cache",
        "The kernel's cache of pages that are absent from the direct map: what it holds, how it refills, what it costs, whether it gives "
        "memory back, and whether it is correct.",
        [helps(), content(), refill(), latency(), reclaim(), correct()],
    )
