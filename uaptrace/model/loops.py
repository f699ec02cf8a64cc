# SPDX-License-Identifier: Apache-2.0
"""What is done for each record one after the other: the pages of the unmapped cache, and the sums by process.

Cython compiles this file when uaptrace is installed (loops.pxd has the C types); without a C compiler the same text runs as
Python, many times more slowly and with the same result. Arrays are given as memoryviews, whose elements are whole numbers in both.
docs/performance.md says what it bought over arrays alone: a record changes what the next one finds, so numpy has to sort each
chunk by page first.
"""

from __future__ import annotations

from typing import Any

from uaptrace.abi.units import MAX_REGIONS, NR_ORDERS, PAGES_PER_2M, PMD_ORDER
from uaptrace.abi.wire import Batch

from .codes import FlagCode, KindCode

# Copies of the constants: loops.pxd makes C variables of them.
_TASK = KindCode.TASK
_STACK = KindCode.STACK
_SPLIT = KindCode.SPLIT
_SET_DIRECT_MAP = KindCode.SET_DIRECT_MAP
_REFILL = KindCode.REFILL
_ALLOC = KindCode.ALLOC
_FREE = KindCode.FREE
_RELEASE = KindCode.RELEASE
_REFILL_UNDONE = KindCode.REFILL_UNDONE
_FAILED = FlagCode.FAILED
_NR_ORDERS = NR_ORDERS
_MAX_PAGES = 1 << (NR_ORDERS - 1)
_PMD_ORDER = PMD_ORDER
_PAGE_MASK = PAGES_PER_2M - 1
_MAX_REGIONS = MAX_REGIONS

USED = 4
"""State of a page of the cache: it was handed out since it was refilled."""
_USED = USED

_WORDS_PER_ROW = PAGES_PER_2M // 8
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_EVERY_BYTE = 0x0101010101010101
_EVEN_BYTES = 0x00FF00FF00FF00FF
_EVERY_PAIR = 0x0001000100010001

EVENTS = 0
ALLOCATED = 1
FREED = 2
SET_DIRECT_MAP = 3
SPLITS = 4
REFILLS = 5
NR_SUMS = 6
"""Columns of the sums by process."""
_EVENTS = EVENTS
_ALLOCATED = ALLOCATED
_FREED = FREED
_SET_DIRECT_MAP_CALLS = SET_DIRECT_MAP
_SPLITS = SPLITS
_REFILLS = REFILLS


def is_compiled() -> bool:
    """Whether this is the compiled form."""
    return not __file__.endswith(".py")


def view(array: Any) -> Any:
    """The array as these functions want it."""
    return memoryview(array)


class Fields:
    """The fields of a batch as they lie in it: no copy. Any of the two record layouts."""

    def __init__(self, batch: Batch) -> None:
        self.nr = len(batch)
        self.kind = view(batch["kind"])
        self.pfn = view(batch["pfn"])
        self.nr_pages = view(batch["nr_pages"])
        self.tid = view(batch["tid"])
        self.tgid = view(batch["tgid"])
        self.aux = view(batch["aux"])
        self.order = view(batch["order"])
        self.flags = view(batch["flags"])


class Found:
    """What apply_cache() found in a chunk; the first ``nr_found`` and ``nr_unclean`` elements are meant.

    ``record`` int64, ``verdict`` uint8, ``pfn`` int64, ``state`` uint8, ``nr_pages`` int64: records that do not fit what their
    pages were. ``unclean`` int64: releases of blocks that were not zero, every page of which had been handed out.
    """

    def __init__(self, record: Any, pfn: Any, nr_pages: Any, unclean: Any, verdict: Any, state: Any) -> None:
        self.nr_found = 0
        self.nr_unclean = 0
        self.nr_bad = 0
        """Records of blocks that no kernel has."""
        self.record = record
        self.verdict = verdict
        self.pfn = pfn
        self.state = state
        self.nr_pages = nr_pages
        self.unclean = unclean


def _is_of_block(fields: Fields, i: int, kind: int, result: Any) -> bool:
    """Whether the record changes pages of the cache: a failed allocation does not."""
    if kind < _REFILL or kind > _REFILL_UNDONE or result[kind] == 0:
        return False
    return not (kind == _ALLOC and fields.flags[i] & _FAILED)


def is_good_block(first: int, nr_pages: int) -> bool:
    """Whether there can be such a block."""
    return 1 <= nr_pages <= _MAX_PAGES and first >> _PMD_ORDER < _MAX_REGIONS


def regions_without_slot(fields: Fields, begin: int, end: int, slot: Any, result: Any, out: Any) -> int:
    """Write the regions of the cache's records from ``begin`` on that have no slot to ``out`` (int64, three for each record at most);
    one may come again. Returns how many."""
    n = 0
    i = begin
    while i < end:
        if _is_of_block(fields, i, fields.kind[i], result) and is_good_block(fields.pfn[i], fields.nr_pages[i]):
            region = fields.pfn[i] >> _PMD_ORDER
            last = (fields.pfn[i] + fields.nr_pages[i] - 1) >> _PMD_ORDER
            while region <= last:
                if (region >= slot.shape[0] or slot[region] == 0) and (n == 0 or out[n - 1] != region):
                    out[n] = region
                    n += 1
                region += 1
        i += 1
    return n


def apply_cache(
    fields: Fields,
    begin: int,
    end: int,
    slot: Any,
    pages: Any,
    dirty: Any,
    result: Any,
    verdicts: Any,
    tally: Any,
    found: Found,
) -> int:
    """Take in the records of the unmapped cache from ``begin`` on; those of other kinds are passed over.

    ``slot`` int32 by region, ``pages`` uint8 by slot and page, ``dirty`` bool by slot: RegionPages. ``result`` uint8[16]: what a
    page is after a record of that kind, 0 for other kinds. ``verdicts`` uint8[16, 32], by kind and state before. ``tally`` int64[16, 16]:
    records by kind and order. Returns ``end``, or the position of the first record that has a region without a slot.
    """
    i = begin
    while i < end:
        kind = fields.kind[i]
        if not _is_of_block(fields, i, kind, result):
            i += 1
            continue
        nr_pages = fields.nr_pages[i]
        first = fields.pfn[i]
        if not is_good_block(first, nr_pages):
            found.nr_bad += 1
            i += 1
            continue
        region = first >> _PMD_ORDER
        last = (first + nr_pages - 1) >> _PMD_ORDER
        if last >= slot.shape[0]:
            return i
        while region <= last:
            if slot[region] == 0:
                return i
            region += 1
        order = fields.order[i]
        if order >= _NR_ORDERS:
            order = _NR_ORDERS - 1
        tally[kind, order] += 1
        apply_block(i, kind, first, nr_pages, fields.aux[i], slot, pages, dirty, result, verdicts, found)
        i += 1
    return i


def apply_block(
    record: int,
    kind: int,
    first: int,
    nr_pages: int,
    aux: int,
    slot: Any,
    pages: Any,
    dirty: Any,
    result: Any,
    verdicts: Any,
    found: Found,
) -> None:
    """One record's block, all regions of which have slots."""
    worst = 0
    nr_wrong = 0
    wrong_page = 0
    wrong_state = 0
    used = _USED
    after = result[kind]
    page = first
    end = first + nr_pages
    while page < end:
        row = slot[page >> _PMD_ORDER]
        dirty[row] = 1
        at = (row << _PMD_ORDER) | (page & _PAGE_MASK)
        before = pages[at]
        pages[at] = after
        used &= before
        verdict = verdicts[kind, before]
        if verdict:
            nr_wrong += 1
            # The worst page speaks for the record, and the first of those: CERTAIN (1) before CAPTURED (2).
            if worst == 0 or verdict < worst:
                worst = verdict
                wrong_page = page
                wrong_state = before
        page += 1
    if nr_wrong:
        n = found.nr_found
        found.record[n] = record
        found.verdict[n] = worst
        found.pfn[n] = wrong_page
        found.state[n] = wrong_state
        found.nr_pages[n] = nr_wrong
        found.nr_found = n + 1
    # Of a block the bytes of all its pages were counted together: only if each of them had an owner is it certain whose
    # they are. A page that nobody had may well have what was in it before it was refilled.
    if kind == _RELEASE and aux > 0 and used:
        found.unclean[found.nr_unclean] = record
        found.nr_unclean += 1


MAX_OPEN_REFILLS = 1024
"""Refills that are followed at a time, one for each task that is in one; the oldest are given up."""
_MAX_OPEN = MAX_OPEN_REFILLS


def refill_ends(fields: Fields, open_tid: Any, open_ref: Any, nr_open: int, index: Any, ends: Any, carried: Any) -> int:
    """Where each refill of a chunk ends: at the next REFILL, REFILL_UNDONE or successful ALLOC of its task.

    ``open_tid`` and ``open_ref`` (int64): refills under way, the first ``nr_open`` of them carried into the chunk (``open_ref`` is
    -1 - number); both have room for those and all of the chunk. ``index`` and ``ends`` (int64, one for each REFILL record) get the
    position of each and of its end, ``carried`` (int64) the ends of the carried ones; what does not end here is left alone. One that is
    given up ends where that happened. Returns how many were.
    """
    n = 0
    i = 0
    nr_given_up = 0
    while i < fields.nr:
        kind = fields.kind[i]
        if kind != _REFILL and kind != _REFILL_UNDONE and (kind != _ALLOC or nr_open == 0 or fields.flags[i] & _FAILED):
            i += 1
            continue
        tid = fields.tid[i]
        at = 0
        while at < nr_open:
            if open_tid[at] == tid:
                _end_refill(open_ref[at], i, ends, carried)
                nr_open -= 1
                _close_gap(open_tid, at, nr_open)
                _close_gap(open_ref, at, nr_open)
                break
            at += 1
        if kind == _REFILL:
            if nr_open == _MAX_OPEN:
                nr_given_up += 1
                _end_refill(open_ref[0], i, ends, carried)
                nr_open -= 1
                _close_gap(open_tid, 0, nr_open)
                _close_gap(open_ref, 0, nr_open)
            index[n] = i
            open_tid[nr_open] = tid
            open_ref[nr_open] = n
            nr_open += 1
            n += 1
        i += 1
    return nr_given_up


def _end_refill(ref: int, i: int, ends: Any, carried: Any) -> None:
    if ref < 0:
        carried[-1 - ref] = i
    else:
        ends[ref] = i


def _close_gap(array: Any, at: int, end: int) -> None:
    """The oldest stay first."""
    while at < end:
        array[at] = array[at + 1]
        at += 1


def refills_under_way(begins: Any, ends: Any, firsts: Any, sizes: Any, records: Any, pfns: Any, out: Any, window: Any) -> None:
    """For each of ``records`` (positions, ascending) whether a refill that began before it and ended there or later has the page.

    ``begins`` (ascending), ``ends``, ``firsts``, ``sizes``: int64, the refills. ``window`` (int64) has room for all of them: those that
    may be under way.
    """
    nr_open = 0
    following = 0
    i = 0
    while i < records.shape[0]:
        record = records[i]
        while following < begins.shape[0] and begins[following] < record:
            window[nr_open] = following
            nr_open += 1
            following += 1
        kept = 0
        at = 0
        found = 0
        while at < nr_open:
            refill = window[at]
            if ends[refill] >= record:
                window[kept] = refill
                kept += 1
                if firsts[refill] <= pfns[i] < firsts[refill] + sizes[refill]:
                    found = 1
            at += 1
        nr_open = kept
        out[i] = found
        i += 1


def count_by_process(fields: Fields, begin: int, end: int, max_tgid: int, row_of: Any, sums: Any) -> int:
    """Add the records from ``begin`` on to ``sums`` (int64, by row and EVENTS ... REFILLS).

    ``row_of`` int32 by tgid, 0 where the process has no row; tgids from ``max_tgid`` on are taken for 0. TASK and STACK records are
    not what a process does. Returns ``end``, or the position of the first record whose process has no row yet.
    """
    i = begin
    while i < end:
        kind = fields.kind[i]
        if kind in (_TASK, _STACK):  # a STACK record has frames where others have the tgid
            i += 1
            continue
        tgid = fields.tgid[i]
        if tgid >= max_tgid:
            tgid = 0
        if tgid >= row_of.shape[0]:
            return i
        row = row_of[tgid]
        if row == 0:
            return i
        sums[row, _EVENTS] += 1
        if kind == _ALLOC:
            if not fields.flags[i] & _FAILED:
                sums[row, _ALLOCATED] += fields.nr_pages[i]
        elif kind == _FREE:
            sums[row, _FREED] += fields.nr_pages[i]
        else:
            _count_call(sums, row, kind)
        i += 1
    return i


def _count_call(sums: Any, row: int, kind: int) -> None:
    if kind == _SET_DIRECT_MAP:
        sums[row, _SET_DIRECT_MAP_CALLS] += 1
    elif kind == _SPLIT:
        sums[row, _SPLITS] += 1
    elif kind == _REFILL:
        sums[row, _REFILLS] += 1


def sum_levels(levels: Any, slot: Any, was_split: Any, was_absent: Any, k4: int, whole: Any, counts: Any) -> int:
    """Figures of the direct map in one pass over its regions; all arrays uint8 by region but ``slot`` (int32).

    ``counts`` (int64[258], zeros) gets the number of regions by level, at 256 of those at ``k4`` that are wholly present again though
    they were split or absent, and at 257 the length of the longest run of regions whose level is in ``whole`` (uint8[256]). Returns
    one more than the number of the last region that is mapped.
    """
    run = 0
    longest = 0
    end = 0
    nr_stranded = 0
    i = 0
    while i < levels.shape[0]:
        # Neighbours are mostly alike: what is added up for each run of them is not added for each region.
        level = levels[i]
        start = i
        if level == k4:
            while i < levels.shape[0] and levels[i] == level:
                if slot[i] == 0 and (was_split[i] or was_absent[i]):
                    nr_stranded += 1
                i += 1
        else:
            while i < levels.shape[0] and levels[i] == level:
                i += 1
        counts[level] += i - start
        run = run + i - start if whole[level] else 0
        if run > longest:
            longest = run
        if level:
            end = i
    counts[256] = nr_stranded
    counts[257] = longest
    return end


def count_pages(words: Any, slots: Any, absent: Any, present: Any) -> None:
    """Count the absent (2) and present (1) pages of the rows ``slots`` (int64) into ``absent`` and ``present`` (int16 by slot).

    ``words`` uint64 (slots, 64): eight pages in each. Pages are added up side by side, one byte for each place in a word.
    """
    i = 0
    while i < slots.shape[0]:
        row = slots[i]
        ones = 0
        twos = 0
        at = 0
        while at < _WORDS_PER_ROW:
            word = words[row, at]
            ones += word & _EVERY_BYTE
            twos += (word >> 1) & _EVERY_BYTE
            at += 1
        present[row] = _sum_of_bytes(ones)
        absent[row] = _sum_of_bytes(twos)
        i += 1


def _sum_of_bytes(word: int) -> int:
    """Of eight bytes that are 64 at most: pairs of them fit into a byte, and the sum of four pairs into two bytes."""
    pairs = (word & _EVEN_BYTES) + ((word >> 8) & _EVEN_BYTES)
    return ((pairs * _EVERY_PAIR) & _ALL_BITS) >> 48


def sum_slots(region_of: Any, absent: Any, present: Any, begin: int, end: int, sums: Any) -> None:
    """Of the slots from ``begin`` on that are some region's (``region_of`` int64, -1 where nobody's): how many there are, how many of
    them have an absent page, and their absent and present pages (int16 by slot), into ``sums`` (int64[4])."""
    nr_used = 0
    nr_touched = 0
    nr_absent = 0
    nr_present = 0
    i = begin
    while i < end:
        if region_of[i] >= 0:
            nr_used += 1
            nr_touched += absent[i] != 0
            nr_absent += absent[i]
            nr_present += present[i]
        i += 1
    sums[0] = nr_used
    sums[1] = nr_touched
    sums[2] = nr_absent
    sums[3] = nr_present
