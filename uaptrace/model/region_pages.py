# SPDX-License-Identifier: Apache-2.0
"""One byte for each page of those 2M regions that need it, found by region number.

    region   0 1 2 3 4 5 ...            slot  0: nobody's (so that "no slot" is falsy)
    slot     0 0 2 0 1 0 ...   ──>      slot  1: 512 bytes, pages of region 4
                                        slot  2: 512 bytes, pages of region 2

numpy gets large arrays of zeros from the kernel untouched, so neither a sparse physical address space nor room to grow
takes memory before it is used.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import PAGES_PER_2M

from .columns import Bytes, Ints

_FIRST_CAPACITY: Final = 64
_ROWS_AT_ONCE: Final = 1 << 16

_Scalar = TypeVar("_Scalar", bound=np.generic)


def grown(array: NDArray[_Scalar], length: int, used: int | None = None) -> NDArray[_Scalar]:
    """A longer copy of ``array`` (first axis ``length``), zeros after the first ``used`` rows (default: all that there are)."""
    used = len(array) if used is None else used
    bigger = np.zeros((length, *array.shape[1:]), array.dtype)
    for at in range(0, used, _ROWS_AT_ONCE):
        part = array[at : min(at + _ROWS_AT_ONCE, used)]
        if part.any():  # what was never written is not written now either: it takes no memory
            bigger[at : at + len(part)] = part
    return bigger


class RegionPages:
    """Rows of 512 bytes for regions. ``slot`` is int32 by region, ``pages`` uint8 (slots, 512), ``region_of`` int64 by slot."""

    def __init__(self) -> None:
        self.slot: NDArray[np.int32] = np.zeros(0, np.int32)
        self.pages: Bytes = np.zeros((_FIRST_CAPACITY, PAGES_PER_2M), np.uint8)
        self.region_of: Ints = np.zeros(_FIRST_CAPACITY, np.int64)
        self.dirty: NDArray[np.bool_] = np.zeros(_FIRST_CAPACITY, np.bool_)
        self.nr_used = 0
        """Regions that have a slot."""
        self._next = 1
        self._free: list[NDArray[np.int32]] = []

    @property
    def nr_slots(self) -> int:
        """Slots that were ever in use, the one that is nobody's included: arrays by slot are meaningful below this."""
        return self._next

    @property
    def capacity(self) -> int:
        """Length of the arrays by slot."""
        return len(self.pages)

    @property
    def flat(self) -> Bytes:
        """All pages as one axis: page p of slot s is at s * 512 + p."""
        return self.pages.reshape(-1)

    def cover(self, nr_regions: int) -> None:
        """Make room for regions below ``nr_regions``."""
        if nr_regions > len(self.slot):
            self.slot = grown(self.slot, nr_regions)

    def reserve(self, nr_slots: int) -> None:
        """Make room for that many more slots, so that a large reading is taken in without growing step by step."""
        needed = self._next + nr_slots
        if needed <= self.capacity:
            return
        capacity = max(needed, self.capacity * 2)
        self.pages = grown(self.pages, capacity, self._next)
        self.region_of = grown(self.region_of, capacity, self._next)
        self.dirty = grown(self.dirty, capacity, self._next)

    def take(self, regions: Ints, fill: int | None = None) -> Ints:
        """Give each of ``regions`` (distinct, without a slot) a slot, marked dirty; the rows hold ``fill``, or what was there before."""
        slots = np.empty(len(regions), np.int64)
        filled = 0
        while self._free and filled < len(regions):
            free = self._free.pop()
            n = min(len(free), len(regions) - filled)
            slots[filled : filled + n] = free[len(free) - n :]
            if fill is not None:
                self.pages[free[len(free) - n :]] = fill
            if n < len(free):
                self._free.append(free[: len(free) - n])
            filled += n
        rest = len(regions) - filled
        if rest:
            self.reserve(rest)
            slots[filled:] = np.arange(self._next, self._next + rest)
            if fill is not None:
                self.pages[self._next : self._next + rest] = fill
            self._next += rest
        self.nr_used += len(regions)
        self.slot[regions] = slots
        self.region_of[slots] = regions
        self.dirty[slots] = True
        return slots

    def give_back(self, regions: Ints) -> Ints:
        """Take the slots of ``regions`` (distinct, each has one) away; returns them."""
        slots = self.slot[regions]
        if len(slots):
            self.nr_used -= len(slots)
            self.slot[regions] = 0
            self.region_of[slots] = -1
            self.dirty[slots] = False
            self._free.append(slots)
        return slots.astype(np.int64)

    def take_dirty(self) -> Ints:
        """Slots that changed since the last call, ascending."""
        slots = np.flatnonzero(self.dirty[: self._next])
        self.dirty[slots] = False
        return slots
