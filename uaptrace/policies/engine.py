# SPDX-License-Identifier: Apache-2.0
"""The page allocator, the direct map and the designs: the part of the simulation that each request runs through.

Cython compiles this file when uaptrace is installed (engine.pxd has the C types); without a C compiler the same text runs
as Python, more slowly and with the same result. It keeps to whole numbers, arrays and functions for that.

Page allocator: Linux 6.1, mm/page_alloc.c (``__rmqueue``, ``__rmqueue_fallback``, ``steal_suitable_fallback``,
``__free_one_page`` with ``buddy_merge_likely``), one zone, no per-CPU lists, no watermarks.
Designs: the messages named in docs/whatif.md; unmapped_alloc as intended is kernel/patches.
"""

from __future__ import annotations

from typing import Any

from uaptrace.abi.units import NR_ORDERS, PAGES_PER_2M, PMD_ORDER, REGIONS_PER_1G, Level
from uaptrace.policies import layout
from uaptrace.policies.layout import Count, Design, Op, RequestFlag, State

# Copies of the constants: engine.pxd makes C variables of them.
_NR_ORDERS = NR_ORDERS
_TOP = NR_ORDERS - 1
_PMD = PMD_ORDER
_REGION = PAGES_PER_2M
_GIGA = REGIONS_PER_1G
_K4 = int(Level.K4)
_M2 = int(Level.M2)
_G1 = int(Level.G1)

_ABSENT = layout.ABSENT
_DEFAULT = layout.DEFAULT
_OTHER_PERMISSION = layout.OTHER_PERMISSION
_UNMOVABLE = layout.UNMOVABLE
_MOVABLE = layout.MOVABLE
_RECLAIMABLE = layout.RECLAIMABLE
_UNMAPPED = layout.UNMAPPED
_CACHE_LISTS = layout.CACHE_LISTS
_PAGE_LIST = layout.PAGE_LIST

_NONE = int(Design.NONE)
_MIGRATE = int(Design.MIGRATE_UNMAPPED)
_GROUPED = int(Design.GROUPED_VMALLOC)
_PKS = int(Design.PKS_TABLES)
_POOL = int(Design.SECRETMEM_POOL)
_PUBLISHED = int(Design.UNMAPPED_ALLOC_PUBLISHED)
_WHOLE = int(Design.UNMAPPED_ALLOC_WHOLE)
_INTENDED = int(Design.UNMAPPED_ALLOC)

_ALLOCATE = int(Op.ALLOCATE)
_FREE = int(Op.FREE)
_CHANGE = int(Op.CHANGE)
_CHANGE_RANGE = int(Op.CHANGE_RANGE)
_RESTORE_RANGE = int(Op.RESTORE_RANGE)
_SHRINK = int(Op.SHRINK)
_CLOSE = int(Op.CLOSE)
_HIDDEN = int(RequestFlag.HIDDEN)
_ORDINARY = int(RequestFlag.ORDINARY)
_FIXED = int(RequestFlag.UNMOVABLE)
_IN_USE = int(RequestFlag.IN_USE)

_C_SPLIT_2M = int(Count.SPLIT_2M)
_C_SPLIT_1G = int(Count.SPLIT_1G)
_C_OPERATIONS = int(Count.OPERATIONS)
_C_PAGES_CHANGED = int(Count.PAGES_CHANGED)
_C_FLUSHES = int(Count.TLB_FLUSHES)
_C_TOUCHED = int(Count.TOUCHED)
_C_TOUCHED_NOW = int(Count.TOUCHED_NOW)
_C_STRANDED = int(Count.STRANDED_NOW)
_C_4K = int(Count.REGIONS_4K_NOW)
_C_2M = int(Count.REGIONS_2M_NOW)
_C_1G = int(Count.REGIONS_1G_NOW)
_C_CACHE = int(Count.CACHE_PAGES_NOW)
_C_CACHE_PEAK = int(Count.CACHE_PAGES_PEAK)
_C_HELD = int(Count.HELD_PAGES_NOW)
_C_FAILED = int(Count.FAILED)
_C_EXPOSED = int(Count.EXPOSED_PAGES)
_C_CAPTURED = int(Count.CAPTURED_PAGES)
_C_MIGRATED = int(Count.MIGRATED_PAGES)
_C_FALLBACKS = int(Count.REFILL_FALLBACKS)
_C_ASKED = int(Count.SHRINK_ASKED)
_C_RELEASED = int(Count.SHRINK_RELEASED)
_C_CHANGED = int(Count.CHANGED_PAGES_NOW)
_C_OUTSIDE = int(Count.OUTSIDE)
_C_QUEUE = int(Count.REFILL_QUEUE)
_C_CMA = int(Count.CMA_FIRST)
_C_HITS = int(Count.HITS)
_C_REQUESTS = int(Count.REQUESTS)
_C_REFILLS = int(Count.REFILLS)
_C_RELEASES = int(Count.RELEASES)

_RECLAIM_ROUNDS = 16
_RECLAIM_BATCH = 128
"""MAX_RECLAIM_RETRIES and SHRINK_BATCH: how far an ordinary request that finds no memory goes."""

_HELD_BLOCK = 1
_HELD_PAGES = 2
_HELD_ORDINARY = 3
_HELD_RECORDED = 4


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


def is_compiled() -> bool:
    """Whether this is the compiled form."""
    return not __file__.endswith(".py")


# Lists. A head is the word after the pages' words; an empty list's head points to itself.


def _add(s: Engine, head: int, page: int) -> None:
    first = s.nxt[head]
    s.nxt[head] = page
    s.prv[page] = head
    s.nxt[page] = first
    s.prv[first] = page


def _add_tail(s: Engine, head: int, page: int) -> None:
    last = s.prv[head]
    s.prv[head] = page
    s.nxt[page] = head
    s.prv[page] = last
    s.nxt[last] = page


def _remove(s: Engine, page: int) -> None:
    before = s.prv[page]
    after = s.nxt[page]
    s.nxt[before] = after
    s.prv[after] = before


# The page allocator.


def _zone_add(s: Engine, page: int, order: int, kind: int, tail: bool) -> None:
    head = s.nr_pages + kind * _NR_ORDERS + order
    if tail:
        _add_tail(s, head, page)
    else:
        _add(s, head, page)
    s.zorder[page] = order
    s.zfree[order] += 1


def _zone_remove(s: Engine, page: int) -> None:
    _remove(s, page)
    s.zfree[s.zorder[page]] -= 1
    s.zorder[page] = -1


def _zone_expand(s: Engine, page: int, low: int, high: int, kind: int) -> None:
    """Keep the lowest part, put the upper halves on the lists: expand()."""
    while high > low:
        high -= 1
        _zone_add(s, page + (1 << high), high, kind, False)


def _zone_smallest(s: Engine, order: int, kind: int) -> int:
    """__rmqueue_smallest(): -1 where that type has nothing."""
    nr_pages = s.nr_pages
    for current in range(order, _NR_ORDERS):
        page = s.nxt[nr_pages + kind * _NR_ORDERS + current]
        if page < nr_pages:
            _zone_remove(s, page)
            _zone_expand(s, page, order, current, kind)
            return page
    return -1


def _move_block(s: Engine, page: int, kind: int) -> int:
    """move_freepages_block(): all free pages of the page's block go to the lists of ``kind``; their number."""
    nr_pages = s.nr_pages
    page = page & ~(_REGION - 1)
    end = page + _REGION
    moved = 0
    while page < end:
        order = s.zorder[page]
        if order < 0:
            page += 1
            continue
        _remove(s, page)
        _add_tail(s, nr_pages + kind * _NR_ORDERS + order, page)
        moved += 1 << order
        page += 1 << order
    return moved


def _fallback_type(kind: int, i: int) -> int:
    """The table ``fallbacks`` of 6.1; for MIGRATE_UNMAPPED the order of its message."""
    if kind == _UNMOVABLE:
        return _RECLAIMABLE if i == 0 else _MOVABLE
    if kind == _MOVABLE:
        return _RECLAIMABLE if i == 0 else _UNMOVABLE
    return _UNMOVABLE if i == 0 else _MOVABLE


def _zone_steal(s: Engine, page: int, order: int, kind: int, whole: bool) -> None:
    """steal_suitable_fallback() of a free block that is on a list of another type."""
    nr_pages = s.nr_pages
    if order >= _PMD:
        for block in range(page >> _PMD, (page + (1 << order)) >> _PMD):
            s.block_type[block] = kind
    elif whole:
        moved = _move_block(s, page, kind)
        if moved >= _REGION // 2:
            s.block_type[page >> _PMD] = kind
        return
    _remove(s, page)
    _add_tail(s, nr_pages + kind * _NR_ORDERS + order, page)


def _zone_fallback(s: Engine, order: int, kind: int) -> bool:
    """__rmqueue_fallback(): take over a block of another type, the largest first."""
    nr_pages = s.nr_pages
    for current in range(_TOP, order - 1, -1):
        if s.zfree[current] == 0:
            continue
        for i in range(2):
            other = _fallback_type(kind, i)
            page = s.nxt[nr_pages + other * _NR_ORDERS + current]
            if page >= nr_pages:
                continue
            whole = current >= _PMD // 2 or kind != _MOVABLE
            if not whole and current > order:
                # The block would stay of its type: rather break up the smallest that is large enough.
                for small in range(order, current):
                    for j in range(2):
                        lesser = _fallback_type(kind, j)
                        candidate = s.nxt[nr_pages + lesser * _NR_ORDERS + small]
                        if candidate < nr_pages:
                            _zone_steal(s, candidate, small, kind, False)
                            return True
            _zone_steal(s, page, current, kind, whole)
            return True
    return False


def zone_allocate(s: Engine, order: int, kind: int) -> int:
    """First page of a block of ``order`` from the page allocator, -1 where it has none."""
    page = _zone_smallest(s, order, kind)
    if page < 0 and _zone_fallback(s, order, kind):
        page = _zone_smallest(s, order, kind)
    if page < 0 and kind != _UNMAPPED:
        page = _zone_smallest(s, order, _UNMAPPED)  # "others may fall back into the block last"
    return page


def zone_free(s: Engine, page: int, order: int, to_tail: bool) -> None:
    """__free_one_page(): merge with free buddies, then to the head of the list, or the tail where a merge is likely."""
    kind = s.block_type[page >> _PMD]
    while order < _TOP:
        buddy = page ^ (1 << order)
        if s.zorder[buddy] != order:
            break
        if order >= _PMD:
            other = s.block_type[buddy >> _PMD]
            if other != kind and (other == _UNMAPPED or kind == _UNMAPPED):
                break
        _zone_remove(s, buddy)
        page = page & buddy
        order += 1
    tail = to_tail
    if not tail and order < _TOP - 1:
        higher = page & ~(1 << order)
        tail = s.zorder[higher ^ (1 << (order + 1))] == order + 1
    _zone_add(s, page, order, kind, tail)


# The direct map.


def _is_stranded(s: Engine, region: int) -> int:
    if s.level[region] == _K4 and s.nr_changed[region] == 0 and s.touched[region] == 1:
        return 1
    return 0


def _split_1g(s: Engine, region: int) -> None:
    first = region & ~(_GIGA - 1)
    split = 0
    for i in range(first, min(first + _GIGA, s.nr_regions)):
        if s.level[i] == _G1:
            s.level[i] = _M2
            split += 1
    s.counts[_C_SPLIT_1G] += 1
    s.counts[_C_FLUSHES] += 1
    s.counts[_C_1G] -= split
    s.counts[_C_2M] += split


def _note(s: Engine, region: int, before: int, stranded: int) -> None:
    """Bring the counts of regions up to date after nr_changed or the level changed."""
    after = s.nr_changed[region]
    s.counts[_C_CHANGED] += after - before
    if before == 0 and after > 0:
        s.counts[_C_TOUCHED_NOW] += 1
        if s.touched[region] == 0:
            s.touched[region] = 1
            s.counts[_C_TOUCHED] += 1
    elif before > 0 and after == 0:
        s.counts[_C_TOUCHED_NOW] -= 1
    s.counts[_C_STRANDED] += _is_stranded(s, region) - stranded


def _set_page(s: Engine, page: int, value: int) -> bool:
    """Change one page, splitting what it is in; False where it already is so (no entry is written then)."""
    old = s.changed[page]
    if old == value:
        return False
    region = page >> _PMD
    before = s.nr_changed[region]
    stranded = _is_stranded(s, region)
    if s.level[region] == _G1:
        _split_1g(s, region)
    if s.level[region] == _M2:
        s.level[region] = _K4
        s.counts[_C_SPLIT_2M] += 1
        s.counts[_C_FLUSHES] += 1
        s.counts[_C_2M] -= 1
        s.counts[_C_4K] += 1
    s.changed[page] = value
    s.uniform[region] = 0
    if old == _DEFAULT:
        s.nr_changed[region] += 1
    elif value == _DEFAULT:
        s.nr_changed[region] -= 1
    _note(s, region, before, stranded)
    s.counts[_C_PAGES_CHANGED] += 1
    return True


def _set_region(s: Engine, region: int, value: int, split_1g: bool) -> None:
    """Change a whole 2M region by one call: a large entry stays one."""
    before = s.nr_changed[region]
    stranded = _is_stranded(s, region)
    if split_1g and s.level[region] == _G1:
        _split_1g(s, region)
    first = region << _PMD
    differing = 0
    if s.uniform[region] == 0:
        for page in range(first, first + _REGION):
            differing += s.changed[page] != value
    elif s.uniform[region] != value + 1:
        differing = _REGION
    if differing > 0:
        for page in range(first, first + _REGION):
            s.changed[page] = value
    s.uniform[region] = value + 1
    s.counts[_C_PAGES_CHANGED] += differing
    s.nr_changed[region] = 0 if value == _DEFAULT else _REGION
    _note(s, region, before, stranded)


def _set_range(s: Engine, first: int, nr_pages: int, value: int) -> None:
    """One call over a range, as __change_page_attr_set_clr() goes through it: the largest entries that fit are kept."""
    page = first
    end = first + nr_pages
    while page < end:
        region = page >> _PMD
        aligned = page & (_REGION - 1) == 0 and page + _REGION <= end
        if aligned and s.level[region] != _K4:
            giga = _GIGA * _REGION
            whole = s.level[region] == _G1 and page & (giga - 1) == 0 and page + giga <= end
            if whole:
                for i in range(region, region + _GIGA):
                    _set_region(s, i, value, False)
                page += giga
            else:
                _set_region(s, region, value, True)
                page += _REGION
        else:
            _set_page(s, page, value)
            page += 1
    s.counts[_C_OPERATIONS] += 1
    s.counts[_C_FLUSHES] += 1


def _default_page(s: Engine, page: int) -> bool:
    """set_direct_map_default_noflush() of one page; whether its old entry has to be flushed (an absent one is in no TLB)."""
    old = s.changed[page]
    s.counts[_C_OPERATIONS] += 1
    _set_page(s, page, _DEFAULT)
    return old == _OTHER_PERMISSION


def _default_pages(s: Engine, page: int, nr_pages: int) -> None:
    """Default permissions for those pages of a block that have others."""
    flush = False
    for i in range(page, page + nr_pages):
        if s.changed[i] != _DEFAULT:
            flush = _default_page(s, i) or flush
    if flush:
        s.counts[_C_FLUSHES] += 1


def _hide_pages(s: Engine, page: int, nr_pages: int) -> None:
    """set_direct_map_invalid_noflush() for each page, then one flush of the range."""
    for i in range(page, page + nr_pages):
        s.counts[_C_OPERATIONS] += 1
        _set_page(s, i, _ABSENT)
    s.counts[_C_FLUSHES] += 1


# unmapped_alloc.


def _cache_add(s: Engine, page: int, order: int) -> None:
    _add(s, s.nr_pages + _CACHE_LISTS + order, page)
    s.corder[page] = order
    s.cfree[order] += 1


def _cache_remove(s: Engine, page: int) -> None:
    _remove(s, page)
    s.cfree[s.corder[page]] -= 1
    s.corder[page] = -1


def _cache_free(s: Engine, page: int, order: int) -> None:
    s.counts[_C_CACHE] += 1 << order
    while order < _TOP:
        buddy = page ^ (1 << order)
        if s.corder[buddy] != order:
            break
        _cache_remove(s, buddy)
        page = page & buddy
        order += 1
    _cache_add(s, page, order)


def _cache_has(s: Engine, page: int, order: int) -> bool:
    """Whether any page of a block is free in the cache: true only where recorded places do not fit the requests."""
    for larger in range(_NR_ORDERS):
        if s.corder[page & ~((1 << larger) - 1)] >= larger:
            return True
    inside = page + 1
    while inside < page + (1 << order) and s.corder[inside] < 0:
        inside += 1
    return inside < page + (1 << order)


def _cache_smallest(s: Engine, order: int) -> int:
    """Split the smallest block that is large enough; the lowest part is handed out, -1: there is none."""
    nr_pages = s.nr_pages
    for current in range(order, _NR_ORDERS):
        page = s.nxt[nr_pages + _CACHE_LISTS + current]
        if page < nr_pages:
            _cache_remove(s, page)
            for high in range(current - 1, order - 1, -1):
                _cache_add(s, page + (1 << high), high)
            s.counts[_C_CACHE] -= 1 << order
            return page
    return -1


def _cache_refill(s: Engine, order: int, design: int) -> bool:
    """Take a chunk of PMD order, or of the largest lower order there is, and make it absent."""
    published = design == _PUBLISHED
    page = -1
    chunk = -1
    queue = s.counts[_C_QUEUE]
    if s.nr_refills > 0:
        if queue < s.nr_refills:
            page = s.refill_pfn[queue]
            chunk = s.refill_order[queue]
            s.counts[_C_QUEUE] += 1
    else:
        # As published, a request above PMD order finds nothing to try.
        for chunk in range(_PMD if published else max(order, _PMD), order - 1, -1):
            page = zone_allocate(s, chunk, _UNMOVABLE)
            if page >= 0:
                break
    if page < 0 or chunk < order:
        return False
    if s.nr_refills > 0 and _cache_has(s, page, chunk):
        s.counts[_C_OUTSIDE] += 1
        return False
    if chunk < _PMD:
        s.counts[_C_FALLBACKS] += 1
    s.counts[_C_REFILLS + chunk] += 1
    # As published, only as many pages as were asked for are unmapped; the rest of the chunk is handed out mapped.
    if design == _WHOLE and chunk >= _PMD:
        _set_range(s, page, 1 << chunk, _ABSENT)
    else:
        _hide_pages(s, page, 1 << order if published else 1 << chunk)
    if published:
        s.block_bit[page >> _PMD] = 1
    _cache_free(s, page, chunk)
    return True


def _cache_release(s: Engine, page: int, design: int) -> int:
    """Give one free block back to the page allocator, mapped; its pages."""
    published = design == _PUBLISHED
    order = s.corder[page]
    _cache_remove(s, page)
    nr_pages = 1 << order
    s.counts[_C_CACHE] -= nr_pages
    s.counts[_C_RELEASES + order] += 1
    if published and order == _PMD:
        s.block_bit[page >> _PMD] = 0
    flush = False
    if design == _WHOLE and order >= _PMD:
        _set_range(s, page, nr_pages, _DEFAULT)
        s.counts[_C_FLUSHES] -= 1  # what was absent is in no TLB
    else:
        for i in range(page, page + nr_pages):
            flush = _default_page(s, i) or flush
    if flush:
        s.counts[_C_FLUSHES] += 1
    if s.nr_refills == 0:  # else the page allocator is not part of the model
        zone_free(s, page, order, published)  # as published with FPI_TO_TAIL, as intended by __free_pages()
    return nr_pages


def _cache_shrink(s: Engine, wanted: int, design: int) -> int:
    """unmapped_alloc_scan_objects(): smallest order first, whole blocks, the first of each list."""
    published = design == _PUBLISHED
    nr_pages = s.nr_pages
    released = 0
    for order in range(_NR_ORDERS):
        freed = 0
        # As published, what was released so far is taken off again and again for every order.
        while (freed if published else released + freed) < wanted:
            page = s.nxt[nr_pages + _CACHE_LISTS + order]
            if page >= nr_pages:
                break
            freed += _cache_release(s, page, design)
        released += freed
        if released >= wanted:
            break
        if published:
            wanted -= released
    return released


# Single pages kept on one list, most recently used first: grouped vmalloc permissions, PKS tables.


def _list_put(s: Engine, page: int) -> None:
    _add(s, s.nr_pages + _PAGE_LIST, page)
    s.counts[_C_CACHE] += 1


def _list_take(s: Engine, protect: bool) -> int:
    """A page of the list, else the first of a new 2M chunk, else one page on its own; -1 where there is no memory."""
    nr_pages = s.nr_pages
    page = s.nxt[nr_pages + _PAGE_LIST]
    if page < nr_pages:
        _remove(s, page)
        s.counts[_C_CACHE] -= 1
        s.counts[_C_HITS] += 1
        return page
    page = zone_allocate(s, _PMD, _UNMOVABLE)
    if page >= 0:
        s.counts[_C_REFILLS + _PMD] += 1
        if protect:
            _set_range(s, page, _REGION, _OTHER_PERMISSION)
        for i in range(page + 1, page + _REGION):
            _list_put(s, i)
        return page
    page = zone_allocate(s, 0, _UNMOVABLE)
    if page >= 0:
        s.counts[_C_REFILLS] += 1
        s.counts[_C_FALLBACKS] += 1
        if protect:
            _set_range(s, page, 1, _OTHER_PERMISSION)
    return page


def _list_shrink(s: Engine, wanted: int) -> int:
    """Free single pages, the least recently used first; protected ones get their permissions back one by one."""
    nr_pages = s.nr_pages
    released = 0
    while released < wanted:
        page = s.prv[nr_pages + _PAGE_LIST]
        if page >= nr_pages:
            break
        _remove(s, page)
        s.counts[_C_CACHE] -= 1
        s.counts[_C_RELEASES] += 1
        if s.changed[page] != _DEFAULT:
            _set_range(s, page, 1, _DEFAULT)
        zone_free(s, page, 0, False)
        released += 1
    return released


# The secretmem pool: 512 pages at a time out of a reserved area, for each owner.


def _pool_chunk(s: Engine) -> int:
    """Region number of 512 pages of the reserved area, the lowest that is free; -1 where there is none."""
    for region in range(s.counts[_C_CMA], s.nr_regions):
        occupied = s.cma_busy[region]
        if occupied < 0:
            continue
        # Movable pages in it are migrated elsewhere, as cma_alloc() does; without room for them the chunk is not to be had.
        last = -1
        for _ in range(occupied):
            page = zone_allocate(s, 0, _MOVABLE)
            if page < 0:
                while last >= 0:
                    page = last
                    last = s.nxt[page]
                    zone_free(s, page, 0, False)
                return -1
            s.nxt[page] = last
            last = page
        s.counts[_C_MIGRATED] += occupied
        s.cma_busy[region] = -1
        return region
    return -1


def _pool_take(s: Engine, owner: int) -> int:
    page = s.owner_free[owner]
    if page < 0:
        region = _pool_chunk(s)
        if region < 0:
            return -1
        s.counts[_C_REFILLS + _PMD] += 1
        s.chunk_next[region] = s.owner_chunk[owner]
        s.owner_chunk[owner] = region
        first = region << _PMD
        _set_range(s, first, _REGION, _ABSENT)
        for i in range(first + _REGION - 1, first, -1):
            s.nxt[i] = s.owner_free[owner]
            s.owner_free[owner] = i
        s.counts[_C_CACHE] += _REGION - 1
        page = first
    else:
        s.owner_free[owner] = s.nxt[page]
        s.counts[_C_CACHE] -= 1
        s.counts[_C_HITS] += 1
    s.owner_held[owner] += 1
    s.owner_closed[owner] = 0
    return page


def _pool_destroy(s: Engine, owner: int) -> None:
    """Restore and release the chunks of an owner that is gone."""
    region = s.owner_chunk[owner]
    while region >= 0:
        _set_range(s, region << _PMD, _REGION, _DEFAULT)
        s.counts[_C_FLUSHES] -= 1  # absent entries are in no TLB
        s.cma_busy[region] = 0
        s.counts[_C_RELEASES + _PMD] += 1
        s.counts[_C_CACHE] -= _REGION
        region = s.chunk_next[region]
    s.owner_closed[owner] = 0
    s.owner_chunk[owner] = -1
    s.owner_free[owner] = -1


def _pool_put(s: Engine, owner: int, page: int) -> None:
    s.nxt[page] = s.owner_free[owner]
    s.owner_free[owner] = page
    s.counts[_C_CACHE] += 1
    s.owner_held[owner] -= 1
    if s.owner_closed[owner] == 1 and s.owner_held[owner] == 0:
        _pool_destroy(s, owner)


def _pool_close(s: Engine, owner: int) -> None:
    """The owner is gone; a pool with pages in use goes with the last of them."""
    if s.owner_held[owner] == 0:
        _pool_destroy(s, owner)
    else:
        s.owner_closed[owner] = 1


# MIGRATE_UNMAPPED.


def _migrate_allocate(s: Engine, order: int) -> int:
    """From the unmapped free lists, else retype one more pageblock and take its free pages."""
    page = _zone_smallest(s, order, _UNMAPPED)
    if page >= 0:
        s.counts[_C_HITS] += 1
        return page
    nr_pages = s.nr_pages
    for current in range(_TOP, order - 1, -1):
        for i in range(3):
            kind = _UNMOVABLE if i == 0 else _RECLAIMABLE if i == 1 else _MOVABLE
            page = s.nxt[nr_pages + kind * _NR_ORDERS + current]
            if page >= nr_pages:
                continue
            if current >= _PMD:
                keep = max(order, _PMD)
                _zone_remove(s, page)
                _zone_expand(s, page, keep, current, kind)
                for block in range(page >> _PMD, (page + (1 << keep)) >> _PMD):
                    s.block_type[block] = _UNMAPPED
                    s.counts[_C_REFILLS + _PMD] += 1
                _zone_add(s, page, keep, _UNMAPPED, False)
            else:
                s.block_type[page >> _PMD] = _UNMAPPED
                s.counts[_C_REFILLS + current] += 1
                s.counts[_C_FALLBACKS] += 1
                _move_block(s, page, _UNMAPPED)
            return _zone_smallest(s, order, _UNMAPPED)
    return -1


# Requests.


def _shrink(s: Engine, design: int, wanted: int) -> int:
    """The design's shrinker; 0 for designs that have none."""
    released = 0
    if design in (_GROUPED, _PKS):
        released = _list_shrink(s, wanted)
    elif design in (_INTENDED, _PUBLISHED, _WHOLE):
        released = _cache_shrink(s, wanted, design)
    s.counts[_C_ASKED] += wanted
    s.counts[_C_RELEASED] += released
    return released


def _serve_block(s: Engine, design: int, order: int, recorded: int) -> int:
    """One block from the designs that hand out blocks; -1 where it fails."""
    if design == _NONE:
        return recorded if recorded >= 0 else zone_allocate(s, order, _UNMOVABLE)
    if design == _MIGRATE:
        return _migrate_allocate(s, order)
    page = _cache_smallest(s, order)
    if page >= 0:
        s.counts[_C_HITS] += 1
    elif _cache_refill(s, order, design):
        page = _cache_smallest(s, order)
    return page


def _serve_page(s: Engine, design: int, owner: int) -> int:
    """One page from the designs that hand out single pages; -1 where it fails."""
    if design == _POOL:
        return _pool_take(s, owner)
    return _list_take(s, design == _PKS)


def _put_page(s: Engine, design: int, owner: int, page: int) -> None:
    if design == _POOL:
        _pool_put(s, owner, page)
        return
    if design == _GROUPED:
        _default_pages(s, page, 1)
    _list_put(s, page)


def _count_exposed(s: Engine, page: int, nr_pages: int) -> None:
    for i in range(page, page + nr_pages):
        if s.changed[i] == _DEFAULT:
            s.counts[_C_EXPOSED] += 1


def _allocate_ordinary(s: Engine, design: int, ident: int, order: int, flags: int) -> None:
    kind = _UNMOVABLE if flags & _FIXED else _MOVABLE
    page = zone_allocate(s, order, kind)
    rounds = 0
    while page < 0 and rounds < _RECLAIM_ROUNDS and _shrink(s, design, _RECLAIM_BATCH) > 0:
        page = zone_allocate(s, order, kind)
        rounds += 1
    if page < 0:
        s.counts[_C_FAILED] += 1
        return
    s.held[s.slot[ident]] = page
    s.held_order[ident] = order
    s.held_as[ident] = _HELD_ORDINARY
    s.counts[_C_HELD] += 1 << order


def _allocate(s: Engine, design: int, ident: int, order: int, flags: int, owner: int, recorded: int) -> None:
    nr_pages = 1 << order
    slot = s.slot[ident]
    s.counts[_C_REQUESTS] += 1
    if design in (_GROUPED, _PKS, _POOL):
        if not _allocate_pages(s, design, slot, nr_pages, flags, owner):
            s.counts[_C_FAILED] += 1
            return
        s.held_as[ident] = _HELD_PAGES
    else:
        page = recorded if flags & _IN_USE else _serve_block(s, design, order, recorded)
        if page < 0:
            s.counts[_C_FAILED] += 1
            return
        if design == _MIGRATE or (design == _NONE and flags & _HIDDEN):
            _hide_pages(s, page, nr_pages)
        if flags & _HIDDEN:
            _count_exposed(s, page, nr_pages)
        s.held[slot] = page
        s.held_as[ident] = _HELD_RECORDED if design == _NONE and recorded >= 0 else _HELD_BLOCK
    s.held_order[ident] = order
    s.counts[_C_HELD] += nr_pages


def _allocate_pages(s: Engine, design: int, slot: int, nr_pages: int, flags: int, owner: int) -> bool:
    """Page by page, for a design that has no blocks; False: there are not as many, and none is taken."""
    for i in range(nr_pages):
        page = _serve_page(s, design, owner)
        if page < 0:
            for j in range(i):
                _put_page(s, design, owner, s.held[slot + j])
            return False
        s.held[slot + i] = page
    if flags & _HIDDEN:
        for i in range(nr_pages):
            page = s.held[slot + i]
            if design == _GROUPED:
                _hide_pages(s, page, 1)
            _count_exposed(s, page, 1)
    return True


def _free(s: Engine, design: int, ident: int, owner: int) -> None:
    how = s.held_as[ident]
    if how == 0:
        return
    order = s.held_order[ident]
    nr_pages = 1 << order
    slot = s.slot[ident]
    page = s.held[slot]
    s.held_as[ident] = 0
    s.counts[_C_HELD] -= nr_pages
    if how == _HELD_ORDINARY:
        if design == _PUBLISHED and s.block_bit[page >> _PMD] == 1:
            # The block's bit outlived the cache's pages, or was set for a part: mapped pages end up in the cache.
            s.counts[_C_CAPTURED] += nr_pages
            _cache_free(s, page, order)
        else:
            zone_free(s, page, order, False)
    elif how == _HELD_PAGES:
        for i in range(nr_pages):
            _put_page(s, design, owner, s.held[slot + i])
    elif design in (_INTENDED, _PUBLISHED, _WHOLE):
        if s.nr_refills > 0 and _cache_has(s, page, order):
            s.counts[_C_OUTSIDE] += 1
        else:
            _cache_free(s, page, order)
    else:
        _default_pages(s, page, nr_pages)
        if how == _HELD_BLOCK:
            zone_free(s, page, order, False)


def _change(s: Engine, ident: int) -> None:
    """Other permissions for a block: each page is changed where it still has the default ones."""
    how = s.held_as[ident]
    if how == 0:
        return
    flush = False
    slot = s.slot[ident]
    first = s.held[slot]
    for i in range(1 << s.held_order[ident]):
        page = s.held[slot + i] if how == _HELD_PAGES else first + i
        if s.changed[page] == _DEFAULT:
            s.counts[_C_OPERATIONS] += 1
            _set_page(s, page, _OTHER_PERMISSION)
            flush = True
    if flush:
        s.counts[_C_FLUSHES] += 1


def _change_range(s: Engine, what: int, flags: int, first: int, nr_pages: int) -> None:
    if first < 0 or first + nr_pages > s.nr_pages or s.level[first >> _PMD] == 0:
        s.counts[_C_OUTSIDE] += 1
        return
    value = _DEFAULT
    if what == _CHANGE_RANGE:
        value = _ABSENT if flags & _HIDDEN else _OTHER_PERMISSION
    _set_range(s, first, nr_pages, value)


def run(
    s: Engine,
    design: int,
    op: Any,
    ident: Any,
    order: Any,
    flags: Any,
    owner: Any,
    pfn: Any,
    nr_pages: Any,
    use_recorded: bool,
    begin: int,
    end: int,
) -> None:
    """Serve requests [begin, end): arrays of Requests. ``use_recorded``: NONE takes the recorded places."""
    for i in range(begin, end):
        what = op[i]
        who = ident[i]
        if what == _ALLOCATE:
            if flags[i] & _ORDINARY:
                _allocate_ordinary(s, design, who, order[i], flags[i])
            else:
                place = pfn[i] if use_recorded or flags[i] & _IN_USE else -1
                _allocate(s, design, who, order[i], flags[i], owner[i], place)
        elif what == _FREE:
            _free(s, design, who, owner[i])
        elif what == _CHANGE:
            _change(s, who)
        elif what in (_CHANGE_RANGE, _RESTORE_RANGE):
            _change_range(s, what, flags[i], pfn[i], nr_pages[i])
        elif what == _SHRINK:
            _shrink(s, design, nr_pages[i])
        elif what == _CLOSE and design == _POOL:
            _pool_close(s, owner[i])
        if s.counts[_C_CACHE] > s.counts[_C_CACHE_PEAK]:
            s.counts[_C_CACHE_PEAK] = s.counts[_C_CACHE]
