# SPDX-License-Identifier: Apache-2.0
"""All that the model is ever told.

A live source makes updates out of the ring and of readings of the kernel; a recording is the sequence of updates,
so a replay gives the same state bit by bit. Nothing else reaches the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import Level
from uaptrace.abi.wire import Batch
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo

PAGE_HOLE: Final = 0
PAGE_PRESENT: Final = 1
PAGE_ABSENT: Final = 2
"""States of a 4K page in a region that is mapped by 4K entries: no entry at all, present, entry not present."""

LARGE_ABSENT: Final = 0x80
"""Bit of MapReading.levels: the 2M or 1G entry is there but not present."""


@dataclass(frozen=True, slots=True)
class Start:
    """First update of every source: who is traced, by what, since when."""

    host: HostInfo
    hooks: tuple[HookStatus, ...]
    time_ns: int
    """CLOCK_MONOTONIC when tracing began."""
    wall_time_s: float
    """Time since the epoch at ``time_ns``."""
    self_tgids: frozenset[int]
    """Processes of uaptrace itself: what they split has the cause ``self``."""
    splits_during_attach: Mapping[Level, int] = field(default_factory=lambda: MappingProxyType({}))
    """Change of the vmstat split counters from before the first program was loaded until the split hooks were live."""
    ring_bytes: int = 0
    counts_entries: bool = False
    """The programs count CACHE_ENTERED; false in recordings from before they did."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records from the ring, in the order of the ring. The array may be reused by the source after the update was handled."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class MapReading:
    """The direct map, or a part of it, read from the page tables.

    It replaces what the model holds for regions [first_region, first_region + len(levels)).
    ``levels``: uint8, one for each 2M region: Level, with LARGE_ABSENT where a large entry is not present, Level.NONE for holes.
    ``split_regions``: int64, ascending region numbers that are mapped by 4K entries (levels[...] == Level.K4).
    ``pages``: uint8 of shape (len(split_regions), 512): PAGE_HOLE, PAGE_PRESENT or PAGE_ABSENT.
    Records with time_ns < begin_ns were taken in before; those after may or may not be in the reading, which is
    harmless: every record says what is now, and is applied after it.
    """

    begin_ns: int
    end_ns: int
    first_region: int
    levels: NDArray[np.uint8]
    split_regions: NDArray[np.int64]
    pages: NDArray[np.uint8]
    complete: bool
    """All of the direct map was read (a baseline, or a full re-read)."""
    unreadable: tuple[int, ...] = ()
    """Regions whose page tables could not be read: nothing is known of them."""

    def regions_of_small_pages(self) -> list[int]:
        """Regions where blocks of the unmapped cache can be: those that are not mapped present by a large entry."""
        where = np.flatnonzero((self.levels == Level.K4) | (self.levels > Level.G1))
        return [int(region) for region in where + self.first_region]


@dataclass(frozen=True, slots=True)
class CacheReading:
    """The unmapped cache read from struct page: heads of free blocks, and the debugfs rows read with them.

    ``pfns`` int64 and ``orders`` uint8, one for each free block. ``atomic``: no cache operation was counted while it was
    read, so it is one moment; a reading that is not atomic must not replace what the model knows.
    """

    begin_ns: int
    end_ns: int
    pfns: NDArray[np.int64]
    orders: NDArray[np.uint8]
    rows_free: tuple[int, ...] | None
    rows_cached: tuple[int, ...] | None
    rows_released: tuple[int, ...] | None
    atomic: bool


def blocks_fit(pfns: NDArray[np.int64], orders: NDArray[np.uint8]) -> bool:
    """Whether free blocks are aligned and no two have a page in common, as is so at any one moment. Arguments as in CacheReading."""
    # Stable: of NumPy's default way, which is AVX2 code, an emulated processor (QEMU TCG) makes a wrong order.
    at = np.argsort(pfns, kind="stable")
    first, sizes = pfns[at], np.int64(1) << orders[at].astype(np.int64)
    return not (first & (sizes - 1)).any() and bool((first[:-1] + sizes[:-1] <= first[1:]).all())


@dataclass(frozen=True, slots=True)
class CountersReading:
    """Kernel-side counters and the kernel's own figures, read together.

    ``words``: uint64[512], enum uap_counter, summed over CPUs since attach.
    ``quiet``: nothing was counted while they were read and the ring was empty after it, so all figures are of one moment
    and everything counted has been taken in: only then may differences be called differences.
    ``pageblock_bit``: for audit: region number -> the pageblock's unmapped bit as read from the kernel's memory.
    """

    time_ns: int
    words: NDArray[np.uint64]
    missed_runs: int | None
    """None where the kernel does not say."""
    splits_total: Mapping[Level, int] | None
    """/proc/vmstat direct_map_level2_splits (M2), level3_splits (G1) since boot."""
    collapses_total: Mapping[Level, int] | None
    direct_map_bytes: Mapping[Level, int] | None
    """/proc/meminfo DirectMap4k, 2M, 1G."""
    rows_free: tuple[int, ...] | None
    rows_cached: tuple[int, ...] | None
    rows_released: tuple[int, ...] | None
    quiet: bool
    pageblock_bits: Mapping[int, bool] = field(default_factory=lambda: MappingProxyType({}))
    hooks_off: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What stops the kernel from calling hooks now (uaptrace.model.silence.Silence), and where that shows: a file, names of hooks."""
    unseen_pages: int = 0
    """Pages that re-reading found changed and that no hook told of, since tracing began."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """Names for return addresses that appear in STACK records: ``symbol+0xoff`` by address."""

    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Paths of cgroups by id."""

    paths: Mapping[int, str]


Update = Start | Records | MapReading | CacheReading | CountersReading | Symbols | Cgroups
