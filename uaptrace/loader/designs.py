# SPDX-License-Identifier: Apache-2.0
"""Which designs that keep pages out of the direct map a kernel has, told by names that only they bring (docs/kernel.md, section 7)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uaptrace.abi.hooks import SERIES_SYMBOL


@dataclass(frozen=True, slots=True)
class Design:
    """``symbol``: a function in kallsyms, or ``figure``: a line of /proc/vmstat."""

    name: str
    symbol: str = ""
    figure: str = ""
    is_watched: bool = False
    """uaptrace has hooks for it. Of the others it sees what they do to the direct map, and not why."""


DESIGNS: Final = (
    Design("unmapped_alloc", symbol=SERIES_SYMBOL, is_watched=True),
    Design("unmapped pages of the page allocator", figure="nr_free_pages_blocks_unmapped"),
    Design("guest_memfd without direct map", symbol="folio_zap_direct_map"),
)


def design_symbols() -> frozenset[str]:
    """Functions to look for in kallsyms."""
    return frozenset(design.symbol for design in DESIGNS if design.symbol)


def designs_in(symbols: Container[str], vmstat: str) -> tuple[Design, ...]:
    """Those that a kernel has. ``vmstat``: the text of /proc/vmstat."""
    figures = {line.split(" ", 1)[0] for line in vmstat.splitlines()}
    return tuple(design for design in DESIGNS if design.symbol in symbols or design.figure in figures)


def designs_of(symbols: Container[str], root: Path = Path("/")) -> tuple[Design, ...]:
    """Those that this kernel has; ``symbols`` of design_symbols() that are in kallsyms."""
    try:
        return designs_in(symbols, (root / "proc/vmstat").read_text())
    except OSError:
        return designs_in(symbols, "")
