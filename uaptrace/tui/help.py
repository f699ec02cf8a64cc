# SPDX-License-Identifier: Apache-2.0
"""What the help key shows."""

from __future__ import annotations

from uaptrace.views.lines import Line, heading, line, paragraph

KEYS = (
    ("1 2 3 4", "overview, who did it, splits, map"),
    ("a", "audit: the invariants and the pages that break them"),
    ("space", "pause and go on"),
    ("s", "sort by the next column (2, 3)"),
    ("/", "filter by words; Esc clears it (2, 3)"),
    ("Enter", "the whole stack of a split (3)"),
    ("arrows", "move and scroll; z x zoom, n next absence (4)"),
    ("q", "quit;  h or ? this help"),
)
REPLAY_KEYS = (
    ("← →", "one snapshot back or on (, and . move in the map)"),
    ("+ -", "faster, slower"),
    ("g", "jump to 90, 1:30, 50%, +10, -10, start, end"),
)
WORDS = (
    ("absent", "pages without a present entry in the direct map"),
    ("touched", "2M regions with at least one absent page"),
    ("stranded", "2M regions whose pages are all back, but that stay in 4K"),
    ("set invalid", "set_direct_map calls that take pages out (default: back)"),
    ("attr changes", "calls of __change_page_attr_set_clr, the way of all changes"),
    ("unexplained", "splits that the kernel counts and no hook saw"),
    ("EXACT", "nothing lost, and equal to the kernel's own figures"),
    ("–", "not known (never a zero)"),
)


def help_lines(width: int, *, replay: bool) -> list[Line]:
    """Keys, and the words that the views use."""
    out = [heading("Keys", width)]
    for key, what in KEYS + (REPLAY_KEYS if replay else ()):
        out.append(line(" ", (f"{key:<13}", "strong"), what))
    out.append(heading("Words", width))
    for word, meaning in WORDS:
        block = paragraph(meaning, width - 14, indent="")
        for i, (a_line) in enumerate(block):
            out.append(line(" ", (f"{word if i == 0 else '':<13}", "strong"), *a_line))
    return out
