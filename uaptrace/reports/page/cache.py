# SPDX-License-Identifier: Apache-2.0
"""Sections of the unmapped cache: its pages over time, how long calls took, and the audit."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE
from uaptrace.model.snapshot import Histogram
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.parts import (
    Charts,
    stack_html,
    table_html,
)
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


def cache_section(recorded: Recorded, charts: Charts) -> str:
    cache = recorded.end.cache
    if cache is None:
        return '<p class="none">This kernel has no unmapped cache (unmapped_pages_alloc is not there).</p>'
    points = [p for p in recorded.points if p.cache_free is not None]
    orders = [o for o in range(NR_ORDERS) if any(p.cache_free and p.cache_free[o] for p in points)]
    series: list[tuple[str, str, Sequence[float | None]]] = [
        ("handed out", "#9aa4b2", [(p.handed_out_pages or 0) * PAGE_SIZE for p in points]),
        *(
            (f"free, order {o}", _order_color(o), [float((p.cache_free[o] if p.cache_free else 0) << o) * PAGE_SIZE for p in points])
            for o in orders
        ),
    ]
    out = [charts.add("Pages of the unmapped cache", [p.time_s for p in points], series, "bytes")]
    shown = [o for o in range(NR_ORDERS) if any(row[o] for row in (cache.free, cache.cached, cache.released, cache.allocated, cache.freed))]
    rows = [
        (str(o), *(words.number(row[o]) for row in (cache.free, cache.cached, cache.released, cache.allocated, cache.freed))) for o in shown
    ]
    out.append(
        table_html(("order", "free now", "cached", "released", "allocated", "freed"), rows)
        if rows
        else '<p class="none">It was not used.</p>'
    )
    hit = words.percent(cache.hits / cache.requests) if cache.requests else words.UNKNOWN
    facts = f"{words.plural(cache.requests, 'request')}, {hit} without a refill; {words.plural(cache.refills, 'refill')}"
    facts += f" ({cache.refill_fallbacks:,} of less than the first order tried), {words.plural(cache.failures, 'failure')}."
    if recorded.end.shrinker is not None and recorded.end.shrinker.runs:
        shrinker = recorded.end.shrinker
        facts += f" The shrinker ran {words.plural(shrinker.runs, 'time')} and gave back {shrinker.released_pages:,} pages"
        facts += f" of {shrinker.asked_pages:,} asked for."
    out.append(f'<p class="facts">{escape(facts)}</p>')
    if recorded.end.reconcile_error_blocks:
        out.append(
            f'<p class="reason">The rebuilt cache differs from the kernel\'s own rows by {recorded.end.reconcile_error_blocks} blocks.</p>'
        )
    return "".join(out)


def _order_color(order: int) -> str:
    hue = 265 - 20 * order
    return f"hsl({hue} 55% {62 - 2 * order}%)"


# Latency

LATENCY_WORDS: Final = "Counted in the kernel for every call, in powers of two. Quantiles are upper bounds of their bar."


def latency_section(recorded: Recorded) -> str:
    blocks = []
    for name, label in LATENCIES.items():
        histogram = recorded.end.latency.get(name)
        if histogram is not None and histogram.count:
            blocks.append(_histogram(label, histogram))
    return f'<div class="latencies">{"".join(blocks)}</div>' if blocks else '<p class="none">No call was timed.</p>'


def _histogram(label: str, histogram: Histogram) -> str:
    used = [i for i, n in enumerate(histogram.buckets) if n]
    first, last = max(used[0] - 1, 0), min(used[-1] + 1, len(histogram.buckets) - 1)
    most = max(histogram.buckets)
    bars = []
    for i in range(first, last + 1):
        number = histogram.buckets[i]
        low, high = words.duration(2**i if i else 0), words.duration(2 ** (i + 1))
        title = f"{low} to {high}: {words.plural(number, 'call')}"
        # A bar that stands for something is never invisible.
        height = max(100 * number / most, 2) if number else 0
        bars.append(f'<span title="{escape(title)}"><i style="height:{height:.1f}%"></i></span>')
    quantiles = " · ".join(f"{q:.0%} ≤ {words.duration(histogram.quantile_ns(q))}" for q in (0.5, 0.99))
    mean = words.duration(histogram.sum_ns / histogram.count)
    ends = f"<span>{words.duration(2**first if first else 0)}</span><span>{words.duration(2 ** (last + 1))}</span>"
    return (
        f'<div class="latency"><b>{escape(label)}</b><div class="bars">{"".join(bars)}</div><div class="axis">{ends}</div>'
        f'<p class="facts">{words.plural(histogram.count, "call")} · mean {mean}<br>{quantiles}</p></div>'
    )


# Audit

AUDIT_WORDS: Final = "Invariants of the unmapped cache, held against what the page tables said at each event."


def audit_section(recorded: Recorded) -> str:
    if recorded.end.cache is None:
        return '<p class="none">This kernel has no unmapped cache to audit.</p>'
    rows = []
    details = []
    for row in recorded.end.audit:
        state = "broken" if row.violated else "kept" if row.checked else "not checked"
        mark = {"broken": "bad", "kept": "good", "not checked": "dim"}[state]
        note = f'<br><small class="facts">{escape(row.note)}</small>' if row.note else ""
        rows.append(
            (
                str(row.number),
                escape(row.title) + note,
                words.number(row.checked),
                words.number(row.violated),
                f'<span class="badge {mark}">{state}</span>',
            )
        )
        details += [
            f"<li><b>{row.number}</b> pfn {v.pfn:,} ({words.plural(v.nr_pages, 'page')}): "
            f"expected {escape(v.expected)}, seen {escape(v.seen)}; "
            f"{escape(v.comm) or 'process'} ({v.tgid}){stack_html(v.stack)}</li>"
            for v in row.first[:5]
        ]
    out = table_html(("", "invariant", "checked", "broken", ""), rows, text_columns=2)
    return out + (f'<h4>First violations</h4><ul class="violations">{"".join(details)}</ul>' if details else "")
