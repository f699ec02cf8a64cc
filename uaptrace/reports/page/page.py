# SPDX-License-Identifier: Apache-2.0
"""The report as one page that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Final

import uaptrace
from uaptrace.abi.units import LEVELS, Level, format_bytes
from uaptrace.model.snapshot import Cause, Snapshot
from uaptrace.reports import map_scene
from uaptrace.reports.documents import ledger_is_complete
from uaptrace.reports.page import figures as key
from uaptrace.reports.page.cache import AUDIT_WORDS, CACHE_WORDS, LATENCY_WORDS, audit_section, cache_section, latency_section
from uaptrace.reports.page.flame import difference_html, flame_html
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.parts import (
    ABSENT_COLOR,
    CAUSE_COLORS,
    Charts,
    figure_html,
    img_html,
    letter_of,
    rows_of,
    section_html,
    signed_bytes,
    table_html,
)
from uaptrace.reports.page.pictures import picture
from uaptrace.views import words

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself holds the page to needing nothing from anywhere."""


def page(recordeds: Sequence[Recorded]) -> str:
    """The page of one recording, or of two to compare."""
    charts = Charts()
    title = "uaptrace: " + " and ".join(r.name for r in recordeds)
    body = [_header(recordeds)]
    if len(recordeds) == 2:
        body.append(_comparison(recordeds[0], recordeds[1]))
    body += [
        section_html("map", "The direct map", _MAP_WORDS, [_map(r) for r in recordeds], recordeds),
        section_html("coverage", "Mappings over time", _COVERAGE_WORDS, [_coverage(r, charts) for r in recordeds], recordeds),
        section_html("splits", "Splits", _SPLIT_WORDS, [_splits(r, charts) for r in recordeds], recordeds),
        section_html("flame", "Who splits: stacks", _FLAME_WORDS, [_flame(r) for r in recordeds], recordeds, wide=True),
        *([_flame_difference(*recordeds)] if len(recordeds) == 2 else []),
        section_html("cache", "The unmapped cache", CACHE_WORDS, [cache_section(r, charts) for r in recordeds], recordeds),
        section_html("latency", "How long it takes", LATENCY_WORDS, [latency_section(r) for r in recordeds], recordeds),
        section_html("audit", "Audit", AUDIT_WORDS, [audit_section(r) for r in recordeds], recordeds),
        section_html("loss", "What was lost, and what was watched", "", [_loss(r) for r in recordeds], recordeds),
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
        letter = letter_of(i) if len(recordeds) > 1 else ""
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
    names = "".join(f'<th scope="col">{letter_of(i)} {escape(r.name)}</th>' for i, r in enumerate((first, second)))
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
            f'<button type="button" class="frame" data-label="{escape(label)}" data-rows="{rows_of(frame)}" aria-label="{escape(label)}">'
            f"{img_html(frame, label)}<span>{escape(key.spoken(time_s))}</span></button>"
        )
    return (
        f'<div class="maps">{figure_html(begin, "at the start", recorded.begin)}'
        f"{figure_html(end, 'at the end', recorded.end, 'later')}</div>"
        f'<div class="film">{"".join(film)}</div><p class="facts">{escape(end.scale)}</p>'
    )


# Coverage

_COVERAGE_WORDS: Final = "Bytes of the direct map by size of the mapping, and what is absent from it."


def _coverage(recorded: Recorded, charts: Charts) -> str:
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
        rows.append(
            (f'<span class="key l-{level.label}"></span>{words.LEVEL_WORDS[level]}', words.size(a), words.size(b), signed_bytes(b - a))
        )
    a, b = begin.absent_bytes, end.absent_bytes
    rows.append(('<span class="key l-absent"></span>absent', words.size(a), words.size(b), signed_bytes(b - a)))
    return table_html(("", "start", "end", "change"), rows)


# Splits

_SPLIT_WORDS: Final = "Each split turns one large mapping into 512 smaller ones, and nothing merges them again by itself."


def _splits(recorded: Recorded, charts: Charts) -> str:
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
        out.append(table_html(("cause", "2M", "1G"), rows))
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
    return table_html(("process", "pid", "cgroup", "splits", "refills", "pages allocated", "events"), rows, text_columns=3) if rows else ""


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
    out = table_html(("", ""), [(escape(a), escape(b)) for a, b in rows])
    missing = "".join(f"<li>{escape(sentence)}</li>" for sentence in info.missing)
    out += (
        f"<h4>Missing from the recording</h4><ul>{missing}</ul>"
        if missing
        else '<p class="facts">Nothing is missing from the recording.</p>'
    )
    hooks = [(escape(h.name), escape(h.symbol or words.UNKNOWN), escape(h.mechanism or h.state), escape(h.reason)) for h in end.hooks]
    if hooks:
        table = table_html(("hook", "function", "by", "why not"), hooks, text_columns=4)
        out += f"<details><summary>{words.plural(len(hooks), 'hook')}</summary>{table}</details>"
    return out
