# SPDX-License-Identifier: Apache-2.0
"""The unmapped cache page by page, rebuilt from records, and its free blocks by order.

Only pages are kept. The cache always merges two free buddies of one order (up to order 10), so the set of free pages has
one decomposition into blocks, and the blocks need not be followed: every record is a plain statement of what is now.

    REFILL  ──> free ──ALLOC──> handed out ──FREE──> free, used ──RELEASE──> left
                 └────────────── RELEASE, REFILL_UNDONE ───────────────────────^

A record that does not fit what its page was before is a Contradiction for the audit to judge; the record still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import NR_ORDERS, PAGES_PER_2M, PMD_ORDER

from .codes import KindCode
from .columns import Bytes, Columns, Ints, distinct
from .loops import USED, Found, apply_block, apply_cache, is_good_block, regions_without_slot, view
from .refills import ChunkRefills, Refill, subtract
from .region_pages import RegionPages, grown

FREE: Final = 1
HANDED_OUT: Final = 2
INFERRED: Final = 8
"""Known from a reading, not from records: what was before tracing began."""
LEFT: Final = 16
"""Was seen leaving the cache."""
_NR_STATES: Final = 32
_LISTED: Final = 128
"""While a reading is taken in: the reading has it on a free list."""

_KINDS: Final = (KindCode.REFILL, KindCode.ALLOC, KindCode.FREE, KindCode.RELEASE, KindCode.REFILL_UNDONE)
_RESULT: Final = np.zeros(16, np.uint8)
_RESULT[[KindCode.REFILL, KindCode.ALLOC, KindCode.FREE, KindCode.RELEASE, KindCode.REFILL_UNDONE]] = (
    FREE,
    HANDED_OUT | USED,
    FREE | USED,
    LEFT,
    LEFT,
)

OK: Final = 0
CERTAIN: Final = 1
"""Both the state before and the record are known from records: the kernel did it."""
CAPTURED: Final = 2
"""FREE of a page that is not known to be the cache's: wrong only if the page is in the direct map."""


def _verdicts() -> Bytes:
    """uint8 (16 kinds, 32 states): what a record means for a page in that state.

    A state that is not known from records alone is no ground for anything: an allocation or a release of a page that the
    model has not as free may be of one that a call refilled which began before tracing did.
    """
    table = np.zeros((16, _NR_STATES), np.uint8)
    state = np.arange(_NR_STATES)
    free = (state & FREE) != 0
    out = (state & HANDED_OUT) != 0
    recorded = (state & INFERRED) == 0
    table[KindCode.REFILL][(free | out) & recorded] = CERTAIN
    table[KindCode.ALLOC][out & recorded] = CERTAIN
    table[KindCode.FREE][free & recorded] = CERTAIN
    table[KindCode.FREE][~free & ~out] = CAPTURED
    table[KindCode.RELEASE][(out & recorded) | (state == LEFT)] = CERTAIN
    return table


_RESULT_OF: Final = view(_RESULT)
_VERDICT_OF: Final = view(_verdicts())
_ROWS_AT_ONCE: Final = 8192
_BLOCKS_AT_ONCE: Final = 1024
"""Of at most 1024 pages each."""
MAX_ROWS: Final = 1 << 20
"""Regions that are followed: 512 MiB of rows, for 2 TiB of memory with pages of the cache in every 2M."""
_EVEN: Final = tuple(
    np.uint64(bits)
    for bits in (
        0x5555555555555555,
        0x1111111111111111,
        0x0101010101010101,
        0x0001000100010001,
        0x0000000100000001,
        0x0000000000000001,
    )
)
"""Bits at multiples of 2, 4, ... 64: where blocks of order 1, 2, ... 6 begin."""


@dataclass(frozen=True, slots=True)
class Contradictions:
    """Records that do not fit what their pages were before: arrays of one length, in ring order.

    ``record`` is the position in the chunk, ``verdict`` CERTAIN or CAPTURED (the worst of the record's pages),
    ``pfn`` the first page concerned, ``state`` its state before, ``nr_pages`` how many pages are concerned.
    """

    record: Ints
    verdict: Bytes
    pfn: Ints
    state: Bytes
    nr_pages: Ints


class FoundInChunk:
    """Room for what is found in a chunk of ``nr`` records."""

    def __init__(self, nr: int) -> None:
        self._record, self._pfn, self._nr_pages, self._unclean = (np.empty(nr, np.int64) for _ in range(4))
        self._verdict, self._state = np.empty(nr, np.uint8), np.empty(nr, np.uint8)
        record, pfn, nr_pages, unclean = (view(array) for array in (self._record, self._pfn, self._nr_pages, self._unclean))
        self.found = Found(record, pfn, nr_pages, unclean, view(self._verdict), view(self._state))

    def contradictions(self) -> Contradictions | None:
        """None where there are none."""
        n = self.found.nr_found
        if not n:
            return None
        return Contradictions(self._record[:n], self._verdict[:n], self._pfn[:n], self._state[:n], self._nr_pages[:n])

    def unclean(self) -> Ints:
        """Positions of releases of blocks that were not zero."""
        return self._unclean[: self.found.nr_unclean]


class UnmappedCache:
    """State of every page that ever was in the cache; free blocks by order. Needs no reading where tracing began first."""

    def __init__(self) -> None:
        self.rows = RegionPages()
        self.is_read = False
        """The free blocks were read once, or are known to have been none."""
        self.nr_records = 0
        self._tally: Ints = np.zeros((16, 16), np.int64)
        self.by_order: dict[int, Ints] = {kind: self._tally[kind, :NR_ORDERS] for kind in _KINDS}
        """Records by kind and order; failed allocations are left out."""
        self.pending: dict[int, Refill] = {}
        """By tid: refills under way."""
        self.bad_records = 0
        self.nr_refills_dropped = 0
        """Refills that were under way when more than loops.MAX_OPEN_REFILLS were: how they end is not known."""
        self.is_overfull = False
        """Pages of more than MAX_ROWS regions are, or were, in the cache: nothing of it is followed until a reading finds fewer."""
        self._folds: NDArray[np.int32] = np.zeros((self.rows.capacity, PMD_ORDER + 1), np.int32)
        self._slot_out: NDArray[np.int32] = np.zeros(self.rows.capacity, np.int32)

    # Records

    def apply(self, columns: Columns) -> tuple[Contradictions | None, Ints]:
        """Take in a chunk. Returns the contradictions, and the positions of RELEASE records of blocks whose content was
        not zero (aux > 0) and every page of which had been handed out before."""
        nr = sum(columns.count(kind) for kind in _KINDS)
        if nr == 0 or self.is_overfull:
            return None, np.empty(0, np.int64)
        self.nr_records += nr
        refills = ChunkRefills(columns, self.pending) if columns.count(KindCode.REFILL) or self.pending else None
        found = FoundInChunk(len(columns))
        begin = 0
        if refills is not None and columns.count(KindCode.REFILL_UNDONE):
            for at in columns.index(KindCode.REFILL_UNDONE).tolist():
                self._apply_until(columns, begin, at, found.found)
                begin = at + self._apply_undone(columns, at, refills, found.found)
        self._apply_until(columns, begin, len(columns), found.found)
        self.bad_records += found.found.nr_bad
        contradictions = found.contradictions()
        if refills is not None:
            if contradictions is not None:
                contradictions = _without_racing(columns, refills, contradictions)
            self.pending = refills.carry(columns)
            self.nr_refills_dropped += refills.nr_dropped
        if self.is_overfull:
            self.pending = {}
        return contradictions, found.unclean()

    def _apply_until(self, columns: Columns, begin: int, end: int, found: Found) -> None:
        while begin < end and not self.is_overfull:
            begin = apply_cache(columns.fields, begin, end, *self._arrays(), view(self._tally), found)
            if begin < end:
                self._make_room(columns, begin, len(columns))

    def _arrays(self) -> tuple[Any, Any, Any, Any, Any]:
        rows = self.rows
        return view(rows.slot), view(rows.flat), view(rows.dirty.view(np.uint8)), _RESULT_OF, _VERDICT_OF

    def _make_room(self, columns: Columns, begin: int, end: int) -> None:
        """Rows for the regions of the records from ``begin`` on."""
        out = np.empty(3 * (end - begin), np.int64)
        n = regions_without_slot(columns.fields, begin, end, view(self.rows.slot), _RESULT_OF, view(out))
        if n:
            regions = distinct(out[:n])
            self._cover(int(regions[-1]) + 1)
            self._give_rows(regions)

    def _apply_undone(self, columns: Columns, at: int, refills: ChunkRefills, found: Found) -> int:
        """A REFILL_UNDONE record speaks only of what no other task refilled since. Returns 1 if that was less than all, and was done."""
        tid, first, nr_pages, order = (int(columns.batch[name][at]) for name in ("tid", "pfn", "nr_pages", "order"))
        if not is_good_block(first, nr_pages):
            return 0
        taken = refills.elsewhere(at, tid, first, nr_pages)
        if not taken:
            return 0
        self._make_room(columns, at, at + 1)
        if self.is_overfull:
            return 1
        for pfn, n in subtract(first, nr_pages, taken):  # several blocks of one record: it contradicts nothing, so ``found`` has room
            apply_block(at, KindCode.REFILL_UNDONE, pfn, n, 0, *self._arrays(), found)
        self._tally[KindCode.REFILL_UNDONE, min(order, NR_ORDERS - 1)] += 1
        return 1

    def _cover(self, nr_regions: int) -> None:
        if nr_regions > len(self.rows.slot):
            self.rows.cover(-(-max(nr_regions, len(self.rows.slot) * 5 // 4) // 512) * 512)

    def _give_rows(self, regions: Ints) -> None:
        if self.rows.nr_used + len(regions) > MAX_ROWS:
            self.give_up()
        else:
            self.rows.take(regions, fill=0)

    def give_up(self) -> None:
        """The cache is in more regions than are followed."""
        self.is_overfull, self.is_read = True, False
        self.rows = RegionPages()
        self.pending = {}
        self._folds = np.zeros((self.rows.capacity, PMD_ORDER + 1), np.int32)
        self._slot_out = np.zeros(self.rows.capacity, np.int32)

    # Readings

    def load(self, pfns: Ints, orders: Bytes, *, keep_handed_out: bool) -> None:
        """Replace the free pages by those of a reading: heads of free blocks (int64) and their orders (uint8).

        ``keep_handed_out``: no record of the cache was lost, so what records said was handed out still is.
        Refills whose request has not returned stay as records said: their pages are not on the kernel's lists yet, or are there and on
        their way to whoever asked, or have left again already.
        """
        self.is_overfull = False
        under_way = self._pages_under_way() if keep_handed_out else np.empty(0, np.int64)
        as_recorded = self.states(under_way)
        self._set(pfns, np.int64(1) << orders.astype(np.int64), _LISTED, add=True)
        if self.is_overfull:
            return
        for at in range(1, self.rows.nr_slots, _ROWS_AT_ONCE):
            part = slice(at, min(at + _ROWS_AT_ONCE, self.rows.nr_slots))
            rows = self.rows.pages[part]
            listed = (rows & _LISTED) != 0
            fits = np.where(listed, rows & FREE, rows & (HANDED_OUT | LEFT)).astype(np.bool_) & keep_handed_out
            rows[:] = np.where(fits, rows & ~np.uint8(_LISTED), np.where(listed, np.uint8(FREE | INFERRED), np.uint8(0)))
            self.rows.dirty[part] = True
        if not keep_handed_out:
            self.pending = {}
        self._cover((int(under_way.max(initial=0)) >> PMD_ORDER) + 1)
        slots = self.rows.slot[under_way >> PMD_ORDER].astype(np.int64)
        followed = slots != 0
        at = (slots << PMD_ORDER) | (under_way & (PAGES_PER_2M - 1))
        self.rows.flat[at[followed]] = as_recorded[followed]
        self.rows.dirty[slots[followed]] = True
        self.is_read = True

    def _pages_under_way(self) -> Ints:
        """Pages of all refills under way, int64."""
        ranges = [np.arange(refill.pfn, refill.pfn + refill.nr_pages) for refill in self.pending.values()]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)

    def infer_handed_out(self, regions: Ints, absent: NDArray[np.bool_]) -> None:
        """Pages absent from the direct map (bool (n, 512), by region) that are neither free nor known to be something else
        were handed out before tracing began. What was inferred earlier is inferred anew."""
        for at in range(1, self.rows.nr_slots, _ROWS_AT_ONCE):
            span = slice(at, min(at + _ROWS_AT_ONCE, self.rows.nr_slots))
            rows = self.rows.pages[span]
            guessed = (rows & (HANDED_OUT | INFERRED)) == (HANDED_OUT | INFERRED)
            rows[guessed] = 0
            self.rows.dirty[span] |= guessed.any(axis=1)
        for at in range(0, len(regions), _ROWS_AT_ONCE):
            part = regions[at : at + _ROWS_AT_ONCE]
            self._cover(int(part[-1]) + 1)
            self._give_rows(part[self.rows.slot[part] == 0])
            if self.is_overfull:
                return
            slots = self.rows.slot[part]
            rows = self.rows.pages[slots]
            rows[absent[at : at + _ROWS_AT_ONCE] & (rows == 0)] = HANDED_OUT | INFERRED
            self.rows.pages[slots] = rows
            self.rows.dirty[slots] = True

    def doubt_states(self) -> None:
        """Records that some call did not send may have made pages that were free, or gone, something else since. What was
        handed out is certain: no free and no release goes unseen."""
        for at in range(1, self.rows.nr_slots, _ROWS_AT_ONCE):
            rows = self.rows.pages[at : min(at + _ROWS_AT_ONCE, self.rows.nr_slots)]
            rows[rows == LEFT] = LEFT | INFERRED
            rows[(rows & FREE) != 0] |= np.uint8(INFERRED)

    def _set(self, pfn: Ints, nr_pages: Ints, state: int, *, add: bool = False) -> None:
        for at in range(0, len(pfn), _BLOCKS_AT_ONCE):
            part = slice(at, at + _BLOCKS_AT_ONCE)
            self._set_some(pfn[part], nr_pages[part], state, add=add)

    def _set_some(self, pfn: Ints, nr_pages: Ints, state: int, *, add: bool) -> None:
        self._cover((int((pfn + nr_pages).max()) >> PMD_ORDER) + 1)
        of = np.repeat(np.arange(len(pfn)), nr_pages)
        page = pfn[of] + (np.arange(len(of)) - (np.cumsum(nr_pages) - nr_pages)[of])
        region = page >> PMD_ORDER
        missing = distinct(region[self.rows.slot[region] == 0])
        if not self.is_overfull:
            self._give_rows(missing)
        if self.is_overfull:
            return
        slot = self.rows.slot[region].astype(np.int64)
        at = (slot << PMD_ORDER) | (page & (PAGES_PER_2M - 1))
        self.rows.flat[at] = self.rows.flat[at] | np.uint8(state) if add else state
        self.rows.dirty[slot] = True

    # Views

    def _recount(self) -> None:
        if len(self._slot_out) < self.rows.capacity:
            self._folds = grown(self._folds, self.rows.capacity)
            self._slot_out = grown(self._slot_out, self.rows.capacity)
        slots = self.rows.take_dirty()
        for at in range(0, len(slots), _ROWS_AT_ONCE):
            part = slots[at : at + _ROWS_AT_ONCE]
            rows = self.rows.pages[part]
            self._slot_out[part] = np.count_nonzero(rows & HANDED_OUT, axis=1)
            self._folds[part] = _fold((rows & FREE) != 0)

    def free_blocks(self) -> tuple[int, ...]:
        """Free blocks by order: the one way to cut the free pages into blocks of which no two are free buddies."""
        self._recount()
        n = self.rows.nr_slots
        whole = np.zeros(NR_ORDERS, np.int64)
        whole[: PMD_ORDER + 1] = self._folds[:n].sum(axis=0, dtype=np.int64)
        full = self.rows.region_of[:n][self._folds[:n, PMD_ORDER] != 0]
        even = full[(full & 1) == 0]
        other = self.rows.slot[np.minimum(even + 1, len(self.rows.slot) - 1)]
        whole[PMD_ORDER + 1] = np.count_nonzero(self._folds[other, PMD_ORDER]) if len(even) else 0
        blocks = whole.copy()
        blocks[:-1] -= 2 * whole[1:]
        return tuple(blocks.tolist())

    def handed_out_pages(self) -> int:
        """Pages handed out now, those inferred at the baseline included."""
        self._recount()
        return int(self._slot_out[: self.rows.nr_slots].sum(dtype=np.int64))

    def certainly_handed_out_pages(self) -> int:
        """Pages handed out now by records alone."""
        n = self.rows.nr_slots
        return sum(
            int(np.count_nonzero((self.rows.pages[at : min(at + _ROWS_AT_ONCE, n)] & (HANDED_OUT | INFERRED)) == HANDED_OUT))
            for at in range(0, n, _ROWS_AT_ONCE)
        )

    def free_by_region(self) -> tuple[Ints, Ints]:
        """Regions with free pages, and how many."""
        self._recount()
        n = self.rows.nr_slots
        slots = np.flatnonzero(self._folds[:n, 0])
        return self.rows.region_of[slots], self._folds[slots, 0].astype(np.int64)

    def empty_regions(self) -> Ints:
        """Regions that pages of the cache were in and none are now, ascending."""
        self._recount()
        n = self.rows.nr_slots
        slots = np.flatnonzero((self._folds[:n, 0] == 0) & (self._slot_out[:n] == 0))[1:]  # slot 0 is nobody's
        slots = slots[(self.rows.pages[slots] & LEFT).any(axis=1)]
        return np.sort(self.rows.region_of[slots])

    def guessed_regions(self) -> Ints:
        """Regions where pages are taken to be handed out only because they are absent, and no other page is the cache's."""
        self._recount()
        n = self.rows.nr_slots
        slots = np.flatnonzero((self._folds[:n, 0] == 0) & (self._slot_out[:n] != 0))
        rows = self.rows.pages[slots]
        certain = (((rows & HANDED_OUT) != 0) & ((rows & INFERRED) == 0)).any(axis=1)
        return np.sort(self.rows.region_of[slots[~certain]])

    def not_handed_out(self, regions: list[int]) -> None:
        """The pageblock bit of these regions is clear: what is absent there is not the cache's."""
        at = np.intersect1d(np.array(regions, np.int64), self.guessed_regions())
        slots = self.rows.slot[at]
        rows = self.rows.pages[slots]
        rows[(rows & INFERRED) != 0] = 0
        self.rows.pages[slots] = rows
        self.rows.dirty[slots] = True

    def states(self, pfns: Ints) -> Bytes:
        """uint8: the state (FREE, HANDED_OUT, USED, INFERRED, LEFT bits) of each page; 0 where nothing is known of it."""
        region = pfns >> PMD_ORDER
        inside = region < len(self.rows.slot)
        slot = np.where(inside, self.rows.slot[np.minimum(region, len(self.rows.slot) - 1)] if len(self.rows.slot) else 0, 0)
        return np.where(slot != 0, self.rows.pages[slot, pfns & (PAGES_PER_2M - 1)], 0).astype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the untouched parts included."""
        return self.rows.slot.nbytes + self.rows.pages.nbytes + self.rows.region_of.nbytes + self._folds.nbytes + self._slot_out.nbytes


def _fold(free: NDArray[np.bool_]) -> Ints:
    """bool (n, 512) -> (n, 10): how many aligned blocks of order 0 to 9 are wholly free."""
    words = np.packbits(free, axis=1, bitorder="little").view(np.uint64)
    counts = np.zeros((len(free), PMD_ORDER + 1), np.int64)
    counts[:, 0] = np.bitwise_count(words).sum(axis=1)
    for order, starts in enumerate(_EVEN, start=1):
        words = words & (words >> np.uint64(1 << (order - 1))) & starts
        counts[:, order] = np.bitwise_count(words).sum(axis=1)
    whole = words != 0  # (n, 8): blocks of order 6
    for order in range(7, PMD_ORDER + 1):
        whole = whole[:, 0::2] & whole[:, 1::2]
        counts[:, order] = whole.sum(axis=1)
    return counts


def _without_racing(columns: Columns, refills: ChunkRefills, found: Contradictions) -> Contradictions | None:
    """Leave out REFILL records of pages whose earlier refill is still under way: that one is being undone."""
    is_refill = columns.kind[found.record] == KindCode.REFILL
    keep = ~is_refill
    keep[is_refill] = ~refills.under_way(found.record[is_refill], found.pfn[is_refill])
    if keep.all():
        return found
    if not keep.any():
        return None
    return Contradictions(found.record[keep], found.verdict[keep], found.pfn[keep], found.state[keep], found.nr_pages[keep])
