# SPDX-License-Identifier: Apache-2.0
# C types for loops.py. Fields of records are read where they lie: strided, and perhaps not writable.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cimport cython

cdef int64_t _TASK, _STACK, _SPLIT, _SET_DIRECT_MAP, _REFILL, _ALLOC, _FREE, _RELEASE, _REFILL_UNDONE, _FAILED, _NR_ORDERS
cdef int64_t _MAX_OPEN, _MAX_PAGES, _PMD_ORDER, _PAGE_MASK, _USED, _MAX_REGIONS, _EVENTS, _ALLOCATED, _FREED, _SET_DIRECT_MAP_CALLS, _SPLITS, _REFILLS

cdef int64_t _WORDS_PER_ROW
cdef uint64_t _ALL_BITS, _EVERY_BYTE, _EVEN_BYTES, _EVERY_PAIR

cdef class Fields:
    cdef readonly int64_t nr
    cdef const uint8_t[:] kind, order
    cdef const uint64_t[:] pfn
    cdef const uint32_t[:] nr_pages, tid, tgid
    cdef const int32_t[:] aux
    cdef const uint16_t[:] flags

cdef class Found:
    cdef public int64_t nr_found, nr_unclean, nr_bad
    cdef int64_t[::1] record, pfn, nr_pages, unclean
    cdef uint8_t[::1] verdict, state

cdef bint _is_of_block(Fields fields, int64_t i, int64_t kind, const uint8_t[::1] result) noexcept
cpdef bint is_good_block(uint64_t first, int64_t nr_pages) noexcept
@cython.locals(i=int64_t, n=int64_t, region=int64_t, last=int64_t)
cpdef int64_t regions_without_slot(Fields fields, int64_t begin, int64_t end, int32_t[::1] slot, const uint8_t[::1] result, int64_t[::1] out) except -1
@cython.locals(i=int64_t, kind=int64_t, nr_pages=int64_t, first=uint64_t, region=int64_t, last=int64_t, order=int64_t)
cpdef int64_t apply_cache(Fields fields, int64_t begin, int64_t end, int32_t[::1] slot, uint8_t[::1] pages, uint8_t[::1] dirty, const uint8_t[::1] result, const uint8_t[:, ::1] verdicts, int64_t[:, ::1] tally, Found found) except -1
@cython.locals(worst=int64_t, nr_wrong=int64_t, wrong_page=int64_t, wrong_state=int64_t, used=int64_t, after=uint8_t, page=int64_t, end=int64_t, row=int64_t, at=int64_t, before=uint8_t, verdict=int64_t, n=int64_t)
cpdef void apply_block(int64_t record, int64_t kind, int64_t first, int64_t nr_pages, int64_t aux, int32_t[::1] slot, uint8_t[::1] pages, uint8_t[::1] dirty, const uint8_t[::1] result, const uint8_t[:, ::1] verdicts, Found found) noexcept
cdef void _end_refill(int64_t ref, int64_t i, int64_t[::1] ends, int64_t[::1] carried) noexcept
cdef void _close_gap(int64_t[::1] array, int64_t at, int64_t end) noexcept
@cython.locals(n=int64_t, i=int64_t, kind=int64_t, tid=int64_t, at=int64_t, nr_given_up=int64_t)
cpdef int64_t refill_ends(Fields fields, int64_t[::1] open_tid, int64_t[::1] open_ref, int64_t nr_open, int64_t[::1] index, int64_t[::1] ends, int64_t[::1] carried) except -1
@cython.locals(nr_open=int64_t, following=int64_t, i=int64_t, record=int64_t, kept=int64_t, at=int64_t, found=uint8_t, refill=int64_t)
cpdef void refills_under_way(const int64_t[::1] begins, const int64_t[::1] ends, const int64_t[::1] firsts, const int64_t[::1] sizes, const int64_t[::1] records, const int64_t[::1] pfns, uint8_t[::1] out, int64_t[::1] window) noexcept
@cython.locals(i=int64_t, kind=int64_t, tgid=int64_t, row=int64_t)
cpdef int64_t count_by_process(Fields fields, int64_t begin, int64_t end, int64_t max_tgid, int32_t[::1] row_of, int64_t[:, ::1] sums) except -1
cdef inline void _count_call(int64_t[:, ::1] sums, int64_t row, int64_t kind) noexcept
@cython.locals(run=int64_t, longest=int64_t, end=int64_t, nr_stranded=int64_t, start=int64_t, i=int64_t, level=uint8_t)
cpdef int64_t sum_levels(const uint8_t[::1] levels, const int32_t[::1] slot, const uint8_t[::1] was_split, const uint8_t[::1] was_absent, int64_t k4, const uint8_t[::1] whole, int64_t[::1] counts) except -1
@cython.locals(pairs=uint64_t)
cdef uint64_t _sum_of_bytes(uint64_t word) noexcept
@cython.locals(i=int64_t, row=int64_t, ones=uint64_t, twos=uint64_t, at=int64_t, word=uint64_t)
cpdef void count_pages(const uint64_t[:, ::1] words, const int64_t[::1] slots, int16_t[::1] absent, int16_t[::1] present) noexcept
@cython.locals(nr_used=int64_t, nr_touched=int64_t, nr_absent=int64_t, nr_present=int64_t, i=int64_t)
cpdef void sum_slots(const int64_t[::1] region_of, const int16_t[::1] absent, const int16_t[::1] present, int64_t begin, int64_t end, int64_t[::1] sums) noexcept
