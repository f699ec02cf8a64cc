# SPDX-License-Identifier: Apache-2.0
"""What every part of the simulation works on: the constants, the arrays of a State, and lists of pages in them.

With page_allocator, mappings, caches and engine this is one compiled module (setup.py puts them together, engine.pxd has the C types):
a call from one compiled module into another could not be inlined. Without a C compiler the same text runs as Python, more slowly and
with the same result. It keeps to whole numbers, arrays and functions for that.
"""

from __future__ import annotations

from typing import Any

from uaptrace.abi import units
from uaptrace.abi.units import Level
from uaptrace.policies import engine_layout
from uaptrace.policies.engine_layout import Count, Design, Op, RequestFlag, State

# Copies of the constants: engine.pxd makes C variables of them.
NR_ORDERS = units.NR_ORDERS
TOP = units.NR_ORDERS - 1
PMD = units.PMD_ORDER
REGION = units.PAGES_PER_2M
GIGA = units.REGIONS_PER_1G
K4 = int(Level.K4)
M2 = int(Level.M2)
G1 = int(Level.G1)

ABSENT = engine_layout.ABSENT
DEFAULT = engine_layout.DEFAULT
OTHER_PERMISSION = engine_layout.OTHER_PERMISSION
UNMOVABLE = engine_layout.UNMOVABLE
MOVABLE = engine_layout.MOVABLE
RECLAIMABLE = engine_layout.RECLAIMABLE
UNMAPPED = engine_layout.UNMAPPED
FREETYPE_UNMAPPED = engine_layout.FREETYPE_UNMAPPED
CACHE_LISTS = engine_layout.CACHE_LISTS
PAGE_LIST = engine_layout.PAGE_LIST

NONE = int(Design.NONE)
MIGRATE = int(Design.MIGRATE_UNMAPPED)
GROUPED = int(Design.GROUPED_VMALLOC)
PKS = int(Design.PKS_TABLES)
POOL = int(Design.SECRETMEM_POOL)
PUBLISHED = int(Design.UNMAPPED_ALLOC_PUBLISHED)
WHOLE = int(Design.UNMAPPED_ALLOC_WHOLE)
INTENDED = int(Design.UNMAPPED_ALLOC)
FREETYPE = int(Design.FREETYPE)

ALLOCATE = int(Op.ALLOCATE)
FREE = int(Op.FREE)
CHANGE = int(Op.CHANGE)
CHANGE_RANGE = int(Op.CHANGE_RANGE)
RESTORE_RANGE = int(Op.RESTORE_RANGE)
SHRINK = int(Op.SHRINK)
CLOSE = int(Op.CLOSE)
HIDDEN = int(RequestFlag.HIDDEN)
ORDINARY = int(RequestFlag.ORDINARY)
FIXED = int(RequestFlag.UNMOVABLE)
IN_USE = int(RequestFlag.IN_USE)

C_SPLIT_2M = int(Count.SPLIT_2M)
C_SPLIT_1G = int(Count.SPLIT_1G)
C_OPERATIONS = int(Count.OPERATIONS)
C_PAGES_CHANGED = int(Count.PAGES_CHANGED)
C_FLUSHES = int(Count.TLB_FLUSHES)
C_TOUCHED = int(Count.TOUCHED)
C_TOUCHED_NOW = int(Count.TOUCHED_NOW)
C_STRANDED = int(Count.STRANDED_NOW)
C_4K = int(Count.REGIONS_4K_NOW)
C_2M = int(Count.REGIONS_2M_NOW)
C_1G = int(Count.REGIONS_1G_NOW)
C_CACHE = int(Count.CACHE_PAGES_NOW)
C_CACHE_PEAK = int(Count.CACHE_PAGES_PEAK)
C_HELD = int(Count.HELD_PAGES_NOW)
C_FAILED = int(Count.FAILED)
C_EXPOSED = int(Count.EXPOSED_PAGES)
C_CAPTURED = int(Count.CAPTURED_PAGES)
C_MIGRATED = int(Count.MIGRATED_PAGES)
C_FALLBACKS = int(Count.REFILL_FALLBACKS)
C_ASKED = int(Count.SHRINK_ASKED)
C_RELEASED = int(Count.SHRINK_RELEASED)
C_CHANGED = int(Count.CHANGED_PAGES_NOW)
C_OUTSIDE = int(Count.OUTSIDE)
C_QUEUE = int(Count.REFILL_QUEUE)
C_CMA = int(Count.CMA_FIRST)
C_HITS = int(Count.HITS)
C_REQUESTS = int(Count.REQUESTS)
C_REFILLS = int(Count.REFILLS)
C_RELEASES = int(Count.RELEASES)

RECLAIM_ROUNDS = 16
RECLAIM_BATCH = 128
"""MAX_RECLAIM_RETRIES and SHRINK_BATCH: how far an ordinary request that finds no memory goes."""

HELD_BLOCK = 1
HELD_PAGES = 2
HELD_ORDINARY = 3
HELD_RECORDED = 4


def view(array: Any) -> memoryview:
    """The array's memory as a memoryview: Python reads single elements of one several times faster than numpy's."""
    return memoryview(array)


class Engine:
    """The arrays of a State, in the form in which both Python and C index them fast. They share the State's memory."""

    def __init__(self, state: State) -> None:
        self.nr_pages = len(state.zorder)
        self.nr_regions = len(state.level)
        self.nr_refills = len(state.refill_pfn)
        self.nxt = view(state.nxt)
        self.prv = view(state.prv)
        self.zorder = view(state.zorder)
        self.corder = view(state.corder)
        self.changed = view(state.changed)
        self.uniform = view(state.uniform)
        self.block_type = view(state.block_type)
        self.block_bit = view(state.block_bit)
        self.level = view(state.level)
        self.nr_changed = view(state.nr_changed)
        self.touched = view(state.touched)
        self.zfree = view(state.zfree)
        self.cfree = view(state.cfree)
        self.slot = view(state.slot)
        self.held = view(state.held)
        self.held_as = view(state.held_as)
        self.held_order = view(state.held_order)
        self.owner_free = view(state.owner_free)
        self.owner_chunk = view(state.owner_chunk)
        self.owner_held = view(state.owner_held)
        self.owner_closed = view(state.owner_closed)
        self.chunk_next = view(state.chunk_next)
        self.cma_busy = view(state.cma_busy)
        self.counts = view(state.counts)
        self.refill_pfn = view(state.refill_pfn)
        self.refill_order = view(state.refill_order)


# Lists. A head is the word after the pages' words; an empty list's head points to itself.


def add_page(s: Engine, head: int, page: int) -> None:
    first = s.nxt[head]
    s.nxt[head] = page
    s.prv[page] = head
    s.nxt[page] = first
    s.prv[first] = page


def add_page_tail(s: Engine, head: int, page: int) -> None:
    last = s.prv[head]
    s.prv[head] = page
    s.nxt[page] = head
    s.prv[page] = last
    s.nxt[last] = page


def remove_page(s: Engine, page: int) -> None:
    before = s.prv[page]
    after = s.nxt[page]
    s.nxt[before] = after
    s.prv[after] = before
