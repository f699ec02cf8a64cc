# SPDX-License-Identifier: Apache-2.0
"""The report as one page that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any, Final

import uaptrace
from uaptrace.abi.units import LEVELS, NR_ORDERS, PAGE_SIZE, Level, format_bytes
from uaptrace.model.snapshot import Cause, Histogram, Snapshot
from uaptrace.reports import map_scene
from uaptrace.reports.documents import ledger_is_complete
from uaptrace.reports.page import figures as key
from uaptrace.reports.page.flame import difference_html, flame_html
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.pictures import Picture, picture
from uaptrace.views import words

CAUSE_COLORS: Final = {
    Cause.UNMAPPED_ALLOC: "#0072b2",
    Cause.SECRETMEM: "#d55e00",
    Cause.MODULE: "#009e73",
    Cause.BPF: "#cc79a7",
    Cause.FTRACE: "#e69f00",
    Cause.KPROBE: "#56b4e9",
    Cause.EXECMEM: "#b5bd00",
    Cause.KEXEC: "#332288",
    Cause.CONFIDENTIAL: "#44aa99",
    Cause.MEMORY_FAILURE: "#882255",
    Cause.HIBERNATION: "#ddcc77",
    Cause.DRIVER: "#8c6bb1",
    Cause.SELF: "#999999",
    Cause.OTHER: "#7a5c3e",
}
"""Told apart by people who do not see all colours (Okabe and Ito's set, and more of Tol's)."""
ABSENT_COLOR: Final = "#c8452b"
LATENCIES: Final = {
    "cache_hit": "allocation, no refill",
    "cache_refill": "allocation with a refill",
    "cache_free": "free into the cache",
    "shrink": "shrinker scan",
    "set_invalid": "set_direct_map_invalid",
    "set_default": "set_direct_map_default",
    "cpa": "attribute change",
}
POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself holds the page to needing nothing from anywhere."""


class _Charts:
    """Charts that the script draws: data by number."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def add(self, label: str, times: Sequence[float], series: Iterable[tuple[str, str, Sequence[float | None]]], unit: str) -> str:
        """The element of a stacked chart. ``series``: label, colour, values (None: not known). Charts with the same label share
        their axes, so that two recordings can be compared by eye."""
        kept = [{"label": name, "color": color, "values": [_short(v) for v in values]} for name, color, values in series]
        self.data.append({"label": label, "unit": unit, "times": [round(t, 6) for t in times], "series": kept})
        return (
            f'<h4>{escape(label)}</h4><div class="chart" data-chart="{len(self.data) - 1}" role="img" aria-label="{escape(label)}"></div>'
        )


def _short(value: float | None) -> float | None:
    return value if value is None or value == int(value) else round(value, 3)


def page(recordeds: Sequence[Recorded]) -> str:
    """The page of one recording, or of two to compare."""
    charts = _Charts()
    title = "uaptrace: " + " and ".join(r.name for r in recordeds)
    body = [_header(recordeds)]
    if len(recordeds) == 2:
        body.append(_comparison(recordeds[0], recordeds[1]))
    body += [
        _section("map", "The direct map", _MAP_WORDS, [_map(r) for r in recordeds], recordeds),
        _section("coverage", "Mappings over time", _COVERAGE_WORDS, [_coverage(r, charts) for r in recordeds], recordeds),
        _section("splits", "Splits", _SPLIT_WORDS, [_splits(r, charts) for r in recordeds], recordeds),
        _section("flame", "Who splits: stacks", _FLAME_WORDS, [_flame(r) for r in recordeds], recordeds, wide=True),
        *([_flame_difference(*recordeds)] if len(recordeds) == 2 else []),
        _section("cache", "The unmapped cache", _CACHE_WORDS, [_cache(r, charts) for r in recordeds], recordeds),
        _section("latency", "How long it takes", _LATENCY_WORDS, [_latency(r) for r in recordeds], recordeds),
        _section("audit", "Audit", _AUDIT_WORDS, [_audit(r) for r in recordeds], recordeds),
        _section("loss", "What was lost, and what was watched", "", [_loss(r) for r in recordeds], recordeds),
    ]
    data = json.dumps(charts.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_asset('uplot.min.css')}{_asset('report.css')}{_colors()}</style></head>\n<body>"
        + "\n".join(body)
        + f"<footer>Made by uaptrace {escape(uaptrace.__version__)} from {escape(', '.join(r.name for r in recordeds))}. "
        "Charts are drawn by uPlot (MIT licence, © Leon Sorokin).</footer>"
        f'<script type="application/json" id="charts">{data}</script>\n<script>{_asset("uplot.min.js")}</script>\n'
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return files("uaptrace.reports.page").joinpath("assets", name).read_text(encoding="utf-8")


def _colors() -> str:
    causes = "".join(f".c-{cause.value}{{--c:{color}}}" for cause, color in CAUSE_COLORS.items())
    levels = "".join(f".l-{level.label}{{--c:{map_scene.COLORS[level]}}}" for level in LEVELS)
    steps = len(map_scene.PALETTE) - 4
    ramp = ",".join(map_scene.PALETTE[4 : 4 + steps])
    return causes + levels + f".l-absent{{--c:{ABSENT_COLOR}}}.ramp{{background:linear-gradient(90deg,{ramp})}}"


def _section(id_: str, title: str, said: str, columns: Sequence[str], recordeds: Sequence[Recorded], *, wide: bool = False) -> str:
    intro = f'<p class="said">{said}</p>' if said else ""
    if len(columns) == 1:
        return f'<section id="{id_}"><h2>{escape(title)}</h2>{intro}{columns[0]}</section>'
    named = "".join(
        f"<div><h3>{_letter(i)} {escape(r.name)}</h3>{c}</div>" for i, (r, c) in enumerate(zip(recordeds, columns, strict=True))
    )
    return f'<section id="{id_}"><h2>{escape(title)}</h2>{intro}<div class="pair{" stacked" if wide else ""}">{named}</div></section>'


def _letter(number: int) -> str:
    return f'<span class="letter">{"AB"[number]}</span>'


# Head


def _header(recordeds: Sequence[Recorded]) -> str:
    out = ["<header><h1>The kernel's direct map, recorded</h1>"]
    for i, recorded in enumerate(recordeds):
        host = recorded.end.host
        facts = [words.host(host), f"Linux {words.clean(host.kernel_release)}" if host.kernel_release else "unknown kernel"]
        facts.append("with unmapped_alloc" if host.has_series else "without unmapped_alloc")
        if host.memory_bytes:
            facts.append(format_bytes(host.memory_bytes))
        began = datetime.fromtimestamp(recorded.end.wall_time_s - recorded.length_s, UTC)
        facts += [f"{began:%Y-%m-%d %H:%M:%S} UTC", key.spoken(recorded.length_s)]
        letter = _letter(i) if len(recordeds) > 1 else ""
        out.append(
            f'<div class="host">{letter}<strong>{escape(recorded.name)}</strong> '
            f'<span class="facts">{escape(" · ".join(facts))}</span> {_badge(recorded.end)}</div>'
        )
        out += [f'<p class="reason">{escape(reason)}</p>' for reason in recorded.end.exactness.reasons]
    if len(recordeds) == 2:
        out.append(f'<p class="sentence">{escape(key.comparison(recordeds[0], recordeds[1]))}</p>')
    else:
        out.append(f'<p class="sentence">{escape(key.sentence(recordeds[0]))}</p>')
        out.append(_tiles(recordeds[0]))
    out.append("</header>")
    return "".join(out)


def _badge(snapshot: Snapshot) -> str:
    lost = words.plural(snapshot.loss.total, "event lost", "events lost") if snapshot.loss.total else "nothing lost"
    if snapshot.exactness.exact:
        return f'<span class="badge good">exact</span> <span class="facts">{escape(lost)}</span>'
    return f'<span class="badge bad">not exact</span> <span class="facts">{escape(lost)}</span>'


_TILES: Final = ("large_share", "splits_2m", "splits_1g", "regions_stranded", "absent_bytes", "violations")


def _tiles(recorded: Recorded) -> str:
    by_key = {figure.key: figure for figure in key.figures(recorded)}
    tiles = []
    for name in _TILES:
        figure = by_key[name]
        note = f"{by_key['large_share_begin'].text} at the start" if name == "large_share" else ""
        alarm = " alarm" if name == "violations" and figure.value else ""
        tiles.append(
            f'<div class="tile{alarm}"><b>{escape(figure.text)}</b><span>{escape(figure.label)}</span><small>{escape(note)}</small></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _comparison(first: Recorded, second: Recorded) -> str:
    rows = []
    for difference in key.differences(first, second):
        mark = {"better": "better", "worse": "worse", "": ""}[difference.verdict]
        rows.append(
            f'<tr class="{mark}"><th scope="row">{escape(difference.first.label)}</th><td>{escape(difference.first.text)}</td>'
            f"<td>{escape(difference.second.text)}</td><td>{escape(difference.text)}</td><td>{mark}</td></tr>"
        )
    names = "".join(f'<th scope="col">{_letter(i)} {escape(r.name)}</th>' for i, r in enumerate((first, second)))
    return (
        f'<section id="differences"><h2>Differences</h2>{_unlike(first, second)}<div class="scroll"><table class="wide">'
        f'<thead><tr><th></th>{names}<th scope="col">change</th><th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _unlike(first: Recorded, second: Recorded) -> str:
    """What makes the two not comparable, said before the figures."""
    said = []
    a, b = first.watched_s, second.watched_s
    if max(a, b) > 1.1 * min(a, b):
        said.append(f"The recordings are not of the same length ({key.spoken(a)} and {key.spoken(b)}): counts are not scaled.")
    memory = first.end.direct_map.total_bytes, second.end.direct_map.total_bytes
    if all(memory) and max(memory) > 1.01 * min(memory):
        said.append(f"The direct maps are not of the same size ({format_bytes(memory[0])} and {format_bytes(memory[1])}).")
    said += [f"{r.name} is not exact." for r in (first, second) if not r.end.exactness.exact]
    return "".join(f'<p class="reason">{escape(sentence)}</p>' for sentence in said)


# Map

_MAP_WORDS: Final = (
    'Physical memory from top left to bottom right. <span class="key l-1g"></span>1G mappings <span class="key l-2m"></span>2M '
    '<span class="key l-4k"></span>4K <span class="key ramp"></span>few to all pages absent. Pick a frame of the film to see it large.'
)


def _map(recorded: Recorded) -> str:
    begin, end = picture(recorded.begin.regions), picture(recorded.end.regions)
    if begin is None or end is None:
        return '<p class="none">The page tables were not read in this recording: there is no map to show.</p>'
    film = []
    for time_s, snapshot in recorded.frames:
        frame = picture(snapshot.regions)
        if frame is None:
            continue
        share = words.percent(snapshot.direct_map.large_share)
        label = f"{key.spoken(time_s)}: {share} large"
        film.append(
            f'<button type="button" class="frame" data-label="{escape(label)}" data-rows="{_rows(frame)}" aria-label="{escape(label)}">'
            f"{_img(frame, label)}<span>{escape(key.spoken(time_s))}</span></button>"
        )
    return (
        f'<div class="maps">{_figure(begin, "at the start", recorded.begin)}{_figure(end, "at the end", recorded.end, "later")}</div>'
        f'<div class="film">{"".join(film)}</div><p class="facts">{escape(end.scale)}</p>'
    )


def _rows(of: Picture) -> str:
    return ",".join(str(pfn) for pfn in of.row_pfns)


def _img(of: Picture, label: str) -> str:
    size = f'width="{of.width}" height="{of.height}" style="aspect-ratio:{of.width}/{of.height}"'
    return f'<img src="{of.uri}" {size} alt="map, {escape(label)}">'


def _figure(of: Picture, label: str, snapshot: Snapshot, class_: str = "") -> str:
    from uaptrace.views import map_grid

    verdict = map_grid.verdict(map_grid.figures(snapshot.regions)) if snapshot.regions is not None else ""
    return (
        f'<figure class="map {class_}" data-rows="{_rows(of)}" data-cell="{of.pages_per_cell}"><figcaption><b>{escape(label)}</b>, '
        f"{words.percent(snapshot.direct_map.large_share)} in 2M and 1G mappings<br><span>{escape(verdict)}</span></figcaption>"
        f'{_img(of, label)}<output class="facts">&nbsp;</output></figure>'
    )


# Coverage

_COVERAGE_WORDS: Final = "Bytes of the direct map by size of the mapping, and what is absent from it."


def _coverage(recorded: Recorded, charts: _Charts) -> str:
    points = [p for p in recorded.points if p.present_bytes is not None]
    if not points:
        return '<p class="none">Not known: the page tables were not read.</p>'
    series: list[tuple[str, str, list[float | None]]] = [
        ("absent", ABSENT_COLOR, [p.absent_bytes for p in points]),
        ("4K", map_scene.COLORS[Level.K4], [p.present_bytes[Level.K4] for p in points if p.present_bytes]),
        ("2M", map_scene.COLORS[Level.M2], [p.present_bytes[Level.M2] for p in points if p.present_bytes]),
        ("1G", map_scene.COLORS[Level.G1], [p.present_bytes[Level.G1] for p in points if p.present_bytes]),
    ]
    chart = charts.add("The direct map by size of mapping", [p.time_s for p in points], series, "bytes")
    small = charts.add("Only what is not in large mappings", [p.time_s for p in points], series[:2], "bytes")
    return chart + small + _level_table(recorded) + _inexact(recorded)


def _inexact(recorded: Recorded) -> str:
    """When the state was not exact."""
    runs: list[tuple[float, float]] = []
    for before, point in zip((None, *recorded.points), recorded.points, strict=False):
        if point.exact:
            continue
        if before is not None and not before.exact:
            runs[-1] = (runs[-1][0], point.time_s)
        else:
            runs.append((point.time_s, point.time_s))
    if not runs:
        return '<p class="facts">The state was exact at every moment shown.</p>'
    said = ", ".join(f"at {key.spoken(a)}" if a == b else f"from {key.spoken(a)} to {key.spoken(b)}" for a, b in runs[:4])
    more = f" and {len(runs) - 4} more times" if len(runs) > 4 else ""
    return f'<p class="{"facts" if recorded.end.exactness.exact else "reason"}">The state was not exact {said}{more}.</p>'


def _level_table(recorded: Recorded) -> str:
    begin, end = recorded.begin.direct_map, recorded.end.direct_map
    rows = []
    for level in reversed(LEVELS):
        a, b = begin.present_bytes.get(level, 0), end.present_bytes.get(level, 0)
        rows.append((f'<span class="key l-{level.label}"></span>{words.LEVEL_WORDS[level]}', words.size(a), words.size(b), _signed(b - a)))
    a, b = begin.absent_bytes, end.absent_bytes
    rows.append(('<span class="key l-absent"></span>absent', words.size(a), words.size(b), _signed(b - a)))
    return _table(("", "start", "end", "change"), rows)


def _signed(size_bytes: int) -> str:
    return "0" if size_bytes == 0 else ("+" if size_bytes > 0 else "−") + format_bytes(abs(size_bytes))


# Splits

_SPLIT_WORDS: Final = "Each split turns one large mapping into 512 smaller ones, and nothing merges them again by itself."


def _splits(recorded: Recorded, charts: _Charts) -> str:
    splits = recorded.end.splits
    causes = [c for c in Cause if any(splits.by_cause.get((level, c), 0) for level in (Level.M2, Level.G1))]
    unexplained = {level: n for level, n in splits.unexplained.items() if n}
    out = []
    if not causes and not unexplained:
        out.append('<p class="none">No large mapping was split.</p>')
    else:
        series = [
            (c.value, CAUSE_COLORS[c], [float(sum(n for (_, d), n in p.splits.items() if d == c)) for p in recorded.points]) for c in causes
        ]
        if unexplained:
            series.append(("no record", "#444444", [float(p.unexplained) for p in recorded.points]))
        chart_series: list[tuple[str, str, Sequence[float | None]]] = [(a, b, c) for a, b, c in series]
        out.append(charts.add("Splits so far, by cause", [p.time_s for p in recorded.points], chart_series, "count"))
        rows = [
            (
                f'<span class="key c-{c.value}"></span>{escape(c.value)}',
                *(words.number(splits.by_cause.get((level, c), 0)) for level in (Level.M2, Level.G1)),
            )
            for c in causes
        ]
        if unexplained:
            rows.append(("known to the kernel, no record", *(words.number(unexplained.get(level, 0)) for level in (Level.M2, Level.G1))))
        rows.append(("<b>all</b>", *(f"<b>{words.number(splits.by_level(level))}</b>" for level in (Level.M2, Level.G1))))
        out.append(_table(("cause", "2M", "1G"), rows))
        out.append(_processes(recorded.end))
    attach = " and ".join(f"{words.plural(n, words.LEVEL_WORDS[level] + ' mapping')}" for level, n in splits.during_attach.items() if n)
    notes = [f"Attaching uaptrace itself split {attach}; that is not counted above."] if attach else []
    if splits.other_mappings:
        notes.append(f"{words.plural(splits.other_mappings, 'split')} outside the direct map (vmalloc) are not counted above.")
    return "".join(out) + "".join(f'<p class="facts">{escape(note)}</p>' for note in notes)


def _processes(snapshot: Snapshot) -> str:
    rows = [
        (
            escape(p.comm) or "?",
            str(p.tgid),
            escape(p.cgroup),
            *(words.number(n) for n in (p.splits, p.refills, p.allocated_pages, p.events)),
        )
        for p in sorted(snapshot.processes, key=lambda p: (-p.splits, -p.events))[:8]
    ]
    return _table(("process", "pid", "cgroup", "splits", "refills", "pages allocated", "events"), rows, text_columns=3) if rows else ""


# Flame graph

_FLAME_WORDS: Final = (
    "Width is the number of splits. From the top: all, cause, then the kernel stack from the outermost function inwards, then the process. "
    "Click a frame to enlarge it, the top one to go back."
)


def _flame(recorded: Recorded) -> str:
    graph = flame_html(recorded.end)
    if not graph:
        return '<p class="none">No split was recorded, so there is no stack to show.</p>'
    if not ledger_is_complete(recorded.end):
        graph += '<p class="reason">The ledger keeps the 256 most frequent groups of splits; rarer ones are not in this graph.</p>'
    return graph


_DIFFERENCE_WORDS: Final = (
    "Both recordings in one graph: a stack is as wide as it has splits in that of the two that has more. "
    "Green: fewer in B. Red: more in B. Grey: as many in both. The stronger the colour, the larger the part that differs."
)


def _flame_difference(before: Recorded, after: Recorded) -> str:
    graph = difference_html(before.end, after.end)
    if not graph:
        return ""
    if not all(ledger_is_complete(r.end) for r in (before, after)):
        graph += '<p class="reason">A ledger keeps the 256 most frequent groups of splits; rarer ones are not in this graph.</p>'
    return (
        '<section id="flame-difference"><h2>Who splits: what differs</h2>'
        f'<p class="said">{_DIFFERENCE_WORDS}</p><div class="pair stacked">{graph}</div></section>'
    )


# Cache

_CACHE_WORDS: Final = "Pages that the cache holds free, by order of the block, and pages that it has handed out."


def _cache(recorded: Recorded, charts: _Charts) -> str:
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
        _table(("order", "free now", "cached", "released", "allocated", "freed"), rows) if rows else '<p class="none">It was not used.</p>'
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

_LATENCY_WORDS: Final = "Counted in the kernel for every call, in powers of two. Quantiles are upper bounds of their bar."


def _latency(recorded: Recorded) -> str:
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

_AUDIT_WORDS: Final = "Invariants of the unmapped cache, held against what the page tables said at each event."


def _audit(recorded: Recorded) -> str:
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
            f"{escape(v.comm) or 'process'} ({v.tgid}){_stack(v.stack)}</li>"
            for v in row.first[:5]
        ]
    out = _table(("", "invariant", "checked", "broken", ""), rows, text_columns=2)
    return out + (f'<h4>First violations</h4><ul class="violations">{"".join(details)}</ul>' if details else "")


def _stack(stack: Sequence[str]) -> str:
    return f"<br><code>{escape(' ← '.join(stack[:8]))}</code>" if stack else ""


# Loss


def _loss(recorded: Recorded) -> str:
    loss, info, end = recorded.end.loss, recorded.info, recorded.end
    rows = [
        ("events taken in", words.number(loss.events_taken)),
        ("lost, no room in the ring", words.number(loss.events_lost)),
        ("not understood, or sent and missing", words.number(loss.decode_errors)),
        ("runs of a program that the kernel left out", words.UNKNOWN if loss.missed_runs is None else words.number(loss.missed_runs)),
        ("calls that could not be followed", words.number(loss.contexts_lost)),
        ("page tables read again", words.number(end.exactness.nr_rereads)),
        (
            "size of the recording",
            f"{format_bytes(info.size_bytes)}" + (f", {info.bytes_per_event:.1f} bytes an event" if info.bytes_per_event else ""),
        ),
    ]
    if end.reconcile_error_bytes is not None:
        rows.append(("differs from /proc/meminfo's changes by", format_bytes(end.reconcile_error_bytes)))
    out = _table(("", ""), [(escape(a), escape(b)) for a, b in rows])
    missing = "".join(f"<li>{escape(sentence)}</li>" for sentence in info.missing)
    out += (
        f"<h4>Missing from the recording</h4><ul>{missing}</ul>"
        if missing
        else '<p class="facts">Nothing is missing from the recording.</p>'
    )
    hooks = [(escape(h.name), escape(h.symbol or words.UNKNOWN), escape(h.mechanism or h.state), escape(h.reason)) for h in end.hooks]
    if hooks:
        table = _table(("hook", "function", "by", "why not"), hooks, text_columns=4)
        out += f"<details><summary>{words.plural(len(hooks), 'hook')}</summary>{table}</details>"
    return out


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """``rows`` are HTML already; the first ``text_columns`` columns are text, the others figures."""
    top = "".join(f'<th scope="col" class="{"t" if i < text_columns else "n"}">{h}</th>' for i, h in enumerate(head)) if any(head) else ""
    lines = "".join(
        "<tr>" + "".join(f'<td class="{"t" if i < text_columns else "n"}">{cell}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{f"<thead><tr>{top}</tr></thead>" if top else ""}<tbody>{lines}</tbody></table></div>'
