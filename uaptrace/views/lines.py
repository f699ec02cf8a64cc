# SPDX-License-Identifier: Apache-2.0
"""Lines of styled text that know nothing of a terminal: the screen, plain text and ANSI text are made from the same lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

Style = Literal["", "title", "dim", "strong", "good", "warn", "bad", "g1", "m2", "k4", "absent", "cursor"]
"""What a piece of text means. No meaning is in a colour alone: the words and glyphs say it too."""

Span = tuple[str, Style]
Line = tuple[Span, ...]

SGR: Final[dict[Style, str]] = {
    "title": "1",
    "dim": "2",
    "strong": "1",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
    "g1": "34",
    "m2": "36",
    "k4": "33",
    "absent": "31",
    "cursor": "7",
}
"""ANSI attributes of the styles."""


def line(*parts: str | Span) -> Line:
    """A line of its parts; a plain string has no style."""
    return tuple((p, "") if isinstance(p, str) else p for p in parts if (p if isinstance(p, str) else p[0]))


def text_of(a_line: Line) -> str:
    """The line without styles."""
    return "".join(text for text, _ in a_line)


def length(a_line: Line) -> int:
    """Cells that the line takes (all text in lines is one cell a character: words.clean)."""
    return sum(len(text) for text, _ in a_line)


def fit(a_line: Line, width: int) -> Line:
    """The line cut (marked with ``…``) or padded to exactly ``width`` cells."""
    missing = width - length(a_line)
    if missing >= 0:
        return (*a_line, (" " * missing, "")) if missing else a_line
    out: list[Span] = []
    left = width - 1
    for text, style in a_line:
        if left <= 0:
            break
        out.append((text[:left], style))
        left -= len(text)
    return (*out, ("…", "dim")) if width > 0 else ()


def heading(title: str, width: int, note: str = "") -> Line:
    """``── Title ── note ──────`` over the whole width; a note that does not fit is shortened."""
    shown = f"── {title} "
    room = width - len(shown) - 6
    if len(note) > room:
        note = note[: room - 1] + "…" if room > 8 else ""
    tail = f"── {note} " if note else ""
    rest = "─" * max(0, width - len(shown) - len(tail))
    return fit(line((shown[:3], "dim"), (shown[3:], "title"), (tail[:3], "dim"), tail[3:], (rest, "dim")), width)


def beside(columns: Sequence[tuple[Sequence[Line], int]], gap: int = 2) -> list[Line]:
    """Blocks of lines side by side; each comes with its width."""
    height = max((len(block) for block, _ in columns), default=0)
    out: list[Line] = []
    for i in range(height):
        row: list[Span] = []
        for j, (block, width) in enumerate(columns):
            if j:
                row.append((" " * gap, ""))
            row.extend(fit(block[i] if i < len(block) else (), width))
        out.append(tuple(row))
    return out


def wrap(words: Iterable[str], width: int, *, indent: str = " ", separator: str = " · ", style: Style = "") -> list[Line]:
    """Pieces that are not broken themselves, as few lines of ``width`` as they need."""
    out: list[str] = []
    current = indent
    for word in words:
        trial = current + (separator if current != indent else "") + word
        if len(trial) > width and current != indent:
            out.append(current)
            trial = indent + word
        current = trial
    if current.strip():
        out.append(current)
    return [((text, style),) for text in out]


def paragraph(text: str, width: int, *, indent: str = " ", style: Style = "") -> list[Line]:
    """A sentence broken at spaces."""
    return wrap(text.split(), width, indent=indent, separator=" ", style=style)


def plain(lines: Iterable[Line]) -> str:
    """Text without styles, no blanks at line ends, a newline after each line."""
    return "".join(text_of(a_line).rstrip() + "\n" for a_line in lines)


def ansi(lines: Iterable[Line]) -> str:
    """Text with ANSI attributes for a terminal that has colours."""
    out: list[str] = []
    for a_line in lines:
        for text, style in a_line:
            out.append(f"\x1b[{SGR[style]}m{text}\x1b[0m" if style else text)
        out.append("\n")
    return "".join(out)
