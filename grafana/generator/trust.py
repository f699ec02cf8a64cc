# SPDX-License-Identifier: Apache-2.0
"""Rows of the direct map dashboard: is something wrong, and can the figures be trusted?"""

from __future__ import annotations

from .layout import Row
from .panels import (
    GREEN,
    ORANGE,
    RED,
    ZERO_IS_GOOD,
    Query,
    count_of,
    metric,
    named_color,
    quantile,
    rate,
    stat,
    thresholds,
    timeseries,
    total,
    value_names,
)

MAP_HOOKS = "cpa|flush_all|set_invalid|set_default"
CACHE_HOOKS = "cache_alloc|cache_free|cache_release|flush_range|shrink_scan|shrink_count|page_alloc|alloc_pages|secretmem_fault"
"""Hooks that exactness needs on every kernel, and on one with the unmapped cache; the others are optional."""
EXACT_NAMES = value_names({0: ("not exact", RED), 1: ("exact", GREEN)})


def wrong() -> Row:
    """Is something wrong?"""
    return Row(
        "Is something wrong?",
        [
            stat(
                "Must be zero",
                "In the time shown. Broken invariants: a kernel bug or memory damage, run `uaptrace audit` for the pages. Failed calls: "
                "set_direct_map or an attribute change "
                "returned an error, so a page may be mapped that should not be, or the other way round. Failed requests: somebody did not"
                " get unmapped memory. "
                "Undone refills: unmapping failed half-way.",
                Query(count_of(metric("audit_violations_total")), "broken invariants", instant=True),
                Query(count_of(metric("direct_map_operation_failures_total")), "failed calls", instant=True),
                Query(count_of(metric("unmapped_cache_request_failures_total")), "failed requests", instant=True),
                Query(count_of(metric("unmapped_cache_refills_undone_total")), "undone refills", instant=True),
                unit="short",
                decimals=0,
                background=True,
                steps=ZERO_IS_GOOD,
                width=24,
                height=4,
            ),
            timeseries(
                "Slowest calls (99 % are faster)",
                "Upper bound of the power-of-two bucket that holds the 99th percentile of each operation. A refill flushes the TLB of all"
                " CPUs, so tens of microseconds are usual on large hosts; "
                "milliseconds stall whoever asked.",
                Query(quantile(0.99, metric("operation_duration_seconds_bucket"), "operation"), "{{operation}}"),
                unit="s",
                log=True,
                minimum=None,
            ),
            timeseries(
                "Does the cache give memory back?",
                "What reclaim asked of the cache, and what it got. Asked for without released, for minutes: the shrinker is broken or all"
                " the cache is in use; "
                "the host is short of memory that lies idle in the cache.",
                Query(f"4096 * {total(rate(metric('shrinker_asked_pages_total')))}", "asked for"),
                Query(f"4096 * {total(rate(metric('shrinker_released_pages_total')))}", "released"),
                unit="binBps",
                overrides=(named_color("asked for", ORANGE), named_color("released", GREEN)),
            ),
        ],
    )


def trust() -> Row:
    """Can I trust these figures?"""
    cache_hooks = f"(1 - {metric('hook_attached', hook=CACHE_HOOKS)})"
    has_cache = metric("unmapped_cache_present")
    return Row(
        "Can I trust these figures?",
        [
            stat(
                "State",
                "“exact”: nothing was lost and the state agrees with the kernel's own counters. “not exact”: the figures above are a "
                "lower bound until the page tables have been read again, "
                "which happens by itself; if it lasts, see the dashboard *uaptrace itself*.",
                Query(f"min({metric('state_exact')})"),
                unit="none",
                background=True,
                mappings=(EXACT_NAMES,),
                steps=thresholds(RED, (1, GREEN)),
                width=4,
            ),
            stat(
                "Lost in the time shown",
                "Events that found no room in the ring buffer, could not be decoded, or could not be followed, and calls for which the "
                "kernel ran no program, where it tells. Counters stay right (the kernel keeps them), detail by process may be missing.",
                Query(
                    " + ".join(count_of(metric(name)) for name in ("events_lost_total", "decode_errors_total", "contexts_lost_total"))
                    # Missing where the kernel does not tell: the sum is to be what is known.
                    + f" + ({count_of(metric('missed_runs_total'))} or vector(0))",
                    instant=True,
                ),
                unit="short",
                decimals=0,
                background=True,
                steps=ZERO_IS_GOOD,
                width=4,
            ),
            stat(
                "Difference to the kernel",
                "How far the state is from the changes of the kernel's own figures (/proc/meminfo). Zero, or nothing compared yet. "
                "Anything else makes the state not exact.",
                Query(f"sum({metric('reconcile_error_bytes')})"),
                unit="bytes",
                background=True,
                steps=ZERO_IS_GOOD,
                no_value="not compared",
                width=4,
            ),
            stat(
                "Hooks missing",
                "Functions that an exact state needs watched on this kernel, and that are not. What they would have shown is missing, not"
                " zero: "
                "`uaptrace check` on the host says which and why.",
                Query(f"sum((1 - {metric('hook_attached', hook=MAP_HOOKS)}) or ({cache_hooks} and on (instance) {has_cache} == 1))"),
                unit="short",
                decimals=0,
                background=True,
                steps=thresholds(GREEN, (1, ORANGE)),
                width=4,
            ),
            timeseries(
                "Exact over time",
                "1 while the state of every chosen host was exact. Short dips under load repair themselves; a long one means that figures"
                " since then are a lower bound.",
                Query(f"min({metric('state_exact')})", "exact"),
                unit="bool_yes_no",
                stepped=True,
                maximum=1,
                width=8,
                height=4,
                overrides=(named_color("exact", GREEN),),
            ),
        ],
    )
