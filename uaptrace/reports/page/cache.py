# SPDX-License-Identifier: Apache-2.0
"""Sections of the unmapped cache: its pages over time, how long calls took, and the audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup

from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE
from uaptrace.model.snapshot import Histogram, ShrinkerView, UnmappedCacheView
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.parts import Charts
from uaptrace.reports.page.templating import render
from uaptrace.views import words

LATENCIES: Final = {
    "cache_hit": "allocation, no refill",
    "cache_refill": "allocation with a refill",
    "cache_free": "free into the cache",
    "shrink": "shrinker scan",
    "set_invalid": "set_direct_map_invalid",
    "set_default": "set_direct_map_default",
    "cpa": "attribute change",
}


# Cache

CACHE_WORDS: Final = "Pages that the cache holds free, by order of the block, and pages that it has handed out."


def cache_section(recorded: Recorded, charts: Charts) -> Markup:
    cache = recorded.end.cache
    if cache is None:
        return render("cache", known=False)
    counted = list(zip(cache.free, cache.cached, cache.released, cache.allocated, cache.freed, strict=True))
    return render(
        "cache",
        known=True,
        chart=_pages_over_time(recorded, charts),
        rows=[(str(order), *map(words.number, numbers)) for order, numbers in enumerate(counted) if any(numbers)],
        said=_cache_facts(cache, recorded.end.shrinker),
        differing_blocks=recorded.end.reconcile_error_blocks,
    )


def _pages_over_time(recorded: Recorded, charts: Charts) -> Markup:
    points = [(p.time_s, p.handed_out_pages or 0, p.cache_free) for p in recorded.points if p.cache_free is not None]
    series: list[tuple[str, str, Sequence[float | None]]] = [("handed out", "#9aa4b2", [pages * PAGE_SIZE for _, pages, _ in points])]
    for order in range(NR_ORDERS):
        blocks = [free[order] for _, _, free in points]
        if any(blocks):
            series.append((f"free, order {order}", _order_color(order), [float(n << order) * PAGE_SIZE for n in blocks]))
    return charts.add("Pages of the unmapped cache", [time_s for time_s, _, _ in points], series, "bytes")


def _cache_facts(cache: UnmappedCacheView, shrinker: ShrinkerView | None) -> str:
    hit = words.percent(cache.hits / cache.requests) if cache.requests else words.UNKNOWN
    facts = f"{words.plural(cache.requests, 'request')}, {hit} without a refill; {words.plural(cache.refills, 'refill')}"
    facts += f" ({cache.refill_fallbacks:,} of less than the first order tried), {words.plural(cache.failures, 'failure')}."
    if shrinker is not None and shrinker.runs:
        facts += f" The shrinker ran {words.plural(shrinker.runs, 'time')} and gave back {shrinker.released_pages:,} pages"
        facts += f" of {shrinker.asked_pages:,} asked for."
    return facts


def _order_color(order: int) -> str:
    hue = 265 - 20 * order
    return f"hsl({hue} 55% {62 - 2 * order}%)"


# Latency

LATENCY_WORDS: Final = "Counted in the kernel for every call, in powers of two. Quantiles are upper bounds of their bar."


def latency_section(recorded: Recorded) -> Markup:
    timed = ((label, recorded.end.latency.get(name)) for name, label in LATENCIES.items())
    return render("latency", histograms=[_histogram(label, found) for label, found in timed if found is not None and found.count])


def _histogram(label: str, histogram: Histogram) -> dict[str, Any]:
    used = [i for i, n in enumerate(histogram.buckets) if n]
    first, last = max(used[0] - 1, 0), min(used[-1] + 1, len(histogram.buckets) - 1)
    most = max(histogram.buckets)
    bars = []
    for i in range(first, last + 1):
        number = histogram.buckets[i]
        low, high = words.duration(2**i if i else 0), words.duration(2 ** (i + 1))
        # A bar that stands for something is never invisible.
        percent = max(100 * number / most, 2) if number else 0
        bars.append({"title": f"{low} to {high}: {words.plural(number, 'call')}", "percent": percent})
    return {
        "label": label,
        "bars": bars,
        "ends": (words.duration(2**first if first else 0), words.duration(2 ** (last + 1))),
        "calls": words.plural(histogram.count, "call"),
        "mean": words.duration(histogram.sum_ns / histogram.count),
        "quantiles": [f"{q:.0%} ≤ {words.duration(histogram.quantile_ns(q))}" for q in (0.5, 0.99)],
    }


# Audit

AUDIT_WORDS: Final = "Invariants of the unmapped cache, held against what the page tables said at each event."


_MARKS: Final = {"broken": "bad", "kept": "good", "not checked": "dim"}


def audit_section(recorded: Recorded) -> Markup:
    if recorded.end.cache is None:
        return render("audit", known=False)
    rows = []
    violations = []
    for row in recorded.end.audit:
        state = "broken" if row.violated else "kept" if row.checked else "not checked"
        counted = {"checked": words.number(row.checked), "violated": words.number(row.violated)}
        rows.append({"number": row.number, "title": row.title, "note": row.note, "state": state, "mark": _MARKS[state], **counted})
        violations += [
            {
                "number": row.number,
                "pages": f"pfn {v.pfn:,} ({words.plural(v.nr_pages, 'page')})",
                "expected": v.expected,
                "seen": v.seen,
                "process": f"{v.comm or 'process'} ({v.tgid})",
                "stack": v.stack,
            }
            for v in row.first[:5]
        ]
    return render("audit", known=True, rows=rows, violations=violations)
