# SPDX-License-Identifier: Apache-2.0
"""How many of the records at the front of a ring are plain: the one look at each record before a batch is handed out.

Cython compiles this file when uaptrace is installed (headers.pxd has the C types); without a C compiler the same text runs as
Python, more slowly and with the same result.
"""

from __future__ import annotations

from typing import Any


def is_compiled() -> bool:
    """Whether this is the compiled form."""
    return not __file__.endswith(".py")


def plain_records(words: Any, first: int, count: int, step: int, length: int) -> int:
    """How many of ``count`` records from word ``first`` of ``words`` (uint32, a memoryview) begin with ``length``, until one does not.

    ``step`` is the distance of two records in words. A record that is busy, discarded or of another length has another first word.
    """
    at = first
    for i in range(count):
        if words[at] != length:
            return i
        at += step
    return count
