# SPDX-License-Identifier: Apache-2.0
"""What several sections of the page are made of: charts, tables, pictures, stacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from uaptrace.abi.units import format_bytes
from uaptrace.model.snapshot import Cause, Snapshot
from uaptrace.reports.page.gather import Recorded
from uaptrace.reports.page.pictures import Picture
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


class Charts:
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


def section_html(id_: str, title: str, said: str, columns: Sequence[str], recordeds: Sequence[Recorded], *, wide: bool = False) -> str:
    intro = f'<p class="said">{said}</p>' if said else ""
    if len(columns) == 1:
        return f'<section id="{id_}"><h2>{escape(title)}</h2>{intro}{columns[0]}</section>'
    named = "".join(
        f"<div><h3>{letter_of(i)} {escape(r.name)}</h3>{c}</div>" for i, (r, c) in enumerate(zip(recordeds, columns, strict=True))
    )
    return f'<section id="{id_}"><h2>{escape(title)}</h2>{intro}<div class="pair{" stacked" if wide else ""}">{named}</div></section>'


def letter_of(number: int) -> str:
    return f'<span class="letter">{"AB"[number]}</span>'


def rows_of(of: Picture) -> str:
    return ",".join(str(pfn) for pfn in of.row_pfns)


def img_html(of: Picture, label: str) -> str:
    size = f'width="{of.width}" height="{of.height}" style="aspect-ratio:{of.width}/{of.height}"'
    return f'<img src="{of.uri}" {size} alt="map, {escape(label)}">'


def figure_html(of: Picture, label: str, snapshot: Snapshot, class_: str = "") -> str:
    from uaptrace.views import map_grid

    verdict = map_grid.verdict(map_grid.figures(snapshot.regions)) if snapshot.regions is not None else ""
    return (
        f'<figure class="map {class_}" data-rows="{rows_of(of)}" data-cell="{of.pages_per_cell}"><figcaption><b>{escape(label)}</b>, '
        f"{words.percent(snapshot.direct_map.large_share)} in 2M and 1G mappings<br><span>{escape(verdict)}</span></figcaption>"
        f'{img_html(of, label)}<output class="facts">&nbsp;</output></figure>'
    )


def signed_bytes(size_bytes: int) -> str:
    return "0" if size_bytes == 0 else ("+" if size_bytes > 0 else "−") + format_bytes(abs(size_bytes))


def stack_html(stack: Sequence[str]) -> str:
    return f"<br><code>{escape(' ← '.join(stack[:8]))}</code>" if stack else ""


def table_html(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """``rows`` are HTML already; the first ``text_columns`` columns are text, the others figures."""
    top = "".join(f'<th scope="col" class="{"t" if i < text_columns else "n"}">{h}</th>' for i, h in enumerate(head)) if any(head) else ""
    lines = "".join(
        "<tr>" + "".join(f'<td class="{"t" if i < text_columns else "n"}">{cell}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{f"<thead><tr>{top}</tr></thead>" if top else ""}<tbody>{lines}</tbody></table></div>'
