# SPDX-License-Identifier: Apache-2.0
"""Bars and sparklines of block characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

EIGHTHS_UP: Final = "▁▂▃▄▅▆▇█"
EIGHTHS_RIGHT: Final = "▏▎▍▌▋▊▉█"
NO_SAMPLE: Final = " "


def bar(share: float | None, width: int) -> str:
    """A bar of ``width`` cells: what is not nothing has at least an eighth of a cell, what is not all lacks at least one."""
    if share is None or width <= 0:
        return " " * max(0, width)
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if share > 0:
        eighths = max(1, eighths)
    if share < 1:
        eighths = min(width * 8 - 1, eighths)
    full, part = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS_RIGHT[part - 1] if part else "")).ljust(width, "·")


def sparkline(values: Sequence[float | None], width: int, low: float | None = None, high: float | None = None) -> str:
    """The last ``width`` values, newest at the right; a value that is not known is a gap.

    The scale goes from ``low`` to ``high`` where they are given, else from 0 to the largest value shown.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [v for v in shown if v is not None]
    bottom = low if low is not None else 0.0
    top = high if high is not None else max(known, default=0.0)
    out = []
    for value in shown:
        if value is None:
            out.append(NO_SAMPLE)
        elif top <= bottom:
            out.append(EIGHTHS_UP[0])
        else:
            out.append(EIGHTHS_UP[max(0, min(7, int((value - bottom) / (top - bottom) * 7.999)))])
    return "".join(out).rjust(width)
