# SPDX-License-Identifier: Apache-2.0
"""What the messages of a kernel that died say about why."""

from __future__ import annotations

import re
from typing import Final

_TIME: Final = r"^\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? "
_FIRST: Final = re.compile(
    _TIME + r"((?:BUG: |kernel BUG at |Oops: |general protection fault|stack segment: |traps: )[^\r\n]*)", re.MULTILINE
)
_WHERE: Final = re.compile(_TIME + r"RIP: 0010:(\S+)", re.MULTILINE)
_PANIC: Final = re.compile(_TIME + r"Kernel panic - not syncing: ([^\r\n]*)", re.MULTILINE)


def why_it_died(console: str) -> str:
    """The first complaint before the panic, where it was, and the panic, in the kernel's words, on one line; empty without a panic."""
    panic = _PANIC.search(console)
    if panic is None:
        return ""
    said = [f"panic: {panic[1].strip()}"]
    first = _FIRST.search(console, 0, panic.start())
    if first is not None:
        where = _WHERE.search(console, first.end(), panic.start())
        said.insert(0, first[1].strip() + (f" at {where[1]}" if where else ""))
    return "; ".join(said)
