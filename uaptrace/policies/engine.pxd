# SPDX-License-Identifier: Apache-2.0
# C types for engine.py. A local that is missing here is merely slow; sizes are those of layout.State.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t

cimport cython

cdef int64_t NR_ORDERS, TOP, PMD, REGION, GIGA, K4, M2, G1, ABSENT, DEFAULT, OTHER_PERMISSION, UNMOVABLE, MOVABLE
cdef int64_t RECLAIMABLE, UNMAPPED, FREETYPE_UNMAPPED, CACHE_LISTS, PAGE_LIST, NONE, MIGRATE, GROUPED, PKS, POOL, PUBLISHED, INTENDED, WHOLE, FREETYPE
cdef int64_t ALLOCATE, FREE, CHANGE, CHANGE_RANGE, RESTORE_RANGE, SHRINK, CLOSE, HIDDEN, ORDINARY, FIXED, IN_USE
cdef int64_t C_SPLIT_2M, C_SPLIT_1G, C_OPERATIONS, C_PAGES_CHANGED, C_FLUSHES, C_TOUCHED, C_TOUCHED_NOW, C_STRANDED, C_4K
cdef int64_t C_2M, C_1G, C_CACHE, C_CACHE_PEAK, C_HELD, C_FAILED, C_EXPOSED, C_CAPTURED, C_MIGRATED, C_FALLBACKS, C_ASKED
cdef int64_t C_RELEASED, C_CHANGED, C_OUTSIDE, C_QUEUE, C_CMA, C_HITS, C_REQUESTS, C_REFILLS, C_RELEASES, RECLAIM_ROUNDS
cdef int64_t RECLAIM_BATCH, HELD_BLOCK, HELD_PAGES, HELD_ORDINARY, HELD_RECORDED

cdef class Engine:
    cdef int64_t nr_pages, nr_regions, nr_refills
    cdef int32_t[::1] nxt, prv, nr_changed, held, owner_free, owner_chunk, chunk_next, cma_busy
    cdef int8_t[::1] zorder, corder
    cdef uint8_t[::1] changed, uniform, block_type, block_bit, level, touched, held_as, held_order, owner_closed
    cdef int64_t[::1] zfree, cfree, slot, owner_held, counts, refill_pfn, refill_order

@cython.locals(first=int64_t)
cdef void add_page(Engine s, int64_t head, int64_t page) noexcept
@cython.locals(last=int64_t)
cdef void add_page_tail(Engine s, int64_t head, int64_t page) noexcept
@cython.locals(after=int64_t, before=int64_t)
cdef void remove_page(Engine s, int64_t page) noexcept
@cython.locals(head=int64_t)
cdef void zone_add(Engine s, int64_t page, int64_t order, int64_t kind, bint tail) noexcept
cdef void zone_remove(Engine s, int64_t page) noexcept
cdef void zone_expand(Engine s, int64_t page, int64_t low, int64_t high, int64_t kind) noexcept
@cython.locals(current=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t zone_smallest(Engine s, int64_t order, int64_t kind) noexcept
@cython.locals(end=int64_t, moved=int64_t, nr_pages=int64_t, order=int64_t)
cdef int64_t move_block(Engine s, int64_t page, int64_t kind) noexcept
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
cdef bint set_page(Engine s, int64_t page, int64_t value) noexcept
@cython.locals(before=int64_t, differing=int32_t, first=int64_t, page=int64_t, stranded=int64_t)
cdef void _set_region(Engine s, int64_t region, int64_t value, bint split_1g) noexcept
@cython.locals(aligned=bint, end=int64_t, giga=int64_t, i=int64_t, page=int64_t, region=int64_t, whole=bint)
cdef void set_range(Engine s, int64_t first, int64_t nr_pages, int64_t value) noexcept
@cython.locals(old=int64_t)
cdef bint default_page(Engine s, int64_t page) noexcept
@cython.locals(flush=bint, i=int64_t)
cdef void default_pages(Engine s, int64_t page, int64_t nr_pages) noexcept
@cython.locals(i=int64_t)
cdef void hide_pages(Engine s, int64_t page, int64_t nr_pages) noexcept
cdef void _cache_add(Engine s, int64_t page, int64_t order) noexcept
cdef void _cache_remove(Engine s, int64_t page) noexcept
@cython.locals(buddy=int64_t)
cdef void cache_free(Engine s, int64_t page, int64_t order) noexcept
@cython.locals(inside=int64_t, larger=int64_t)
cdef bint cache_has(Engine s, int64_t page, int64_t order) noexcept
@cython.locals(current=int64_t, high=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t cache_smallest(Engine s, int64_t order) noexcept
@cython.locals(chunk=int64_t, page=int64_t, published=bint, queue=int64_t)
cdef bint cache_refill(Engine s, int64_t order, int64_t design) noexcept
@cython.locals(flush=bint, i=int64_t, nr_pages=int64_t, order=int64_t, published=bint)
cdef int64_t _cache_release(Engine s, int64_t page, int64_t design) noexcept
@cython.locals(freed=int64_t, nr_pages=int64_t, order=int64_t, page=int64_t, published=bint, released=int64_t)
cdef int64_t cache_shrink(Engine s, int64_t wanted, int64_t design) noexcept
cdef void list_put(Engine s, int64_t page) noexcept
@cython.locals(i=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t list_take(Engine s, bint protect) noexcept
@cython.locals(nr_pages=int64_t, page=int64_t, released=int64_t)
cdef int64_t list_shrink(Engine s, int64_t wanted) noexcept
@cython.locals(_=int64_t, last=int64_t, occupied=int64_t, page=int64_t, region=int64_t)
cdef int64_t _pool_chunk(Engine s) noexcept
@cython.locals(first=int64_t, i=int64_t, page=int64_t, region=int64_t)
cdef int64_t pool_take(Engine s, int64_t owner) noexcept
@cython.locals(region=int64_t)
cdef void _pool_destroy(Engine s, int64_t owner) noexcept
cdef void pool_put(Engine s, int64_t owner, int64_t page) noexcept
cdef void pool_close(Engine s, int64_t owner) noexcept
@cython.locals(block=int64_t, current=int64_t, i=int64_t, keep=int64_t, kind=int64_t, nr_pages=int64_t, page=int64_t)
cdef int64_t migrate_allocate(Engine s, int64_t order) noexcept
@cython.locals(block=int64_t, nr_blocks=int64_t)
cdef void _freetype_flip(Engine s, int64_t page, int64_t order, int64_t value, int64_t kind) noexcept
@cython.locals(chunk=int64_t, page=int64_t)
cdef int64_t freetype_allocate(Engine s, int64_t order) noexcept
@cython.locals(chunk=int64_t, page=int64_t)
cdef int64_t freetype_restore(Engine s, int64_t order) noexcept
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
