# SPDX-License-Identifier: Apache-2.0
"""What several sections of the page share: colours, the charts that the script draws, and how a section is put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from markupsafe import Markup

from uaptrace.abi.units import format_bytes
from uaptrace.model.snapshot import Cause
from uaptrace.reports.page.templating import render

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


@dataclass(frozen=True, slots=True)
class Section:
    """``columns``: HTML, one for each recording; ``joint``: one for both. ``wide``: one below the other, not side by side."""

    id: str
    title: str
    said: str
    columns: Sequence[Markup]
    wide: bool = False
    joint: bool = False


class Charts:
    """Charts that the script draws: data by number."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def add(
        self,
        label: str,
        times: Sequence[float],
        series: Iterable[tuple[str, str, Sequence[float | None]]],
        unit: Literal["bytes", "count", "share"],
        *,
        days: bool = False,
    ) -> Markup:
        """The element of a stacked chart. ``series``: label, colour, values (None: not known). ``times``: seconds since the start; with
        ``days`` midnights since the epoch, and each value is of the day that begins then. Charts with the same label share their axes,
        so that two recordings can be compared by eye."""
        kept = [{"label": name, "color": color, "values": [_short(v) for v in values]} for name, color, values in series]
        self.data.append({"label": label, "unit": unit, "days": days, "times": [round(t, 6) for t in times], "series": kept})
        return render("chart", label=label, number=len(self.data) - 1)


def _short(value: float | None) -> float | None:
    return value if value is None or value == int(value) else round(value, 6)


def signed_bytes(size_bytes: int) -> str:
    """A change in bytes, with its sign."""
    return "0" if size_bytes == 0 else ("+" if size_bytes > 0 else "−") + format_bytes(abs(size_bytes))
