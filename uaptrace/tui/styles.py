# SPDX-License-Identifier: Apache-2.0
"""Styled lines as text for the terminal library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from uaptrace.views.lines import Line, Style

RICH: Final[dict[Style, str]] = {
    "": "",
    "title": "bold",
    "dim": "dim",
    "strong": "bold",
    "good": "green",
    "warn": "yellow",
    "bad": "bold red",
    "g1": "#5f87ff",
    "m2": "#5fd7d7",
    "k4": "#ffaf00",
    "absent": "#ff5f5f",
    "cursor": "reverse",
}


def to_text(lines: Iterable[Line]) -> Text:
    """Lines as one text that is never wrapped."""
    out = Text(no_wrap=True, overflow="crop", end="")
    for i, a_line in enumerate(lines):
        if i:
            out.append("\n")
        for text, style in a_line:
            out.append(text, RICH[style] or None)
    return out
