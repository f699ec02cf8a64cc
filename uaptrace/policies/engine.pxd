# SPDX-License-Identifier: Apache-2.0
# C types for engine.py. A local that is missing here is merely slow; sizes are those of layout.State.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t

cimport cython

cdef int64_t _NR_ORDERS, _TOP, _PMD, _REGION, _GIGA, _K4, _M2, _G1, _ABSENT, _DEFAULT, _OTHER_PERMISSION, _UNMOVABLE, _MOVABLE
cdef int64_t _RECLAIMABLE, _UNMAPPED, _CACHE_LISTS, _PAGE_LIST, _NONE, _MIGRATE, _GROUPED, _PKS, _POOL, _PUBLISHED, _INTENDED, _WHOLE
cdef int64_t _ALLOCATE, _FREE, _CHANGE, _CHANGE_RANGE, _RESTORE_RANGE, _SHRINK, _CLOSE, _HIDDEN, _ORDINARY, _FIXED, _IN_USE
cdef int64_t _C_SPLIT_2M, _C_SPLIT_1G, _C_OPERATIONS, _C_PAGES_CHANGED, _C_FLUSHES, _C_TOUCHED, _C_TOUCHED_NOW, _C_STRANDED, _C_4K
cdef int64_t _C_2M, _C_1G, _C_CACHE, _C_CACHE_PEAK, _C_HELD, _C_FAILED, _C_EXPOSED, _C_CAPTURED, _C_MIGRATED, _C_FALLBACKS, _C_ASKED
cdef int64_t _C_RELEASED, _C_CHANGED, _C_OUTSIDE, _C_QUEUE, _C_CMA, _C_HITS, _C_REQUESTS, _C_REFILLS, _C_RELEASES, _RECLAIM_ROUNDS
cdef int64_t _RECLAIM_BATCH, _HELD_BLOCK, _HELD_PAGES, _HELD_ORDINARY, _HELD_RECORDED

cdef class Engine:
    cdef int64_t nr_pages, nr_regions, nr_refills
    cdef int32_t[::1] nxt, prv, nr_changed, held, owner_free, owner_chunk, chunk_next, cma_busy
    cdef int8_t[::1] zorder, corder
    cdef uint8_t[::1] changed, uniform, block_type, block_bit, level, touched, held_as, held_order, owner_closed
    cdef int64_t[::1] zfree, cfree, slot, owner_held, counts, refill_pfn, refill_order

@cython.locals(first=int64_t)
cdef void _add(Engine s, int64_t head, int64_t page) noexcept
@cython.locals(last=int64_t)
cdef void _add_tail(Engine s, int64_t head, int64_t page) noexcept
@cython.locals(after=int64_t, before=int64_t)
cdef void _remove(Engine s, int64_t page) noexcept
@cython.locals(head=int64_t)
cdef void _zone_add(Engine s, int64_t page, int64_t order, int64_t kind, bint tail) noexcept
cdef void _zone_remove(Engine s, int64_t page) noexcept
cdef void _zone_expand(Engine s, int64_t page, int64_t low, int64_t high, int64_t kind) noexcept
@cython.locals(current=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t _zone_smallest(Engine s, int64_t order, int64_t kind) noexcept
@cython.locals(end=int64_t, moved=int64_t, nr_pages=int64_t, order=int64_t)
cdef int64_t _move_block(Engine s, int64_t page, int64_t kind) noexcept
cdef int64_t _fallback_type(int64_t kind, int64_t i) noexcept
@cython.locals(block=int64_t, moved=int64_t, nr_pages=int64_t)
cdef void _zone_steal(Engine s, int64_t page, int64_t order, int64_t kind, bint whole) noexcept
@cython.locals(candidate=int64_t, current=int64_t, i=int64_t, j=int64_t, lesser=int64_t, nr_pages=int64_t, other=int64_t, page=int64_t, small=int64_t, whole=bint)
cdef bint _zone_fallback(Engine s, int64_t order, int64_t kind) noexcept
@cython.locals(page=int64_t)
cpdef int64_t zone_allocate(Engine s, int64_t order, int64_t kind) noexcept
@cython.locals(buddy=int64_t, higher=int64_t, kind=int64_t, other=int64_t, tail=bint)
cpdef void zone_free(Engine s, int64_t page, int64_t order, bint to_tail) noexcept
cdef int64_t _is_stranded(Engine s, int64_t region) noexcept
@cython.locals(first=int64_t, i=int64_t, split=int64_t)
cdef void _split_1g(Engine s, int64_t region) noexcept
@cython.locals(after=int64_t)
cdef void _note(Engine s, int64_t region, int64_t before, int64_t stranded) noexcept
@cython.locals(before=int64_t, old=int64_t, region=int64_t, stranded=int64_t)
cdef bint _set_page(Engine s, int64_t page, int64_t value) noexcept
@cython.locals(before=int64_t, differing=int32_t, first=int64_t, page=int64_t, stranded=int64_t)
cdef void _set_region(Engine s, int64_t region, int64_t value, bint split_1g) noexcept
@cython.locals(aligned=bint, end=int64_t, giga=int64_t, i=int64_t, page=int64_t, region=int64_t, whole=bint)
cdef void _set_range(Engine s, int64_t first, int64_t nr_pages, int64_t value) noexcept
@cython.locals(old=int64_t)
cdef bint _default_page(Engine s, int64_t page) noexcept
@cython.locals(flush=bint, i=int64_t)
cdef void _default_pages(Engine s, int64_t page, int64_t nr_pages) noexcept
@cython.locals(i=int64_t)
cdef void _hide_pages(Engine s, int64_t page, int64_t nr_pages) noexcept
cdef void _cache_add(Engine s, int64_t page, int64_t order) noexcept
cdef void _cache_remove(Engine s, int64_t page) noexcept
@cython.locals(buddy=int64_t)
cdef void _cache_free(Engine s, int64_t page, int64_t order) noexcept
@cython.locals(inside=int64_t, larger=int64_t)
cdef bint _cache_has(Engine s, int64_t page, int64_t order) noexcept
@cython.locals(current=int64_t, high=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t _cache_smallest(Engine s, int64_t order) noexcept
@cython.locals(chunk=int64_t, page=int64_t, published=bint, queue=int64_t)
cdef bint _cache_refill(Engine s, int64_t order, int64_t design) noexcept
@cython.locals(flush=bint, i=int64_t, nr_pages=int64_t, order=int64_t, published=bint)
cdef int64_t _cache_release(Engine s, int64_t page, int64_t design) noexcept
@cython.locals(freed=int64_t, nr_pages=int64_t, order=int64_t, page=int64_t, published=bint, released=int64_t)
cdef int64_t _cache_shrink(Engine s, int64_t wanted, int64_t design) noexcept
cdef void _list_put(Engine s, int64_t page) noexcept
@cython.locals(i=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t _list_take(Engine s, bint protect) noexcept
@cython.locals(nr_pages=int64_t, page=int64_t, released=int64_t)
cdef int64_t _list_shrink(Engine s, int64_t wanted) noexcept
@cython.locals(_=int64_t, last=int64_t, occupied=int64_t, page=int64_t, region=int64_t)
cdef int64_t _pool_chunk(Engine s) noexcept
@cython.locals(first=int64_t, i=int64_t, page=int64_t, region=int64_t)
cdef int64_t _pool_take(Engine s, int64_t owner) noexcept
@cython.locals(region=int64_t)
cdef void _pool_destroy(Engine s, int64_t owner) noexcept
cdef void _pool_put(Engine s, int64_t owner, int64_t page) noexcept
cdef void _pool_close(Engine s, int64_t owner) noexcept
@cython.locals(block=int64_t, current=int64_t, i=int64_t, keep=int64_t, kind=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t _migrate_allocate(Engine s, int64_t order) noexcept
@cython.locals(released=int64_t)
cdef int64_t _shrink(Engine s, int64_t design, int64_t wanted) noexcept
@cython.locals(page=int64_t)
cdef int64_t _serve_block(Engine s, int64_t design, int64_t order, int64_t recorded) noexcept
cdef int64_t _serve_page(Engine s, int64_t design, int64_t owner) noexcept
cdef void _put_page(Engine s, int64_t design, int64_t owner, int64_t page) noexcept
@cython.locals(i=int64_t)
cdef void _count_exposed(Engine s, int64_t page, int64_t nr_pages) noexcept
@cython.locals(kind=int64_t, page=int64_t, rounds=int64_t)
cdef void _allocate_ordinary(Engine s, int64_t design, int64_t ident, int64_t order, int64_t flags) noexcept
@cython.locals(nr_pages=int64_t, page=int64_t, slot=int64_t)
cdef void _allocate(Engine s, int64_t design, int64_t ident, int64_t order, int64_t flags, int64_t owner, int64_t recorded) noexcept
@cython.locals(i=int64_t, j=int64_t, page=int64_t)
cdef bint _allocate_pages(Engine s, int64_t design, int64_t slot, int64_t nr_pages, int64_t flags, int64_t owner) noexcept
@cython.locals(how=int64_t, i=int64_t, nr_pages=int64_t, order=int64_t, page=int64_t, slot=int64_t)
cdef void _free(Engine s, int64_t design, int64_t ident, int64_t owner) noexcept
@cython.locals(first=int64_t, flush=bint, how=int64_t, i=int64_t, page=int64_t, slot=int64_t)
cdef void _change(Engine s, int64_t ident) noexcept
@cython.locals(value=int64_t)
cdef void _change_range(Engine s, int64_t what, int64_t flags, int64_t first, int64_t nr_pages) noexcept
@cython.locals(i=int64_t, place=int64_t, what=int64_t, who=int64_t)
cpdef void run(Engine s, int64_t design, const uint8_t[::1] op, const int32_t[::1] ident, const uint8_t[::1] order, const uint8_t[::1] flags, const int32_t[::1] owner, const int64_t[::1] pfn, const int64_t[::1] nr_pages, bint use_recorded, int64_t begin, int64_t end) noexcept
