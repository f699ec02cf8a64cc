# SPDX-License-Identifier: Apache-2.0
"""Numbers that the compiled engine and its callers share: designs, requests, counters, the arrays of the state."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import NR_ORDERS


class Design(IntEnum):
    """The designs of docs/kernel.md, section 4. ``label`` is the name used on the command line and in JSON."""

    NONE = 0
    MIGRATE_UNMAPPED = 1
    GROUPED_VMALLOC = 2
    PKS_TABLES = 3
    SECRETMEM_POOL = 4
    UNMAPPED_ALLOC_PUBLISHED = 5
    UNMAPPED_ALLOC = 6
    UNMAPPED_ALLOC_WHOLE = 7
    FREETYPE = 8

    @property
    def label(self) -> str:
        return self.name.lower()


class Op(IntEnum):
    """What a request asks for."""

    ALLOCATE = 0
    """A block of ``order`` that ``ident`` names from then on."""
    FREE = 1
    CHANGE = 2
    """Other permissions (read only, executable) for the pages of the block ``ident``."""
    CHANGE_RANGE = 3
    """Other permissions, or absence, for ``nr_pages`` pages from ``pfn``: one call, where it falls, under every design."""
    RESTORE_RANGE = 4
    """Default permissions for such a range."""
    SHRINK = 5
    """Memory pressure: the shrinker is asked for ``nr_pages`` pages."""
    CLOSE = 6
    """The owner (an inode, a module) is gone; matters to the pool that each owner has."""


class RequestFlag(IntEnum):
    """Bits of ``flags`` of an ALLOCATE (HIDDEN also of a CHANGE_RANGE)."""

    HIDDEN = 1
    """The pages must be absent from the direct map as soon as they are handed out (memfd_secret)."""
    ORDINARY = 2
    """Plain memory that stays mapped, movable: it competes for the page allocator's blocks and no design serves it."""
    UNMOVABLE = 4
    """With ORDINARY: the kernel's own memory (slab, page tables), from the pageblocks that permission changes fall into too."""
    IN_USE = 8
    """unmapped_alloc with recorded refills: handed out before the recording began, at ``pfn``."""


class Count(IntEnum):
    """Index into the engine's int64 counters. Totals unless they say *now*."""

    SPLIT_2M = 0
    SPLIT_1G = 1
    OPERATIONS = 2
    PAGES_CHANGED = 3
    TLB_FLUSHES = 4
    TOUCHED = 5
    TOUCHED_NOW = 6
    STRANDED_NOW = 7
    REGIONS_4K_NOW = 8
    REGIONS_2M_NOW = 9
    REGIONS_1G_NOW = 10
    CACHE_PAGES_NOW = 11
    CACHE_PAGES_PEAK = 12
    HELD_PAGES_NOW = 13
    FAILED = 14
    EXPOSED_PAGES = 15
    CAPTURED_PAGES = 16
    MIGRATED_PAGES = 17
    REFILL_FALLBACKS = 18
    SHRINK_ASKED = 19
    SHRINK_RELEASED = 20
    CHANGED_PAGES_NOW = 21
    OUTSIDE = 22
    """Requests about memory that the model does not have, or that contradict recorded places: left out."""
    REFILL_QUEUE = 23
    """Next entry of the given placements of refills."""
    CMA_FIRST = 24
    """First region of the secretmem pool's reserved area."""
    HITS = 25
    """Blocks (or pages, where a design hands out pages) that its free lists had."""
    REQUESTS = 26
    """Allocations that the design was asked to serve."""
    REFILLS = 32
    """Eleven words, by order: chunks taken into the cache (debugfs's Cached row for unmapped_alloc)."""
    RELEASES = 44
    """Eleven words, by order: blocks given back to the page allocator (the Released row)."""
    WORDS = 56


NR_TYPES: Final = 5
UNMOVABLE: Final = 0
MOVABLE: Final = 1
RECLAIMABLE: Final = 2
UNMAPPED: Final = 3
FREETYPE_UNMAPPED: Final = 4
"""Types of pageblocks: three migrate types as in the kernel's enum, MIGRATE_UNMAPPED, and the freetype of unmovable and absent pages."""

CACHE_LISTS: Final = NR_TYPES * NR_ORDERS
PAGE_LIST: Final = CACHE_LISTS + NR_ORDERS
NR_LISTS: Final = PAGE_LIST + 1
"""List heads: the page allocator's by type and order, the unmapped cache's by order, the grouped pages' one."""

DEFAULT: Final = 0
ABSENT: Final = 1
OTHER_PERMISSION: Final = 2
"""Value of State.changed for a page: as at boot, absent from the direct map, or mapped with other permissions."""


class State(NamedTuple):
    """Everything the engine works on. A page is the head of at most one free block, as in the kernel."""

    nxt: NDArray[np.int32]
    """Lists, doubly linked and circular as the kernel's: one word for each page, then one for each list head."""
    prv: NDArray[np.int32]
    zorder: NDArray[np.int8]
    """Order of the page allocator's free block that begins at this page, -1: none."""
    corder: NDArray[np.int8]
    """Order of the cache's free block that begins at this page, -1: none."""
    changed: NDArray[np.uint8]
    """For each page: DEFAULT, ABSENT or OTHER_PERMISSION."""
    uniform: NDArray[np.uint8]
    """For each 2M region 1 + the value that all of its pages have in ``changed``; 0 where that is not known."""
    block_type: NDArray[np.uint8]
    """Migrate type of each pageblock."""
    block_bit: NDArray[np.uint8]
    """The pageblock's unmapped bit."""
    level: NDArray[np.uint8]
    """uaptrace.abi.units.Level of each 2M region; NONE where there is no memory."""
    nr_changed: NDArray[np.int32]
    """Pages of each region that are not DEFAULT."""
    touched: NDArray[np.uint8]
    """1 for regions that ever had a page that was not DEFAULT."""
    zfree: NDArray[np.int64]
    """Free blocks of the page allocator by order."""
    cfree: NDArray[np.int64]
    """Free blocks of the cache by order."""
    slot: NDArray[np.int64]
    """Where the pages of each ident begin in ``held``."""
    held: NDArray[np.int32]
    """Pages of the blocks that are handed out."""
    held_as: NDArray[np.uint8]
    """For each ident: 0 not held, 1 one block, 2 single pages, 3 an ordinary block, 4 a recorded place."""
    held_order: NDArray[np.uint8]
    owner_free: NDArray[np.int32]
    """Secretmem pool, for each owner: first free page (linked through nxt), -1: none."""
    owner_chunk: NDArray[np.int32]
    """First region of the owner's chunks, -1: none."""
    owner_held: NDArray[np.int64]
    """Pages of the owner that are handed out."""
    owner_closed: NDArray[np.uint8]
    """1 for an owner that is gone while its pages are in use."""
    chunk_next: NDArray[np.int32]
    """Next region of the same owner's chunks."""
    cma_busy: NDArray[np.int32]
    """Regions of the reserved area: -1 taken as a chunk, else movable pages that would have to be migrated first."""
    counts: NDArray[np.int64]
    """Count."""
    refill_pfn: NDArray[np.int64]
    """Placements of refills that were recorded, used in this order instead of the page allocator; may be empty."""
    refill_order: NDArray[np.int64]
