# SPDX-License-Identifier: Apache-2.0
"""What ``uaptrace whatif`` shows: a table for a mail, a chart, JSON. All three are views of the same outcomes."""

from __future__ import annotations

import io
import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import UsageError
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level, format_bytes
from uaptrace.model.tlb import TlbPart, reach_bytes
from uaptrace.policies.engine_layout import Count, Design
from uaptrace.policies.physical_memory import Memory
from uaptrace.policies.requests import Requests
from uaptrace.policies.simulation import Outcome
from uaptrace.process.files import write_whole

TITLES: Final = {
    Design.NONE: "none",
    Design.MIGRATE_UNMAPPED: "MIGRATE_UNMAPPED",
    Design.GROUPED_VMALLOC: "grouped vmalloc",
    Design.PKS_TABLES: "PKS tables",
    Design.SECRETMEM_POOL: "secretmem pool",
    Design.UNMAPPED_ALLOC_PUBLISHED: "unmapped_alloc, published",
    Design.UNMAPPED_ALLOC: "unmapped_alloc, intended",
    Design.UNMAPPED_ALLOC_WHOLE: "unmapped_alloc, whole 2M",
    Design.FREETYPE: "FREETYPE_UNMAPPED",
}
"""Names for people; ``Design.label`` is the one for programs."""

_COLORS: Final = {
    Design.NONE: "#222222",
    Design.MIGRATE_UNMAPPED: "#b8860b",
    Design.GROUPED_VMALLOC: "#56a3d9",
    Design.PKS_TABLES: "#009e73",
    Design.SECRETMEM_POOL: "#cc79a7",
    Design.UNMAPPED_ALLOC_PUBLISHED: "#d55e00",
    Design.UNMAPPED_ALLOC: "#0057b8",
    Design.UNMAPPED_ALLOC_WHOLE: "#7b3fa0",
    Design.FREETYPE: "#8a5a2b",
}
_DASHES: Final = {
    Design.UNMAPPED_ALLOC_PUBLISHED: (0, (4, 2)),
    Design.UNMAPPED_ALLOC_WHOLE: (0, (2, 1)),
    Design.PKS_TABLES: (0, (1, 1)),
    Design.GROUPED_VMALLOC: (0, (6, 2, 1, 2)),
    Design.FREETYPE: (0, (4, 1, 1, 1)),
}
_SETTINGS: Final[Any] = {
    "svg.hashsalt": "uaptrace",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
CHART_SUFFIXES: Final = (".svg", ".png")
_REGION_BYTES: Final = PAGES_PER_2M * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A question and its answers."""

    requests: Requests
    memory: Memory
    seed: int
    outcomes: tuple[Outcome, ...]
    map_source: str = "fresh"
    """``fresh``: every whole 1G by one entry; ``recorded``: the direct map of the recording's first reading."""
    nr_cpus: int = 0
    """Of the host; 0: not known."""
    tlb: tuple[TlbPart, ...] = ()
    """Of one CPU of the host; empty: not known."""

    @property
    def heading(self) -> str:
        memory = f"{format_bytes(self.memory.size_bytes)} of memory, {format_bytes(self.memory.free_bytes)} free"
        return f"{len(self.requests):,} requests ({self.requests.source}); {memory}, fragmentation {self.memory.fragmentation:.2f}"


def as_json(answer: WhatIf) -> dict[str, Any]:
    """Plain data for json.dumps; docs/whatif.md describes the fields."""
    return {
        "schema_version": 1,
        "requests": {
            "source": answer.requests.source,
            "count": len(answer.requests),
            "skipped_records": answer.requests.skipped,
            "recorded_places": answer.requests.recorded_places,
        },
        "memory": {
            "size_bytes": answer.memory.size_bytes,
            "free_bytes": answer.memory.free_bytes,
            "fragmentation": answer.memory.fragmentation,
            "map": answer.map_source,
        },
        "seed": answer.seed,
        "nr_cpus": answer.nr_cpus or None,
        "policies": [
            {**_policy(outcome), "shootdown_ipis": _shootdown_ipis(answer, outcome), "tlb_reach_bytes": _reach(answer, outcome)}
            for outcome in answer.outcomes
        ],
    }


def _shootdown_ipis(answer: WhatIf, outcome: Outcome) -> int | None:
    """Interrupts of other CPUs: each flush of kernel addresses is one for every CPU but its own (on_each_cpu() in arch/x86/mm/tlb.c)."""
    return outcome.counts[Count.TLB_FLUSHES] * (answer.nr_cpus - 1) if answer.nr_cpus else None


def _reach(answer: WhatIf, outcome: Outcome) -> int | None:
    """The most bytes of what is present at the end that one CPU's TLB can hold at once."""
    return reach_bytes(answer.tlb, outcome.nr_present)


def _policy(outcome: Outcome) -> dict[str, Any]:
    c, s = outcome.counts, outcome.series
    return {
        "name": outcome.design.label,
        "title": TITLES[outcome.design],
        "splits": {level.label: outcome.splits[level] for level in (Level.M2, Level.G1)},
        "bytes_kept": {level.label: outcome.kept_bytes[level] for level in (Level.K4, Level.M2, Level.G1)},
        "large_bytes_least": outcome.least_large_bytes,
        "regions_touched": c[Count.TOUCHED],
        "regions_touched_now": c[Count.TOUCHED_NOW],
        "stranded_regions": c[Count.STRANDED_NOW],
        "nr_entries": outcome.nr_entries,
        "page_table_bytes": outcome.page_table_bytes,
        "changed_pages_now": c[Count.CHANGED_PAGES_NOW],
        "cache_pages_now": c[Count.CACHE_PAGES_NOW],
        "cache_pages_peak": c[Count.CACHE_PAGES_PEAK],
        "direct_map_operations": c[Count.OPERATIONS],
        "pages_changed": c[Count.PAGES_CHANGED],
        "tlb_flushes": c[Count.TLB_FLUSHES],
        "allocations": c[Count.REQUESTS],
        "hits": c[Count.HITS],
        "failed": c[Count.FAILED],
        "refills": list(outcome.rows.cached),
        "refill_fallbacks": c[Count.REFILL_FALLBACKS],
        "releases": list(outcome.rows.released),
        "cache_free_blocks": list(outcome.rows.free),
        "shrink_asked_pages": c[Count.SHRINK_ASKED],
        "shrink_released_pages": c[Count.SHRINK_RELEASED],
        "exposed_pages": c[Count.EXPOSED_PAGES],
        "captured_pages": c[Count.CAPTURED_PAGES],
        "migrated_pages": c[Count.MIGRATED_PAGES],
        "requests_outside": c[Count.OUTSIDE],
        "series": {
            "requests": s["requests"].tolist(),
            "time_ns": s["time_ns"].tolist(),
            "splits": {"2m": s["split_2m"].tolist(), "1g": s["split_1g"].tolist()},
            "bytes_kept": {label: (s[f"regions_{label}_now"] * _REGION_BYTES).tolist() for label in ("4k", "2m", "1g")},
            "regions_touched_now": s["touched_now"].tolist(),
            "stranded_regions": s["stranded_now"].tolist(),
            "cache_pages": s["cache_pages_now"].tolist(),
            "held_pages": s["held_pages_now"].tolist(),
        },
    }


def as_table(answer: WhatIf) -> str:
    """Three tables of at most 80 columns, and the notes that their figures need."""
    total = answer.memory.size_bytes
    lines = _wrapped(f"What if: {answer.heading}")
    lines += [
        "",
        "                               splits      in 2M and 1G mappings      2M regions",
        "design                      1G       2M         left   share  touched  stranded",
    ]
    for o in answer.outcomes:
        lines.append(
            f"{TITLES[o.design]:<25}{o.splits[Level.G1]:>5}{o.splits[Level.M2]:>9}{format_bytes(o.large_bytes):>13}"
            f"{o.large_bytes / total:>8.1%}{o.counts[Count.TOUCHED]:>9}{o.counts[Count.STRANDED_NOW]:>10}"
        )
    lines += [
        "",
        "                            kept free  direct-map         TLB   exposed      not",
        "design                        at peak       calls     flushes     pages   served",
    ]
    for o in answer.outcomes:
        c = o.counts
        lines.append(
            f"{TITLES[o.design]:<25}{format_bytes(o.cache_bytes_peak):>12}{c[Count.OPERATIONS]:>12}{c[Count.TLB_FLUSHES]:>12}"
            f"{c[Count.EXPOSED_PAGES]:>10}{c[Count.FAILED]:>9}"
        )
    lines += _costs(answer)
    notes = _notes(answer)
    if notes:
        lines.append("")
        for note in notes:
            lines += _wrapped(note)
    return "\n".join(lines) + "\n"


def _costs(answer: WhatIf) -> list[str]:
    """What the map that is left takes, and what is known of the host: how much a TLB holds of it, what the flushes interrupted."""
    cpus = f"{answer.nr_cpus} CPUs" if answer.nr_cpus > 1 else "1 CPU"
    columns = [
        (["TLB entries", "for the map", *(f"{o.nr_entries:,}" for o in answer.outcomes)], 14),
        (["tables of", "4K entries", *(format_bytes(o.page_table_bytes) for o in answer.outcomes)], 13),
    ]
    if answer.tlb:
        columns.append((["one CPU's", "TLB holds", *(format_bytes(_reach(answer, o) or 0) for o in answer.outcomes)], 11))
    if answer.nr_cpus:
        columns.append((["IPIs of flushes,", cpus, *(f"{_shootdown_ipis(answer, o):,}" for o in answer.outcomes)], 17))
    lines = [f"{name:<25}" for name in ("", "design", *(TITLES[o.design] for o in answer.outcomes))]
    for texts, width in columns:
        lines = [line + f"{text:>{width}}" for line, text in zip(lines, texts, strict=True)]
    return ["", *lines]


def _notes(answer: WhatIf) -> list[str]:
    """What one must know to read the figures that are there, and nothing else."""
    notes = []
    by_design = {o.design: o.counts for o in answer.outcomes}
    if any(c[Count.EXPOSED_PAGES] for c in by_design.values()):
        notes.append("exposed: handed out while still in the direct map, to requests that need them absent.")
    published = by_design.get(Design.UNMAPPED_ALLOC_PUBLISHED)
    if published:
        notes.append(
            "unmapped_alloc, published: as in a kernel with LOCKDEP; "
            "without it the request's flag is lost, and nothing is grouped or unmapped."
        )
    if published and published[Count.CAPTURED_PAGES]:
        notes.append(
            f"unmapped_alloc as published took {published[Count.CAPTURED_PAGES]} ordinary pages into its cache when they were freed."
        )
    if any(c[Count.FAILED] for c in by_design.values()):
        notes.append("not served: allocations that failed because memory was short; a design that serves fewer requests splits less.")
    if Design.UNMAPPED_ALLOC_WHOLE in by_design:
        notes.append("unmapped_alloc, whole 2M: chunks of 2M change by one call. An absent 2M entry counts as 2M.")
    if Design.FREETYPE in by_design:
        notes.append(
            "FREETYPE_UNMAPPED: pageblocks change by one call. An absent 2M entry counts as 2M. "
            "What it keeps free only the kernel's own memory can get back."
        )
    pool = by_design.get(Design.SECRETMEM_POOL)
    if pool:
        migrated = f"; {pool[Count.MIGRATED_PAGES]} pages had to be migrated for it" if pool[Count.MIGRATED_PAGES] else ""
        notes.append(
            "secretmem pool: whole 2M pages for each owner out of a quarter of memory that is reserved"
            f"{migrated}. An absent 2M entry counts as 2M."
        )
    if answer.requests.recorded_places and Design.NONE in by_design:
        notes.append("none: the pages are those that the traced kernel used; the other designs' come from the model.")
    if answer.requests.skipped:
        notes.append(
            f"{answer.requests.skipped} records are not requests that can be replayed: "
            "frees of what was allocated before the recording began, and changes that were not read."
        )
    return notes


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent="  ", break_on_hyphens=False)


def write_chart(answer: WhatIf, path: Path) -> None:
    """An SVG or PNG file, by the ending of its name; it appears whole or not at all.

    UsageError for another ending, where the file cannot be written, and without matplotlib.
    """
    suffix = path.suffix.lower()
    if suffix not in CHART_SUFFIXES:
        raise UsageError(f"{path}: a chart is an .svg or .png file; give it such a name")
    # It tells of its cache of fonts, and that HOME cannot be written: neither is of use here.
    logging.getLogger("matplotlib").addHandler(logging.NullHandler())
    try:
        import matplotlib
    except ImportError:
        raise UsageError("a chart needs matplotlib; install it: pip install matplotlib") from None
    out = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        # No date and a fixed salt: the same answer is the same file.
        metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
        _figure(answer).savefig(out, format=suffix[1:], dpi=150, metadata=metadata)
    write_whole(path, out.getvalue())


def _figure(answer: WhatIf) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    figure.suptitle(f"What would each design have kept?\n{answer.heading}", x=0.008, ha="left", fontsize=10.5)
    grid = figure.add_gridspec(2, 4, height_ratios=(1.5, 1))
    _draw_kept(figure.add_subplot(grid[0, :]), answer)
    bars: tuple[tuple[str, list[float]], ...] = (
        ("2M splits", [o.splits[Level.M2] for o in answer.outcomes]),
        ("direct-map calls", [o.counts[Count.OPERATIONS] for o in answer.outcomes]),
        ("TLB flushes", [o.counts[Count.TLB_FLUSHES] for o in answer.outcomes]),
        ("kept free at peak, MiB", [o.cache_bytes_peak / (1 << 20) for o in answer.outcomes]),
    )
    for column, (title, values) in enumerate(bars):
        _draw_bars(figure.add_subplot(grid[1, column]), answer.outcomes, title, values, names=column == 0)
    return figure


def _draw_kept(axes: Any, answer: WhatIf) -> None:
    axes.set_title("Memory in 2M and 1G mappings, GiB (the axis does not begin at 0)")
    lasts: list[tuple[float, Design]] = []
    for outcome in answer.outcomes:
        s = outcome.series
        curve = (s["regions_2m_now"] + s["regions_1g_now"]) * _REGION_BYTES / (1 << 30)
        style = _DASHES.get(outcome.design, "solid")
        axes.plot(s["requests"], curve, color=_COLORS[outcome.design], linestyle=style, linewidth=1.8, drawstyle="steps-post")
        lasts.append((float(curve[-1]), outcome.design))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + (high - low) * 0.02)
    axes.set_xlim(0, max(1, len(answer.requests)))
    axes.set_xlabel("requests")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    low, high = axes.get_ylim()
    axes.autoscale(False)
    # Names at the ends of the lines, pushed apart so that none covers another.
    gap = (high - low) * 0.062
    place = high
    positions: list[tuple[float, float, Design]] = []
    for kept, design in sorted(lasts, key=lambda item: (-item[0], item[1])):
        place = min(place, kept)
        positions.append((place, kept, design))
        place -= gap
    bottom = low
    for i in range(len(positions) - 1, -1, -1):
        place, kept, design = positions[i]
        positions[i] = (max(place, bottom), kept, design)
        bottom = positions[i][0] + gap
    for place, kept, design in positions:
        color = _COLORS[design]
        # Both ends in the coordinates of the axes: the line's end, and the height of the name.
        ends = [(kept - low) / (high - low), (place - low) / (high - low)]
        axes.plot([1.003, 1.016], ends, color=color, linewidth=0.7, transform=axes.transAxes, clip_on=False)
        axes.text(1.02, ends[1], f"{TITLES[design]}  {kept:.2f}", color=color, va="center", fontsize=8.5, transform=axes.transAxes)


def _draw_bars(axes: Any, outcomes: Sequence[Outcome], title: str, values: Sequence[float], *, names: bool) -> None:
    axes.set_title(title)
    rows = list(range(len(outcomes)))
    axes.barh(rows, values, color=[_COLORS[o.design] for o in outcomes], height=0.66)
    axes.invert_yaxis()
    axes.set_yticks(rows, [TITLES[o.design] for o in outcomes] if names else [""] * len(rows))
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    top = max([*values, 1])
    axes.set_xlim(0, top * 1.38)
    for row, value in zip(rows, values, strict=True):
        axes.text(
            value + top * 0.03, row, f"{value:,.0f}" if value == int(value) or value >= 10 else f"{value:.1f}", va="center", fontsize=8.5
        )
