# SPDX-License-Identifier: Apache-2.0
"""Which pages are read: as many at each level, in the same shape, so that only the mapping differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.model.updates import PAGE_PRESENT, MapReading

LINE_BYTES: Final = 64
"""Of a cache. One line of a page is read."""
CHAIN_READS: Final = 4096
"""UAP_CHAIN_READS of bpf/cost.bpf.c."""
MIN_REGIONS: Final = CHAIN_READS // PAGES_PER_2M
"""Fewer 2M regions than these do not fill a chain."""
_LARGE: Final = (Level.G1, Level.M2)


@dataclass(frozen=True, slots=True)
class Choice:
    """``pfns``: by level, int64 of the same length, a multiple of CHAIN_READS. Levels that cannot be compared are left out."""

    pfns: Mapping[Level, NDArray[np.int64]]
    nr_regions: Mapping[Level, int]
    """2M regions that are mapped so and could be read, by level: all three."""

    @property
    def nr_pages(self) -> int:
        """At each level."""
        return min((len(pfns) for pfns in self.pfns.values()), default=0)


def choose_pages(reading: MapReading, max_pages: int, rng: np.random.Generator) -> Choice:
    """Pages of whole regions: the split ones that have most pages present, and as many pages of as many regions at each other level.

    ``max_pages``: at each level, CHAIN_READS at least.
    """
    regions = {level: np.flatnonzero(reading.levels == level) + reading.first_region for level in _LARGE}
    present = (reading.pages == PAGE_PRESENT).sum(axis=1)
    usable = np.flatnonzero(present)
    counts = {level: len(found) for level, found in regions.items()} | {Level.K4: len(usable)}
    # The most pages first; of equal ones any, or all would be from where the kernel boots.
    order = rng.permutation(usable)
    order = order[np.argsort(-present[order], kind="stable")]
    compared = [level for level in _LARGE if counts[level] >= MIN_REGIONS]
    enough = int(np.searchsorted(np.cumsum(present[order]), max_pages)) + 1
    nr_regions = min([len(order), enough, *(counts[level] for level in compared)])
    chosen = order[:nr_regions]
    nr_pages = min(int(present[chosen].sum()), max_pages) // CHAIN_READS * CHAIN_READS
    if not nr_pages or not compared:
        return Choice({}, counts)
    row, page = np.nonzero(reading.pages[chosen] == PAGE_PRESENT)
    read = rng.permutation(len(row))[:nr_pages]
    row, page = row[read], page[read]
    pfns = {Level.K4: reading.split_regions[chosen][row] * PAGES_PER_2M + page}
    for level in compared:
        # The same pages of a region, in the same order, as of its split counterpart.
        pfns[level] = rng.choice(regions[level], nr_regions, replace=False)[row] * PAGES_PER_2M + page
    return Choice(pfns, counts)


def addresses(pfns: NDArray[np.int64], page_offset: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Where to read: any line of each page, or all would be in the same few sets of the caches. uint64, shape of ``pfns``."""
    lines = rng.integers(0, PAGE_SIZE // LINE_BYTES, len(pfns))
    return np.uint64(page_offset) + (pfns * PAGE_SIZE + lines * LINE_BYTES).astype(np.uint64)
