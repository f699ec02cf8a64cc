# SPDX-License-Identifier: Apache-2.0
"""Where the designs keep their pages: the messages named in docs/whatif.md; unmapped_alloc as intended is kernel/patches. Part of
engine.py when it is compiled.
"""

from __future__ import annotations

from uaptrace.policies.engine_state import (
    ABSENT,
    C_CACHE,
    C_CMA,
    C_FALLBACKS,
    C_FLUSHES,
    C_HITS,
    C_MIGRATED,
    C_OUTSIDE,
    C_QUEUE,
    C_REFILLS,
    C_RELEASES,
    CACHE_LISTS,
    DEFAULT,
    FREETYPE_UNMAPPED,
    MOVABLE,
    NR_ORDERS,
    OTHER_PERMISSION,
    PAGE_LIST,
    PMD,
    PUBLISHED,
    RECLAIMABLE,
    REGION,
    TOP,
    UNMAPPED,
    UNMOVABLE,
    WHOLE,
    Engine,
    add_page,
    remove_page,
)
from uaptrace.policies.mappings import default_page, hide_pages, set_range
from uaptrace.policies.page_allocator import move_block, zone_add, zone_allocate, zone_expand, zone_free, zone_remove, zone_smallest

# unmapped_alloc.


def _cache_add(s: Engine, page: int, order: int) -> None:
    add_page(s, s.nr_pages + CACHE_LISTS + order, page)
    s.corder[page] = order
    s.cfree[order] += 1


def _cache_remove(s: Engine, page: int) -> None:
    remove_page(s, page)
    s.cfree[s.corder[page]] -= 1
    s.corder[page] = -1


def cache_free(s: Engine, page: int, order: int) -> None:
    s.counts[C_CACHE] += 1 << order
    while order < TOP:
        buddy = page ^ (1 << order)
        if s.corder[buddy] != order:
            break
        _cache_remove(s, buddy)
        page = page & buddy
        order += 1
    _cache_add(s, page, order)


def cache_has(s: Engine, page: int, order: int) -> bool:
    """Whether any page of a block is free in the cache: true only where recorded places do not fit the requests."""
    for larger in range(NR_ORDERS):
        if s.corder[page & ~((1 << larger) - 1)] >= larger:
            return True
    inside = page + 1
    while inside < page + (1 << order) and s.corder[inside] < 0:
        inside += 1
    return inside < page + (1 << order)


def cache_smallest(s: Engine, order: int) -> int:
    """Split the smallest block that is large enough; the lowest part is handed out, -1: there is none."""
    nr_pages = s.nr_pages
    for current in range(order, NR_ORDERS):
        page = s.nxt[nr_pages + CACHE_LISTS + current]
        if page < nr_pages:
            _cache_remove(s, page)
            for high in range(current - 1, order - 1, -1):
                _cache_add(s, page + (1 << high), high)
            s.counts[C_CACHE] -= 1 << order
            return page
    return -1


def cache_refill(s: Engine, order: int, design: int) -> bool:
    """Take a chunk of PMD order, or of the largest lower order there is, and make it absent."""
    published = design == PUBLISHED
    page = -1
    chunk = -1
    queue = s.counts[C_QUEUE]
    if s.nr_refills > 0:
        if queue < s.nr_refills:
            page = s.refill_pfn[queue]
            chunk = s.refill_order[queue]
            s.counts[C_QUEUE] += 1
    else:
        # As published, a request above PMD order finds nothing to try.
        for chunk in range(PMD if published else max(order, PMD), order - 1, -1):
            page = zone_allocate(s, chunk, UNMOVABLE)
            if page >= 0:
                break
    if page < 0 or chunk < order:
        return False
    if s.nr_refills > 0 and cache_has(s, page, chunk):
        s.counts[C_OUTSIDE] += 1
        return False
    if chunk < PMD:
        s.counts[C_FALLBACKS] += 1
    s.counts[C_REFILLS + chunk] += 1
    # As published, only as many pages as were asked for are unmapped; the rest of the chunk is handed out mapped.
    if design == WHOLE and chunk >= PMD:
        set_range(s, page, 1 << chunk, ABSENT)
    else:
        hide_pages(s, page, 1 << order if published else 1 << chunk)
    if published:
        s.block_bit[page >> PMD] = 1
    cache_free(s, page, chunk)
    return True


def _cache_release(s: Engine, page: int, design: int) -> int:
    """Give one free block back to the page allocator, mapped; its pages."""
    published = design == PUBLISHED
    order = s.corder[page]
    _cache_remove(s, page)
    nr_pages = 1 << order
    s.counts[C_CACHE] -= nr_pages
    s.counts[C_RELEASES + order] += 1
    if published and order == PMD:
        s.block_bit[page >> PMD] = 0
    flush = False
    if design == WHOLE and order >= PMD:
        set_range(s, page, nr_pages, DEFAULT)
        s.counts[C_FLUSHES] -= 1  # what was absent is in no TLB
    else:
        for i in range(page, page + nr_pages):
            flush = default_page(s, i) or flush
    if flush:
        s.counts[C_FLUSHES] += 1
    if s.nr_refills == 0:  # else the page allocator is not part of the model
        zone_free(s, page, order, published)  # as published with FPI_TO_TAIL, as intended by __free_pages()
    return nr_pages


def cache_shrink(s: Engine, wanted: int, design: int) -> int:
    """unmapped_alloc_scan_objects(): smallest order first, whole blocks, the first of each list."""
    published = design == PUBLISHED
    nr_pages = s.nr_pages
    released = 0
    for order in range(NR_ORDERS):
        freed = 0
        # As published, what was released so far is taken off again and again for every order.
        while (freed if published else released + freed) < wanted:
            page = s.nxt[nr_pages + CACHE_LISTS + order]
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


def list_put(s: Engine, page: int) -> None:
    add_page(s, s.nr_pages + PAGE_LIST, page)
    s.counts[C_CACHE] += 1


def list_take(s: Engine, protect: bool) -> int:
    """A page of the list, else the first of a new 2M chunk, else one page on its own; -1 where there is no memory."""
    nr_pages = s.nr_pages
    page = s.nxt[nr_pages + PAGE_LIST]
    if page < nr_pages:
        remove_page(s, page)
        s.counts[C_CACHE] -= 1
        s.counts[C_HITS] += 1
        return page
    page = zone_allocate(s, PMD, UNMOVABLE)
    if page >= 0:
        s.counts[C_REFILLS + PMD] += 1
        if protect:
            set_range(s, page, REGION, OTHER_PERMISSION)
        for i in range(page + 1, page + REGION):
            list_put(s, i)
        return page
    page = zone_allocate(s, 0, UNMOVABLE)
    if page >= 0:
        s.counts[C_REFILLS] += 1
        s.counts[C_FALLBACKS] += 1
        if protect:
            set_range(s, page, 1, OTHER_PERMISSION)
    return page


def list_shrink(s: Engine, wanted: int) -> int:
    """Free single pages, the least recently used first; protected ones get their permissions back one by one."""
    nr_pages = s.nr_pages
    released = 0
    while released < wanted:
        page = s.prv[nr_pages + PAGE_LIST]
        if page >= nr_pages:
            break
        remove_page(s, page)
        s.counts[C_CACHE] -= 1
        s.counts[C_RELEASES] += 1
        if s.changed[page] != DEFAULT:
            set_range(s, page, 1, DEFAULT)
        zone_free(s, page, 0, False)
        released += 1
    return released


# The secretmem pool: 512 pages at a time out of a reserved area, for each owner.


def _pool_chunk(s: Engine) -> int:
    """Region number of 512 pages of the reserved area, the lowest that is free; -1 where there is none."""
    for region in range(s.counts[C_CMA], s.nr_regions):
        occupied = s.cma_busy[region]
        if occupied < 0:
            continue
        # Movable pages in it are migrated elsewhere, as cma_alloc() does; without room for them the chunk is not to be had.
        last = -1
        for _ in range(occupied):
            page = zone_allocate(s, 0, MOVABLE)
            if page < 0:
                while last >= 0:
                    page = last
                    last = s.nxt[page]
                    zone_free(s, page, 0, False)
                return -1
            s.nxt[page] = last
            last = page
        s.counts[C_MIGRATED] += occupied
        s.cma_busy[region] = -1
        return region
    return -1


def pool_take(s: Engine, owner: int) -> int:
    page = s.owner_free[owner]
    if page < 0:
        region = _pool_chunk(s)
        if region < 0:
            return -1
        s.counts[C_REFILLS + PMD] += 1
        s.chunk_next[region] = s.owner_chunk[owner]
        s.owner_chunk[owner] = region
        first = region << PMD
        set_range(s, first, REGION, ABSENT)
        for i in range(first + REGION - 1, first, -1):
            s.nxt[i] = s.owner_free[owner]
            s.owner_free[owner] = i
        s.counts[C_CACHE] += REGION - 1
        page = first
    else:
        s.owner_free[owner] = s.nxt[page]
        s.counts[C_CACHE] -= 1
        s.counts[C_HITS] += 1
    s.owner_held[owner] += 1
    s.owner_closed[owner] = 0
    return page


def _pool_destroy(s: Engine, owner: int) -> None:
    """Restore and release the chunks of an owner that is gone."""
    region = s.owner_chunk[owner]
    while region >= 0:
        set_range(s, region << PMD, REGION, DEFAULT)
        s.counts[C_FLUSHES] -= 1  # absent entries are in no TLB
        s.cma_busy[region] = 0
        s.counts[C_RELEASES + PMD] += 1
        s.counts[C_CACHE] -= REGION
        region = s.chunk_next[region]
    s.owner_closed[owner] = 0
    s.owner_chunk[owner] = -1
    s.owner_free[owner] = -1


def pool_put(s: Engine, owner: int, page: int) -> None:
    s.nxt[page] = s.owner_free[owner]
    s.owner_free[owner] = page
    s.counts[C_CACHE] += 1
    s.owner_held[owner] -= 1
    if s.owner_closed[owner] == 1 and s.owner_held[owner] == 0:
        _pool_destroy(s, owner)


def pool_close(s: Engine, owner: int) -> None:
    """The owner is gone; a pool with pages in use goes with the last of them."""
    if s.owner_held[owner] == 0:
        _pool_destroy(s, owner)
    else:
        s.owner_closed[owner] = 1


# MIGRATE_UNMAPPED.


def migrate_allocate(s: Engine, order: int) -> int:
    """From the unmapped free lists, else retype one more pageblock and take its free pages."""
    page = zone_smallest(s, order, UNMAPPED)
    if page >= 0:
        s.counts[C_HITS] += 1
        return page
    nr_pages = s.nr_pages
    for current in range(TOP, order - 1, -1):
        for i in range(3):
            kind = UNMOVABLE if i == 0 else RECLAIMABLE if i == 1 else MOVABLE
            page = s.nxt[nr_pages + kind * NR_ORDERS + current]
            if page >= nr_pages:
                continue
            if current >= PMD:
                keep = max(order, PMD)
                zone_remove(s, page)
                zone_expand(s, page, keep, current, kind)
                for block in range(page >> PMD, (page + (1 << keep)) >> PMD):
                    s.block_type[block] = UNMAPPED
                    s.counts[C_REFILLS + PMD] += 1
                zone_add(s, page, keep, UNMAPPED, False)
            else:
                s.block_type[page >> PMD] = UNMAPPED
                s.counts[C_REFILLS + current] += 1
                s.counts[C_FALLBACKS] += 1
                move_block(s, page, UNMAPPED)
            return zone_smallest(s, order, UNMAPPED)
    return -1


# FREETYPE_UNMAPPED: free lists of their own for blocks that are absent as a whole.


def _freetype_flip(s: Engine, page: int, order: int, value: int, kind: int) -> None:
    """One call for each pageblock, so no page table is needed for it; one flush where pages leave the direct map."""
    nr_blocks = (1 << order) >> PMD
    for block in range(page >> PMD, (page >> PMD) + nr_blocks):
        set_range(s, block << PMD, REGION, value)
        s.block_type[block] = kind
    s.counts[C_FLUSHES] -= nr_blocks - 1 if value == ABSENT else nr_blocks


def freetype_allocate(s: Engine, order: int) -> int:
    """From the lists of absent pages, else out of a mapped block of PMD order or more, which becomes absent: __rmqueue_direct_map()."""
    page = zone_smallest(s, order, FREETYPE_UNMAPPED)
    if page >= 0:
        s.counts[C_HITS] += 1
    else:
        chunk = max(order, PMD)
        page = zone_allocate(s, chunk, UNMOVABLE)
        if page < 0:
            return -1
        _freetype_flip(s, page, chunk, ABSENT, FREETYPE_UNMAPPED)
        zone_expand(s, page, order, chunk, FREETYPE_UNMAPPED)
        s.counts[C_REFILLS + chunk] += 1
        s.counts[C_CACHE] += 1 << chunk
    s.counts[C_CACHE] -= 1 << order
    return page


def freetype_restore(s: Engine, order: int) -> int:
    """The way back, for the kernel's own memory only: a free absent block of PMD order or more is mapped again; -1: there is none."""
    chunk = max(order, PMD)
    page = zone_smallest(s, chunk, FREETYPE_UNMAPPED)
    if page >= 0:
        _freetype_flip(s, page, chunk, DEFAULT, UNMOVABLE)
        zone_expand(s, page, order, chunk, UNMOVABLE)
        s.counts[C_RELEASES + chunk] += 1
        s.counts[C_CACHE] -= 1 << chunk
    return page
