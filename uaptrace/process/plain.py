# SPDX-License-Identifier: Apache-2.0
"""Text from outside on its way to a terminal or a log: one line, nothing that a terminal obeys.

Names of processes, symbols, modules, cgroups and files, the heads of recordings, what a kernel or a daemon says: whoever made them
chose their bytes. ``plain`` is the one way by which they reach a terminal, a log or an error.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "?"
"""Stands for a character that is not shown as itself."""

_BYTES: Final = re.compile("[\udc80-\udcff]")


def plain(text: str) -> str:
    """``text`` with its printable characters only, so that it stays on its line and moves nothing.

    Control characters (C0, C1, DEL), line and paragraph separators, format characters (text direction, zero width), unassigned ones and
    half surrogates become ``?``, a byte that was no UTF-8 where the text was decoded (os.fsdecode) becomes ``\\xff``.
    """
    if text.isprintable():
        return text
    shown = _BYTES.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return "".join(c if c.isprintable() else REPLACEMENT for c in shown)
