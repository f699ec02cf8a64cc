# SPDX-License-Identifier: Apache-2.0
"""The page allocator of the simulation: Linux 6.1, mm/page_alloc.c (``__rmqueue``, ``__rmqueue_fallback``, ``steal_suitable_fallback``,
``__free_one_page`` with ``buddy_merge_likely``), one zone, no per-CPU lists, no watermarks. Part of engine.py when it is compiled.
"""

from __future__ import annotations

from uaptrace.policies.engine_state import (
    MOVABLE,
    NR_ORDERS,
    PMD,
    RECLAIMABLE,
    REGION,
    TOP,
    UNMAPPED,
    UNMOVABLE,
    Engine,
    add_page,
    add_page_tail,
    remove_page,
)


def zone_add(s: Engine, page: int, order: int, kind: int, tail: bool) -> None:
    head = s.nr_pages + kind * NR_ORDERS + order
    if tail:
        add_page_tail(s, head, page)
    else:
        add_page(s, head, page)
    s.zorder[page] = order
    s.zfree[order] += 1


def zone_remove(s: Engine, page: int) -> None:
    remove_page(s, page)
    s.zfree[s.zorder[page]] -= 1
    s.zorder[page] = -1


def zone_expand(s: Engine, page: int, low: int, high: int, kind: int) -> None:
    """Keep the lowest part, put the upper halves on the lists: expand()."""
    while high > low:
        high -= 1
        zone_add(s, page + (1 << high), high, kind, False)


def zone_smallest(s: Engine, order: int, kind: int) -> int:
    """__rmqueue_smallest(): -1 where that type has nothing."""
    nr_pages = s.nr_pages
    for current in range(order, NR_ORDERS):
        page = s.nxt[nr_pages + kind * NR_ORDERS + current]
        if page < nr_pages:
            zone_remove(s, page)
            zone_expand(s, page, order, current, kind)
            return page
    return -1


def move_block(s: Engine, page: int, kind: int) -> int:
    """move_freepages_block(): all free pages of the page's block go to the lists of ``kind``; their number."""
    nr_pages = s.nr_pages
    page = page & ~(REGION - 1)
    end = page + REGION
    moved = 0
    while page < end:
        order = s.zorder[page]
        if order < 0:
            page += 1
            continue
        remove_page(s, page)
        add_page_tail(s, nr_pages + kind * NR_ORDERS + order, page)
        moved += 1 << order
        page += 1 << order
    return moved


def _fallback_type(kind: int, i: int) -> int:
    """The table ``fallbacks`` of 6.1; for MIGRATE_UNMAPPED the order of its message."""
    if kind == UNMOVABLE:
        return RECLAIMABLE if i == 0 else MOVABLE
    if kind == MOVABLE:
        return RECLAIMABLE if i == 0 else UNMOVABLE
    return UNMOVABLE if i == 0 else MOVABLE


def _zone_steal(s: Engine, page: int, order: int, kind: int, whole: bool) -> None:
    """steal_suitable_fallback() of a free block that is on a list of another type."""
    nr_pages = s.nr_pages
    if order >= PMD:
        for block in range(page >> PMD, (page + (1 << order)) >> PMD):
            s.block_type[block] = kind
    elif whole:
        moved = move_block(s, page, kind)
        if moved >= REGION // 2:
            s.block_type[page >> PMD] = kind
        return
    remove_page(s, page)
    add_page_tail(s, nr_pages + kind * NR_ORDERS + order, page)


def _zone_fallback(s: Engine, order: int, kind: int) -> bool:
    """__rmqueue_fallback(): take over a block of another type, the largest first."""
    nr_pages = s.nr_pages
    for current in range(TOP, order - 1, -1):
        if s.zfree[current] == 0:
            continue
        for i in range(2):
            other = _fallback_type(kind, i)
            page = s.nxt[nr_pages + other * NR_ORDERS + current]
            if page >= nr_pages:
                continue
            whole = current >= PMD // 2 or kind != MOVABLE
            if not whole and current > order:
                # The block would stay of its type: rather break up the smallest that is large enough.
                for small in range(order, current):
                    for j in range(2):
                        lesser = _fallback_type(kind, j)
                        candidate = s.nxt[nr_pages + lesser * NR_ORDERS + small]
                        if candidate < nr_pages:
                            _zone_steal(s, candidate, small, kind, False)
                            return True
            _zone_steal(s, page, current, kind, whole)
            return True
    return False


def zone_allocate(s: Engine, order: int, kind: int) -> int:
    """First page of a block of ``order`` from the page allocator, -1 where it has none."""
    page = zone_smallest(s, order, kind)
    if page < 0 and _zone_fallback(s, order, kind):
        page = zone_smallest(s, order, kind)
    if page < 0 and kind != UNMAPPED:
        page = zone_smallest(s, order, UNMAPPED)  # "others may fall back into the block last"
    return page


def zone_free(s: Engine, page: int, order: int, to_tail: bool) -> None:
    """__free_one_page(): merge with free buddies, then to the head of the list, or the tail where a merge is likely."""
    kind = s.block_type[page >> PMD]
    while order < TOP:
        buddy = page ^ (1 << order)
        if s.zorder[buddy] != order:
            break
        if order >= PMD:
            other = s.block_type[buddy >> PMD]
            # From UNMAPPED on they are not mergeable.
            if other != kind and max(other, kind) >= UNMAPPED:
                break
        zone_remove(s, buddy)
        page = page & buddy
        order += 1
    tail = to_tail
    if not tail and order < TOP - 1:
        higher = page & ~(1 << order)
        tail = s.zorder[higher ^ (1 << (order + 1))] == order + 1
    zone_add(s, page, order, kind, tail)
