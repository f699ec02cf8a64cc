# SPDX-License-Identifier: Apache-2.0
"""The kernel's own dump of its page tables (debugfs: page_tables/kernel, CONFIG_PTDUMP_DEBUGFS), as an oracle.

Format (arch/x86/mm/dump_pagetables.c): ``0xstart-0xend  size  attributes  level`` in runs; entries that are not present,
absent or none at all, have no attributes, so the dump does not tell those two apart.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from uaptrace.abi.errors import UaptraceError
from uaptrace.abi.units import PAGE_SHIFT, PAGES_PER_2M, Level
from uaptrace.model.updates import PAGE_HOLE, PAGE_PRESENT, MapReading

_LINE: Final = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16})\s+\d+[KMGTPE](.*?)\s(pgd|p4d|pud|pmd|pte)\s*$", re.MULTILINE)
_LEVELS: Final = {"pud": Level.G1, "pmd": Level.M2, "pte": Level.K4}


def parse_ptdump(text: str, page_offset: int, direct_map_bytes: int, begin_ns: int, end_ns: int) -> MapReading:
    """The direct map out of the dump; what is not present is a hole (compare with ``absent_is_hole``).

    Raises UaptraceError where the dump has no direct map.
    """
    runs: list[tuple[int, int, Level]] = []
    for match in _LINE.finditer(text):
        start, end = int(match[1], 16), int(match[2], 16)
        start, end = max(start, page_offset), min(end, page_offset + direct_map_bytes)
        if start < end and match[3].strip() and match[4] in _LEVELS:
            runs.append(((start - page_offset) >> PAGE_SHIFT, (end - page_offset) >> PAGE_SHIFT, _LEVELS[match[4]]))
    if not runs:
        raise UaptraceError("the kernel's page table dump has no direct map")
    nr_regions = (max(end for _, end, _ in runs) + PAGES_PER_2M - 1) // PAGES_PER_2M
    levels = np.zeros(nr_regions, np.uint8)
    for first, end, level in runs:
        levels[first // PAGES_PER_2M : (end + PAGES_PER_2M - 1) // PAGES_PER_2M] = level
    split = np.flatnonzero(levels == Level.K4).astype(np.int64)
    row_of = np.full(nr_regions, -1, np.int64)
    row_of[split] = np.arange(len(split))
    pages = np.full((len(split), PAGES_PER_2M), PAGE_HOLE, np.uint8)
    for first, end, level in runs:
        if level is Level.K4:
            pfns = np.arange(first, end)
            pages[row_of[pfns // PAGES_PER_2M], pfns % PAGES_PER_2M] = PAGE_PRESENT
    return MapReading(begin_ns=begin_ns, end_ns=end_ns, first_region=0, levels=levels, split_regions=split, pages=pages, complete=True)
