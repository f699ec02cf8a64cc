# SPDX-License-Identifier: Apache-2.0
"""Panels: one subject of a Snapshot each, as lines of a given width. The overview and the text reports are made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from uaptrace.abi.units import NR_ORDERS, Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import (
    Histogram,
    InvariantRow,
    Loss,
    ProcessRow,
    Snapshot,
    UnmappedCacheView,
    Violation,
)
from uaptrace.views import words
from uaptrace.views.charts import bar, sparkline
from uaptrace.views.lines import Line, Style, fit, heading, line, paragraph, text_of, wrap
from uaptrace.views.rates import Rates, Sample, totals

NOT_IN_KERNEL = "not in this kernel"
LEVEL_STYLES: dict[Level, Style] = {Level.NONE: "dim", Level.K4: "k4", Level.M2: "m2", Level.G1: "g1"}


def exactness_words(snapshot: Snapshot) -> str:
    """``EXACT``, or ``INEXACT: reason (and 2 more)``."""
    if snapshot.exactness.exact:
        return "EXACT"
    reasons = snapshot.exactness.reasons
    if not reasons:
        return "INEXACT: no reason was given"
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"INEXACT: {reasons[0]}{more}"


def direct_map_panel(snapshot: Snapshot, width: int) -> list[Line]:
    """Bytes by size of mapping, what is absent, and how scattered it is. Six lines, seven where narrow."""
    view = snapshot.direct_map
    total = view.total_bytes
    out = [
        heading(
            "Direct map",
            width,
            f"{words.size(total)} · {words.percent(view.large_share)} in 2M and 1G mappings" if total else "not read yet",
        )
    ]
    rows: list[tuple[str, int | None, Style]] = [
        (words.LEVEL_WORDS[level], view.present_bytes.get(level), LEVEL_STYLES[level]) for level in (Level.G1, Level.M2, Level.K4)
    ]
    rows.append(("absent", view.absent_bytes, "absent"))
    for name, size_bytes, style in rows:
        known = size_bytes if total else None
        share = known / total if known is not None and total else None
        out.append(
            line(f" {name:<7}{words.size(known):>9} {words.percent(share):>6}  ", (bar(share, max(0, width - 27)), style)),
        )
    each = view.absent_pages_per_touched_region
    if total:
        facts = [
            f"2M regions: {words.compact(view.nr_regions_split)} in 4K,",
            f"{words.compact(view.nr_regions_touched)} touched" + (f" ({each:.1f} absent each)," if each is not None else ","),
            f"{words.compact(view.nr_regions_stranded)} stranded,",
            f"intact {words.size(view.largest_intact_bytes)}",
        ]
        out.extend(wrap(facts, width, separator=" "))
    return out


def cache_panel(snapshot: Snapshot, width: int, *, full: bool = False, facts: bool = True) -> list[Line]:
    """The unmapped cache by order. ``full`` adds the freed row, ``facts`` the line below the table."""
    cache = snapshot.cache
    if cache is None:
        return [
            heading("Unmapped cache", width, NOT_IN_KERNEL),
            *paragraph("This kernel has no unmapped_pages_alloc(); everything about the direct map is shown.", width, style="dim"),
        ]
    note = (
        f"{words.plural(sum(cache.free), 'free block')} = {words.plural(cache.free_pages, 'page')} · {cache.handed_out_pages:,} handed out"
    )
    label = 11 if width >= 66 else 10
    column = min(8, max(4, (width - label - 1) // NR_ORDERS))
    rows: list[tuple[str, Sequence[int]]] = [
        ("free", cache.free),
        ("refilled", cache.cached),
        ("released", cache.released),
        ("handed out", cache.allocated),
    ]
    if full:
        rows.append(("freed", cache.freed))
    out = [heading("Unmapped cache", width, note)]
    out.append(line((f" {'order':<{label}}" + "".join(f"{order:>{column}}" for order in range(NR_ORDERS)), "dim")))
    for name, values in rows:
        spans: list[tuple[str, Style]] = [(f" {name:<{label}}", "")]
        for value in values:
            spans.append(
                (f"{words.compact(value, column - 1):>{column}}", "strong" if value and name == "free" else "" if value else "dim")
            )
        out.append(tuple(spans))
    if facts:
        out.extend(wrap(cache_facts(cache, snapshot), width))
    return out


def cache_facts(cache: UnmappedCacheView, snapshot: Snapshot) -> list[str]:
    """How well the cache does, and whether it agrees with the kernel's own rows."""
    taken = cache.hits + cache.refills
    facts = [
        f"{cache.requests:,} requests",
        f"hits {words.percent(cache.hits / taken)}" if taken else f"hits {words.UNKNOWN}",
        words.plural(cache.refill_fallbacks, "refill") + " below 2M",
        f"{cache.failures:,} failed",
    ]
    if snapshot.reconcile_error_blocks is not None:
        error = snapshot.reconcile_error_blocks
        facts.append("debugfs agrees" if error == 0 else f"debugfs differs by {words.plural(error, 'block')}")
    return facts


_Activity = tuple[str, str, str | None, bool]
ACTIVITY: tuple[_Activity, ...] = (
    ("allocations", "allocations", None, True),
    ("  hits", "hits", "cache_hit", True),
    ("  refills", "refills", "cache_refill", True),
    ("frees", "frees", "cache_free", True),
    ("releases", "releases", None, True),
    ("shrinker runs", "shrinker_runs", "shrink", True),
    ("set invalid", "set_invalid", "set_invalid", False),
    ("set default", "set_default", "set_default", False),
    ("attr changes", "cpa", "cpa", False),
    ("2M splits", "splits_2m", None, False),
    ("1G splits", "splits_1g", None, False),
)
"""Rows of activity: label, name in Rates, name of the latency histogram, and whether it is of the series."""


def activity_panel(snapshot: Snapshot, rates: Rates | None, width: int) -> list[Line]:
    """Rates per second, totals and latencies; two blocks side by side between 76 and 99 columns, where height is scarce."""
    over = f"over {rates.interval_s:.1f} s" if rates else "rates need two snapshots"
    out = [heading("Activity", width, f"{over} · p50, p99 since start")]
    rows = [r for r in ACTIVITY if snapshot.cache is not None or not r[3]]
    by_name = rates.as_dict() if rates else {}
    counts = totals(snapshot)
    if 76 <= width < 100 and snapshot.cache is not None:
        return [*out, *_activity_in_two(snapshot, by_name, rows, (width - 2) // 2)]
    name_width = 14
    wide = width >= 56
    out.append(line((f" {'':<{name_width}}{'/s':>8}" + (f"{'total':>13}" if wide else "") + f"{'p50 ≤':>9}{'p99 ≤':>9}", "dim")))
    for label, name, latency, _ in rows:
        histogram = snapshot.latency.get(latency) if latency else None
        p50, p99 = quantiles(histogram)
        total = f"{words.number(counts[name]):>13}" if wide else ""
        latency_words = f"{p50:>9}{p99:>9}" if latency else ""
        out.append(line(f" {label:<{name_width}}{words.per_second(by_name.get(name)):>8}{total}{latency_words}"))
    return out


def _activity_in_two(snapshot: Snapshot, by_name: dict[str, float | None], rows: Sequence[_Activity], column: int) -> list[Line]:
    """Two blocks side by side, each of that width."""
    nr_lines = 6
    head = f" {'':<13}{'/s':>7}{'p50 ≤':>8}{'p99 ≤':>8}"
    out = [line((f"{head:<{column}}  {head[:column]}", "dim"))]
    for pair in itertools.zip_longest(rows[:nr_lines], rows[nr_lines:]):
        out.append(line("  ".join(f"{_activity_short(snapshot, by_name, row) if row else '':<{column}}" for row in pair)))
    return out


def _activity_short(snapshot: Snapshot, by_name: dict[str, float | None], row: _Activity) -> str:
    label, name, latency, _ = row
    p50, p99 = quantiles(snapshot.latency.get(latency) if latency else None)
    latency_words = f"{p50:>8}{p99:>8}" if latency else ""
    return f" {label:<13}{words.per_second(by_name.get(name)):>7}{latency_words}"


def quantiles(histogram: Histogram | None) -> tuple[str, str]:
    """Median and 99th percentile in words."""
    if histogram is None:
        return words.UNKNOWN, words.UNKNOWN
    return words.duration(histogram.quantile_ns(0.5)), words.duration(histogram.quantile_ns(0.99))


def processes_panel(snapshot: Snapshot, width: int, rows: int = 8, *, keys: bool = True) -> list[Line]:
    """The busiest processes."""
    out = [heading("Who did it", width, "most events first" + (" · 2 for all" if keys else ""))]
    name_width = 16
    cgroup_width = max(0, width - name_width - 8 - 9 - 8 - 8 - 3)
    out.append(
        line(
            (f" {'pid':>7} {'process':<{name_width}}{'events':>9}{'splits':>8}{'pages':>8}  {'cgroup' if cgroup_width > 8 else ''}", "dim")
        )
    )
    if not snapshot.processes:
        out.append(line((" nobody yet", "dim")))
    out.extend(_process_line(row, name_width, cgroup_width) for row in snapshot.processes[:rows])
    return out


def _process_line(row: ProcessRow, name_width: int, cgroup_width: int) -> Line:
    comm = words.shorten(row.comm or words.UNKNOWN, name_width - 1)
    figures = f"{words.compact(row.events, 8):>9}{words.compact(row.splits, 7):>8}{words.compact(row.allocated_pages, 7):>8}"
    cgroup = words.shorten_path(row.cgroup or words.UNKNOWN, cgroup_width) if cgroup_width > 8 else ""
    return line(f" {row.tgid:>7} {comm:<{name_width}}{figures}  ", (cgroup, "dim"))


def history_panel(samples: Sequence[Sample], width: int) -> list[Line]:
    """Sparklines of large-mapping share, absence, splits and calls. The newest is at the right."""
    if len(samples) < 2:
        return [heading("History", width, "begins with the second snapshot")]
    chart_width = max(8, width - 32)
    shown = samples[-chart_width:]
    span = (shown[-1].time_ns - shown[0].time_ns) / 1e9
    out = [heading("History", width, f"{words.clock(span)} up to now")]
    shares = [s.large_share for s in shown]
    known = [s for s in shares if s is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    # A share that hardly moves would be a flat line on a scale from 0: the scale is that of what is shown, and its ends are named.
    out.append(
        line(
            f" {'large share':<17}",
            (sparkline(shares, chart_width, low - 1e-9, high), "m2"),
            f"  {words.percent(low)}–{words.percent(high)[:6]}",
        )
    )
    absent = [float(s.absent_bytes) for s in shown]
    out.append(line(f" {'absent':<17}", (sparkline(absent, chart_width), "absent"), f"  max {words.size(int(max(absent)))}"))
    for name, values, style in _rates_over_time(shown):
        peak = max((v for v in values if v is not None), default=None)
        out.append(line(f" {name:<17}", (sparkline(values, chart_width), style), f"  max {words.per_second(peak)}"))
    return out


def _rates_over_time(shown: Sequence[Sample]) -> list[tuple[str, list[float | None], Style]]:
    def values(rate: Callable[[Rates], float | None]) -> list[float | None]:
        return [rate(sample.rates) if sample.rates else None for sample in shown]

    series: list[tuple[str, list[float | None], Style]] = [
        ("splits /s", values(lambda rates: rates.splits), "k4"),
        ("set_direct_map /s", values(lambda rates: rates.set_direct_map), "g1"),
    ]
    allocations = values(lambda rates: rates.allocations)
    if any(value is not None for value in allocations):
        series.append(("allocations /s", allocations, "good"))
    return series


def audit_summary(audit: Sequence[InvariantRow]) -> tuple[str, Style]:
    """One phrase on all invariants: nothing checked is not the same as nothing broken."""
    if not audit:
        return "audit: off", "dim"
    broken = [row for row in audit if row.violated]
    checked = [row for row in audit if row.checked]
    if broken:
        names = ", ".join(str(row.number) for row in broken)
        return f"audit: BROKEN {names} ({sum(r.violated for r in broken):,} times)", "bad"
    if not checked:
        return f"audit: none of {len(audit)} invariants checked yet", "dim"
    unchecked = len(audit) - len(checked)
    return f"audit: {len(checked)} invariants hold" + (f", {unchecked} not checked" if unchecked else ""), "good"


def audit_panel(snapshot: Snapshot, width: int, *, keys: bool = True) -> list[Line]:
    """Each invariant in a line: state in words, how often it was checked and broken. The broken ones are first."""
    if not snapshot.audit:
        return [heading("Audit", width, "off")]
    summary, _ = audit_summary(snapshot.audit)
    out = [heading("Audit", width, f"{summary.removeprefix('audit: ')}{' · a for detail' if keys else ''}")]
    title_width = max(12, width - 4 - 9 - 8 - 14)
    out.append(line((f" {'':>3} {'':<{title_width}}{'checked':>9}{'broken':>8}", "dim")))
    out.extend(invariant_line(row, title_width) for row in sorted(snapshot.audit, key=lambda r: not r.violated))
    return out


def invariant_line(row: InvariantRow, title_width: int) -> Line:
    """``2 title   checked  broken  BROKEN``."""
    state: tuple[str, Style] = ("BROKEN", "bad") if row.violated else ("holds", "good") if row.checked else ("not checked", "dim")
    title = words.shorten(row.title, title_width - 1)
    counts = f"{words.compact(row.checked, 8):>9}{words.compact(row.violated, 7):>8}  "
    return line(f" {row.number:>3} {title:<{title_width}}", counts, state)


def audit_detail(snapshot: Snapshot, width: int) -> list[Line]:
    """Every invariant with its note and the first pages that broke it."""
    out = audit_panel(snapshot, width, keys=False)
    if snapshot.audit:
        del out[-len(snapshot.audit) :]
    title_width = max(12, width - 4 - 9 - 8 - 14)
    for row in snapshot.audit:
        out.append(invariant_line(row, title_width))
        if len(row.title) >= title_width:
            whole = paragraph(row.title, title_width + 4, indent="     ")
            cut = text_of(whole[0])
            out[-1] = line(f" {row.number:>3} {cut[5:]:<{title_width}}", *out[-1][1:])
            out.extend(whole[1:])
        if row.note:
            out.extend(paragraph(row.note, width, indent="     ", style="dim"))
        for violation in row.first:
            out.extend(violation_lines(violation, snapshot.start_time_ns, width))
    if not snapshot.audit:
        out.extend(paragraph("No invariants are checked in this session.", width))
    return out


def violation_lines(violation: Violation, start_time_ns: int, width: int) -> list[Line]:
    """A page that broke an invariant: where, expected, seen, who, and the stack."""
    at = (violation.time_ns - start_time_ns) / 1e9
    where = f"pfn {violation.pfn} ({words.address(violation.pfn)}), {words.plural(violation.nr_pages, 'page')}, 2M block {violation.block}"
    who = f"at +{at:.3f} s by {words.clean(violation.comm) or words.UNKNOWN} [{violation.tgid}]"
    out = wrap([where, who], width, indent="     ", style="bad")
    out += paragraph(f"expected: {words.clean(violation.expected)}", width, indent="       ")
    out += paragraph(f"seen: {words.clean(violation.seen)}", width, indent="       ")
    out += [line((f"         {words.shorten(frame, max(10, width - 9))}", "dim")) for frame in violation.stack]
    return out


def health_panel(snapshot: Snapshot, width: int) -> list[Line]:
    """Whether the figures can be believed: events, losses, re-reads, hooks, what cannot be seen."""
    loss = snapshot.loss
    out = [heading("Trust", width, "exact" if snapshot.exactness.exact else "INEXACT")]
    for reason in snapshot.exactness.reasons:
        out.extend(paragraph(f"! {reason}", width, style="warn"))
    if not snapshot.exactness.exact and snapshot.exactness.last_exact_time_ns is not None:
        ago = (snapshot.time_ns - snapshot.exactness.last_exact_time_ns) / 1e9
        out.append(line(f" last exact {words.clock(ago)} ago"))
    out.extend(wrap([f"{loss.events_taken:,} events taken", f"{loss.total:,} lost"], width, style="warn" if loss.total else ""))
    if loss.total:
        out.extend(wrap(_losses(loss), width, indent="   ", style="warn"))
    if loss.missed_runs is None:
        out.extend(wrap(["how often the kernel left a program out is unknown"], width))
    if silences := sum(snapshot.silence.found.values()):
        pages = words.plural(snapshot.silence.unseen_pages, "page")
        out.extend(
            wrap([f"hooks were silent {words.plural(silences, 'time')}", f"{pages} changed unseen, read since"], width, style="warn")
        )
    facts = [f"{words.plural(snapshot.exactness.nr_rereads, 're-read')} of the page tables"]
    if snapshot.reconcile_error_bytes is not None:
        error = snapshot.reconcile_error_bytes
        facts.append("meminfo agrees" if error == 0 else f"meminfo differs by {words.size(error)}")
    out.extend(wrap(facts, width))
    if snapshot.hooks:
        out.extend(_hook_lines(snapshot.hooks, width))
    if snapshot.host.kfence:
        out.extend(paragraph("KFENCE is on: its page flips cannot be seen.", width, style="dim"))
    return out


def _losses(loss: Loss) -> list[str]:
    """Each kind of loss that there was."""
    beside = {"decode errors": loss.decode_errors, "missed runs": loss.missed_runs, "contexts lost": loss.contexts_lost}
    return [f"{number:,} {kind}" for kind, number in (*loss.lost_by_kind.items(), *beside.items()) if number]


def _hook_lines(hooks: Sequence[HookStatus], width: int) -> list[Line]:
    """How many hooks are attached of those that this kernel needs, each fault with its reason, and then what is not needed, in one line."""
    needed = [hook for hook in hooks if hook.state != "not needed"]
    attached = sum(hook.state == "attached" for hook in needed)
    out = wrap([f"{attached} of {words.plural(len(needed), 'hook')} attached"], width)
    for hook in needed:
        if hook.state != "attached":
            text = f"{hook.state} {words.clean(hook.name)}: {words.clean(hook.reason) or 'no reason given'}"
            out.extend(paragraph(text, width, indent="   ", style="warn"))
    spare = [words.clean(hook.name) for hook in hooks if hook.state == "not needed"]
    if spare:
        out.extend(paragraph(f"not needed on this kernel: {', '.join(spare)}", width, indent="   ", style="dim"))
    return out


def status_line(snapshot: Snapshot, width: int, *, keys: bool = True) -> Line:
    """Events and audit in one line, for screens with no room for their panels."""
    loss = snapshot.loss
    audit, style = audit_summary(snapshot.audit)
    lost: tuple[str, Style] = (f"{loss.total:,} LOST", "bad") if loss.total else ("0 lost", "")
    return fit(
        line(
            ("──", "dim"),
            f" {words.compact(loss.events_taken, 10)} events, ",
            lost,
            " ",
            ("──", "dim"),
            " ",
            (audit, style),
            (" (a) " if keys else " ", "dim"),
        ),
        width,
    )
