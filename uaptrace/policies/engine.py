# SPDX-License-Identifier: Apache-2.0
"""Requests, and what each design does for one: the part of the simulation that each request runs through.

Cython compiles this file together with those that it imports from, when uaptrace is installed (setup.py; engine.pxd has the C types).
"""

from __future__ import annotations

from typing import Any

from uaptrace.policies.caches import (
    cache_free,
    cache_has,
    cache_refill,
    cache_shrink,
    cache_smallest,
    freetype_allocate,
    freetype_restore,
    list_put,
    list_shrink,
    list_take,
    migrate_allocate,
    pool_close,
    pool_put,
    pool_take,
)
from uaptrace.policies.engine_state import (
    ABSENT,
    ALLOCATE,
    C_ASKED,
    C_CACHE,
    C_CACHE_PEAK,
    C_CAPTURED,
    C_EXPOSED,
    C_FAILED,
    C_FLUSHES,
    C_HELD,
    C_HITS,
    C_OPERATIONS,
    C_OUTSIDE,
    C_RELEASED,
    C_REQUESTS,
    CHANGE,
    CHANGE_RANGE,
    CLOSE,
    DEFAULT,
    FIXED,
    FREE,
    FREETYPE,
    GROUPED,
    HELD_BLOCK,
    HELD_ORDINARY,
    HELD_PAGES,
    HELD_RECORDED,
    HIDDEN,
    IN_USE,
    INTENDED,
    MIGRATE,
    MOVABLE,
    NONE,
    ORDINARY,
    OTHER_PERMISSION,
    PKS,
    PMD,
    POOL,
    PUBLISHED,
    RECLAIM_BATCH,
    RECLAIM_ROUNDS,
    RESTORE_RANGE,
    SHRINK,
    UNMOVABLE,
    WHOLE,
    Engine,
    view,
)
from uaptrace.policies.mappings import default_pages, hide_pages, set_page, set_range
from uaptrace.policies.page_allocator import zone_allocate, zone_free

__all__ = ["Engine", "is_compiled", "run", "view", "zone_allocate", "zone_free"]


def is_compiled() -> bool:
    """Whether this is the compiled form."""
    return not __file__.endswith(".py")


def _shrink(s: Engine, design: int, wanted: int) -> int:
    """The design's shrinker; 0 for designs that have none."""
    released = 0
    if design in (GROUPED, PKS):
        released = list_shrink(s, wanted)
    elif design in (INTENDED, PUBLISHED, WHOLE):
        released = cache_shrink(s, wanted, design)
    s.counts[C_ASKED] += wanted
    s.counts[C_RELEASED] += released
    return released


def _serve_block(s: Engine, design: int, order: int, recorded: int) -> int:
    """One block from the designs that hand out blocks; -1 where it fails."""
    if design == NONE:
        return recorded if recorded >= 0 else zone_allocate(s, order, UNMOVABLE)
    if design == MIGRATE:
        return migrate_allocate(s, order)
    if design == FREETYPE:
        return freetype_allocate(s, order)
    page = cache_smallest(s, order)
    if page >= 0:
        s.counts[C_HITS] += 1
    elif cache_refill(s, order, design):
        page = cache_smallest(s, order)
    return page


def _serve_page(s: Engine, design: int, owner: int) -> int:
    """One page from the designs that hand out single pages; -1 where it fails."""
    if design == POOL:
        return pool_take(s, owner)
    return list_take(s, design == PKS)


def _put_page(s: Engine, design: int, owner: int, page: int) -> None:
    if design == POOL:
        pool_put(s, owner, page)
        return
    if design == GROUPED:
        default_pages(s, page, 1)
    list_put(s, page)


def _count_exposed(s: Engine, page: int, nr_pages: int) -> None:
    for i in range(page, page + nr_pages):
        if s.changed[i] == DEFAULT:
            s.counts[C_EXPOSED] += 1


def _allocate_ordinary(s: Engine, design: int, ident: int, order: int, flags: int) -> None:
    kind = UNMOVABLE if flags & FIXED else MOVABLE
    page = zone_allocate(s, order, kind)
    if page < 0 and design == FREETYPE and kind == UNMOVABLE:
        page = freetype_restore(s, order)
    rounds = 0
    while page < 0 and rounds < RECLAIM_ROUNDS and _shrink(s, design, RECLAIM_BATCH) > 0:
        page = zone_allocate(s, order, kind)
        rounds += 1
    if page < 0:
        s.counts[C_FAILED] += 1
        return
    s.held[s.slot[ident]] = page
    s.held_order[ident] = order
    s.held_as[ident] = HELD_ORDINARY
    s.counts[C_HELD] += 1 << order


def _allocate(s: Engine, design: int, ident: int, order: int, flags: int, owner: int, recorded: int) -> None:
    nr_pages = 1 << order
    slot = s.slot[ident]
    s.counts[C_REQUESTS] += 1
    if design in (GROUPED, PKS, POOL):
        if not _allocate_pages(s, design, slot, nr_pages, flags, owner):
            s.counts[C_FAILED] += 1
            return
        s.held_as[ident] = HELD_PAGES
    else:
        page = recorded if flags & IN_USE else _serve_block(s, design, order, recorded)
        if page < 0:
            s.counts[C_FAILED] += 1
            return
        if design == MIGRATE or (design == NONE and flags & HIDDEN):
            hide_pages(s, page, nr_pages)
        if flags & HIDDEN:
            _count_exposed(s, page, nr_pages)
        s.held[slot] = page
        s.held_as[ident] = HELD_RECORDED if design == NONE and recorded >= 0 else HELD_BLOCK
    s.held_order[ident] = order
    s.counts[C_HELD] += nr_pages


def _allocate_pages(s: Engine, design: int, slot: int, nr_pages: int, flags: int, owner: int) -> bool:
    """Page by page, for a design that has no blocks; False: there are not as many, and none is taken."""
    for i in range(nr_pages):
        page = _serve_page(s, design, owner)
        if page < 0:
            for j in range(i):
                _put_page(s, design, owner, s.held[slot + j])
            return False
        s.held[slot + i] = page
    if flags & HIDDEN:
        for i in range(nr_pages):
            page = s.held[slot + i]
            if design == GROUPED:
                hide_pages(s, page, 1)
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
    s.counts[C_HELD] -= nr_pages
    if how == HELD_ORDINARY:
        if design == PUBLISHED and s.block_bit[page >> PMD] == 1:
            # The block's bit outlived the cache's pages, or was set for a part: mapped pages end up in the cache.
            s.counts[C_CAPTURED] += nr_pages
            cache_free(s, page, order)
        else:
            zone_free(s, page, order, False)
    elif how == HELD_PAGES:
        for i in range(nr_pages):
            _put_page(s, design, owner, s.held[slot + i])
    elif design in (INTENDED, PUBLISHED, WHOLE):
        if s.nr_refills > 0 and cache_has(s, page, order):
            s.counts[C_OUTSIDE] += 1
        else:
            cache_free(s, page, order)
    elif design == FREETYPE:
        s.counts[C_CACHE] += nr_pages
        zone_free(s, page, order, False)
    else:
        default_pages(s, page, nr_pages)
        if how == HELD_BLOCK:
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
        page = s.held[slot + i] if how == HELD_PAGES else first + i
        if s.changed[page] == DEFAULT:
            s.counts[C_OPERATIONS] += 1
            set_page(s, page, OTHER_PERMISSION)
            flush = True
    if flush:
        s.counts[C_FLUSHES] += 1


def _change_range(s: Engine, what: int, flags: int, first: int, nr_pages: int) -> None:
    if first < 0 or first + nr_pages > s.nr_pages or s.level[first >> PMD] == 0:
        s.counts[C_OUTSIDE] += 1
        return
    value = DEFAULT
    if what == CHANGE_RANGE:
        value = ABSENT if flags & HIDDEN else OTHER_PERMISSION
    set_range(s, first, nr_pages, value)


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
        if what == ALLOCATE:
            if flags[i] & ORDINARY:
                _allocate_ordinary(s, design, who, order[i], flags[i])
            else:
                place = pfn[i] if use_recorded or flags[i] & IN_USE else -1
                _allocate(s, design, who, order[i], flags[i], owner[i], place)
        elif what == FREE:
            _free(s, design, who, owner[i])
        elif what == CHANGE:
            _change(s, who)
        elif what in (CHANGE_RANGE, RESTORE_RANGE):
            _change_range(s, what, flags[i], pfn[i], nr_pages[i])
        elif what == SHRINK:
            _shrink(s, design, nr_pages[i])
        elif what == CLOSE and design == POOL:
            pool_close(s, owner[i])
        if s.counts[C_CACHE] > s.counts[C_CACHE_PEAK]:
            s.counts[C_CACHE_PEAK] = s.counts[C_CACHE]
