# SPDX-License-Identifier: Apache-2.0
"""The TLB for data of a processor, and how much of a map it can hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from uaptrace.abi.units import LEVELS, Level, pages_to_bytes

MAX_TLB_PARTS: Final = 64
MAX_TLB_LEVEL: Final = 7
MAX_TLB_ENTRIES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class TlbPart:
    """One structure of the TLB that translates data addresses. Each of its entries holds one page of one of the ``sizes``."""

    level: int
    """1 is looked at first."""
    nr_entries: int
    sizes: tuple[Level, ...]


def largest_level(parts: Sequence[TlbPart], size: Level) -> tuple[int, int]:
    """The level that has most entries for pages of this size (the last of them), and how many; 0 and 0 where none has.

    Nearly always the second; some processors have more entries for 1G in the first.
    """
    entries: dict[int, int] = {}
    for part in parts:
        if size in part.sizes:
            entries[part.level] = entries.get(part.level, 0) + part.nr_entries
    return max(entries.items(), key=lambda item: (item[1], item[0]), default=(0, 0))


def reach_bytes(parts: Sequence[TlbPart], nr_present: Mapping[Level, int]) -> int | None:
    """The most bytes that the TLB can hold at once of a map that has so many entries of each size; None where the TLB is not known.

    For each size the structures of one level count, that with most entries for it: what one level holds another may hold too. A mapping
    whose size has none is held in pieces of the next smaller one.
    """
    if not parts:
        return None
    free = [part.nr_entries for part in parts]
    # Where a size has more than one structure, that with the fewest other sizes comes first.
    order = sorted(range(len(parts)), key=lambda i: len(parts[i].sizes))
    held_bytes = nr_pieces = 0
    # Largest first: an entry for one of these is worth most.
    for size, smaller in zip(sorted(LEVELS, reverse=True), (*sorted(LEVELS, reverse=True)[1:], None), strict=True):
        left, level = nr_present.get(size, 0) + nr_pieces, largest_level(parts, size)[0]
        nr_pieces = left * (size.nr_pages // smaller.nr_pages) if smaller is not None and not level else 0
        for i in order:
            if size in parts[i].sizes and parts[i].level == level:
                taken = min(left, free[i])
                free[i] -= taken
                left -= taken
                held_bytes += taken * pages_to_bytes(size.nr_pages)
    return held_bytes
