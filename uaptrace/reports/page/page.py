# SPDX-License-Identifier: Apache-2.0
"""The report as one page that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final

from markupsafe import Markup

import uaptrace
from uaptrace.abi.units import LEVELS, Level, format_bytes
from uaptrace.model.snapshot import Cause, Snapshot, SplitsView
from uaptrace.reports import map_scene
from uaptrace.reports.page import figures as key
from uaptrace.reports.page.cache import AUDIT_WORDS, CACHE_WORDS, LATENCY_WORDS, audit_section, cache_section, latency_section
from uaptrace.reports.page.flame import difference_graph, flame_graph
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.parts import ABSENT_COLOR, CAUSE_COLORS, Charts, Section, signed_bytes
from uaptrace.reports.page.pictures import Picture, picture
from uaptrace.reports.page.templating import render
from uaptrace.views import map_grid, words

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself holds the page to needing nothing from anywhere."""


def page(recordeds: Sequence[Recorded]) -> str:
    """The page of one recording, or of two to compare."""
    charts = Charts()
    pair = (recordeds[0], recordeds[1]) if len(recordeds) == 2 else None

    def each(id_: str, title: str, said: str, column: Callable[[Recorded], Markup], *, wide: bool = False) -> Section:
        return Section(id_, title, said, [column(recorded) for recorded in recordeds], wide=wide)

    sections = [
        each("map", "The direct map", render("map_said"), _map),
        each("coverage", "Mappings over time", _COVERAGE_WORDS, lambda r: _coverage(r, charts)),
        each("splits", "Splits", _SPLIT_WORDS, lambda r: _splits(r, charts)),
        each("flame", "Who splits: stacks", _FLAME_WORDS, _flame, wide=True),
        *([_flame_difference(*pair)] if pair and any(r.end.split_rows for r in pair) else []),
        each("cache", "The unmapped cache", CACHE_WORDS, lambda r: cache_section(r, charts)),
        each("latency", "How long it takes", LATENCY_WORDS, latency_section),
        each("audit", "Audit", AUDIT_WORDS, audit_section),
        each("loss", "What was lost, and what was watched", "", _loss),
    ]
    names = [r.name for r in recordeds]
    differing = _comparison(*pair) if pair else ""
    return document("uaptrace: " + " and ".join(names), _header(recordeds), sections, names, charts, differing)


def document(
    title: str, header: Markup, sections: Sequence[Section], names: Sequence[str], charts: Charts, differences: Markup | str = ""
) -> str:
    """A page of its own, with styles and script in it. ``names``: of what it was made from."""
    return render(
        "page",
        policy=POLICY,
        title=title,
        styles=_asset("uplot.min.css") + _asset("report.css") + _colors(),
        header=header,
        differences=differences,
        sections=sections,
        names=names,
        version=uaptrace.__version__,
        charts=json.dumps(charts.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        scripts=[_asset("uplot.min.js"), _asset("report.js")],
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


def _header(recordeds: Sequence[Recorded]) -> Markup:
    hosts = [
        {
            "name": recorded.name,
            "facts": _host_facts(recorded),
            "exact": recorded.end.exactness.exact,
            "lost": _lost(recorded.end),
            "reasons": recorded.end.exactness.reasons,
        }
        for recorded in recordeds
    ]
    if len(recordeds) == 2:
        return render("header", hosts=hosts, sentence=key.comparison(recordeds[0], recordeds[1]), tiles=[])
    return render("header", hosts=hosts, sentence=key.sentence(recordeds[0]), tiles=_tiles(recordeds[0]))


def _host_facts(recorded: Recorded) -> list[str]:
    host = recorded.end.host
    facts = [words.host(host), f"Linux {words.clean(host.kernel_release)}" if host.kernel_release else "unknown kernel"]
    facts.append("with unmapped_alloc" if host.has_series else "without unmapped_alloc")
    if host.memory_bytes:
        facts.append(format_bytes(host.memory_bytes))
    began = datetime.fromtimestamp(recorded.end.wall_time_s - recorded.length_s, UTC)
    return [*facts, f"{began:%Y-%m-%d %H:%M:%S} UTC", key.spoken(recorded.length_s)]


def _lost(snapshot: Snapshot) -> str:
    return words.plural(snapshot.loss.total, "event lost", "events lost") if snapshot.loss.total else "nothing lost"


_TILES: Final = ("large_share", "splits_2m", "splits_1g", "regions_stranded", "absent_bytes", "violations")


def _tiles(recorded: Recorded) -> list[dict[str, object]]:
    by_key = {figure.key: figure for figure in key.figures(recorded)}
    return [
        {
            "text": by_key[name].text,
            "label": by_key[name].label,
            "note": f"{by_key['large_share_begin'].text} at the start" if name == "large_share" else "",
            "alarm": name == "violations" and bool(by_key[name].value),
        }
        for name in _TILES
    ]


def _comparison(first: Recorded, second: Recorded) -> Markup:
    names = [r.name for r in (first, second)]
    return render("differences", unlike=_unlike(first, second), names=names, rows=key.differences(first, second))


def _unlike(first: Recorded, second: Recorded) -> list[str]:
    """What makes the two not comparable, said before the figures."""
    said = []
    a, b = first.watched_s, second.watched_s
    if max(a, b) > 1.1 * min(a, b):
        said.append(f"The recordings are not of the same length ({key.spoken(a)} and {key.spoken(b)}): counts are not scaled.")
    memory = first.end.direct_map.total_bytes, second.end.direct_map.total_bytes
    if all(memory) and max(memory) > 1.01 * min(memory):
        said.append(f"The direct maps are not of the same size ({format_bytes(memory[0])} and {format_bytes(memory[1])}).")
    said += [f"{r.name} is not exact." for r in (first, second) if not r.end.exactness.exact]
    return said


# Map


def _map(recorded: Recorded) -> Markup:
    begin, end = picture(recorded.begin.regions), picture(recorded.end.regions)
    if begin is None or end is None:
        return render("map", maps=[])
    maps = [_map_at(begin, "at the start", recorded.begin), _map_at(end, "at the end", recorded.end, "later")]
    film = []
    for time_s, snapshot in recorded.frames:
        frame = picture(snapshot.regions)
        if frame is not None:
            share = words.percent(snapshot.direct_map.large_share)
            film.append({"label": f"{key.spoken(time_s)}: {share} large", "time": key.spoken(time_s), "picture": frame})
    return render("map", maps=maps, film=film, scale=end.scale)


def _map_at(of: Picture, label: str, snapshot: Snapshot, class_: str = "") -> dict[str, object]:
    verdict = map_grid.verdict(map_grid.figures(snapshot.regions)) if snapshot.regions is not None else ""
    share = words.percent(snapshot.direct_map.large_share)
    return {"picture": of, "label": label, "share": share, "verdict": verdict, "class_": class_}


# Coverage

_COVERAGE_WORDS: Final = "Bytes of the direct map by size of the mapping, and what is absent from it."


def _coverage(recorded: Recorded, charts: Charts) -> Markup:
    points = [p for p in recorded.points if p.present_bytes is not None]
    if not points:
        return render("coverage", charts=[])
    series: list[tuple[str, str, list[float | None]]] = [
        ("absent", ABSENT_COLOR, [p.absent_bytes for p in points]),
        ("4K", map_scene.COLORS[Level.K4], [p.present_bytes[Level.K4] for p in points if p.present_bytes]),
        ("2M", map_scene.COLORS[Level.M2], [p.present_bytes[Level.M2] for p in points if p.present_bytes]),
        ("1G", map_scene.COLORS[Level.G1], [p.present_bytes[Level.G1] for p in points if p.present_bytes]),
    ]
    chart = charts.add("The direct map by size of mapping", [p.time_s for p in points], series, "bytes")
    small = charts.add("Only what is not in large mappings", [p.time_s for p in points], series[:2], "bytes")
    keys, rows = _level_rows(recorded)
    exact_at_end = recorded.end.exactness.exact
    return render("coverage", charts=[chart, small], keys=keys, rows=rows, inexact=_inexact(recorded), exact_at_end=exact_at_end)


def _inexact(recorded: Recorded) -> str:
    """When the state was not exact; empty where it always was."""
    runs: list[tuple[float, float]] = []
    for before, point in zip((None, *recorded.points), recorded.points, strict=False):
        if point.exact:
            continue
        if before is not None and not before.exact:
            runs[-1] = (runs[-1][0], point.time_s)
        else:
            runs.append((point.time_s, point.time_s))
    said = ", ".join(f"at {key.spoken(a)}" if a == b else f"from {key.spoken(a)} to {key.spoken(b)}" for a, b in runs[:4])
    more = f" and {len(runs) - 4} more times" if len(runs) > 4 else ""
    return said + more


def _level_rows(recorded: Recorded) -> tuple[list[str], list[tuple[str, str, str, str]]]:
    """Keys of the colours, and size of mapping, start, end, change."""
    begin, end = recorded.begin.direct_map, recorded.end.direct_map
    levels = list(reversed(LEVELS))
    sizes = [(words.LEVEL_WORDS[level], begin.present_bytes.get(level, 0), end.present_bytes.get(level, 0)) for level in levels]
    sizes.append(("absent", begin.absent_bytes, end.absent_bytes))
    rows = [(label, words.size(a), words.size(b), signed_bytes(b - a)) for label, a, b in sizes]
    return [*(f"l-{level.label}" for level in levels), "l-absent"], rows


# Splits

_SPLIT_WORDS: Final = "Each split turns one large mapping into 512 smaller ones, and nothing merges them again by itself."


def _splits(recorded: Recorded, charts: Charts) -> Markup:
    splits = recorded.end.splits
    causes = _causes(splits)
    unexplained = {level: n for level, n in splits.unexplained.items() if n}
    if not causes and not unexplained:
        return render("splits", rows=[], notes=_split_notes(splits))
    series: list[tuple[str, str, Sequence[float | None]]] = [
        (cause.value, CAUSE_COLORS[cause], [float(point.splits_by(cause)) for point in recorded.points]) for cause in causes
    ]
    rows = [
        {"key": f"c-{c.value}", "cause": c.value, "numbers": _numbers(splits.by_cause.get((level, c), 0) for level in _SPLIT_LEVELS)}
        for c in causes
    ]
    if unexplained:
        series.append(("no record", "#444444", [float(p.unexplained) for p in recorded.points]))
        rows.append(
            {
                "key": "",
                "cause": "known to the kernel, no record",
                "numbers": _numbers(unexplained.get(level, 0) for level in _SPLIT_LEVELS),
            }
        )
    return render(
        "splits",
        chart=charts.add("Splits so far, by cause", [p.time_s for p in recorded.points], series, "count"),
        rows=rows,
        totals=_numbers(map(splits.by_level, _SPLIT_LEVELS)),
        processes=_processes(recorded.end),
        notes=_split_notes(splits),
    )


def _causes(splits: SplitsView) -> list[Cause]:
    """Those that split something."""
    return [cause for cause in Cause if any(splits.by_cause.get((level, cause), 0) for level in _SPLIT_LEVELS)]


_SPLIT_LEVELS: Final = (Level.M2, Level.G1)


def _numbers(values: Iterable[int]) -> list[str]:
    return [words.number(value) for value in values]


def _split_notes(splits: SplitsView) -> list[str]:
    attach = " and ".join(f"{words.plural(n, words.LEVEL_WORDS[level] + ' mapping')}" for level, n in splits.during_attach.items() if n)
    notes = [f"Attaching uaptrace itself split {attach}; that is not counted above."] if attach else []
    if splits.other_mappings:
        notes.append(f"{words.plural(splits.other_mappings, 'split')} outside the direct map (vmalloc) are not counted above.")
    if splits.kernel_collapses is not None and any(splits.kernel_collapses.values()):
        made = " and ".join(words.plural(n, f"{words.LEVEL_WORDS[level]} mapping") for level, n in splits.kernel_collapses.items() if n)
        notes.append(f"Since boot the kernel put {made} together again out of smaller ones.")
    return notes


def _processes(snapshot: Snapshot) -> list[tuple[str, ...]]:
    return [
        (p.comm or "?", str(p.tgid), p.cgroup, *(words.number(n) for n in (p.splits, p.refills, p.allocated_pages, p.events)))
        for p in sorted(snapshot.processes, key=lambda p: (-p.splits, -p.events))[:8]
    ]


# Flame graph

_FLAME_WORDS: Final = (
    "Width is the number of splits. From the top: all, cause, then the kernel stack from the outermost function inwards, then the process. "
    "Click a frame to enlarge it, the top one to go back."
)


def _flame(recorded: Recorded) -> Markup:
    incomplete = "The ledger keeps the 256 most frequent groups of splits; rarer ones are not in this graph."
    return render("flame", **flame_graph(recorded.end)._asdict(), complete=recorded.end.ledger_is_complete, incomplete=incomplete)


_DIFFERENCE_WORDS: Final = (
    "Both recordings in one graph: a stack is as wide as it has splits in that of the two that has more. "
    "Green: fewer in B. Red: more in B. Grey: as many in both. The stronger the colour, the larger the part that differs."
)


def _flame_difference(before: Recorded, after: Recorded) -> Section:
    incomplete = "A ledger keeps the 256 most frequent groups of splits; rarer ones are not in this graph."
    complete = all(r.end.ledger_is_complete for r in (before, after))
    graph = render("flame", **difference_graph(before.end, after.end)._asdict(), complete=complete, incomplete=incomplete)
    return Section("flame-difference", "Who splits: what differs", _DIFFERENCE_WORDS, [graph], joint=True)


# Loss


def _loss(recorded: Recorded) -> Markup:
    loss, info, end = recorded.end.loss, recorded.info, recorded.end
    rows = [
        ("events taken in", words.number(loss.events_taken)),
        ("lost, no room in the ring", words.number(loss.events_lost)),
        ("could not be decoded, or sent and missing", words.number(loss.decode_errors)),
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
    hooks = [(h.name, h.symbol or words.UNKNOWN, h.mechanism or h.state, h.reason) for h in end.hooks]
    return render("loss", rows=rows, missing=info.missing, hooks=hooks, nr_hooks=words.plural(len(hooks), "hook"))
