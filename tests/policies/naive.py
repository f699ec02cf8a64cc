# SPDX-License-Identifier: Apache-2.0
"""Slow models that are plainly right, to hold the engine against.

``NaivePages`` knows only which pages are free. ``NaiveCache`` is kernel/patches/0002 and 0003 with Python lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class NaivePages:
    """Free pages as a set; blocks follow from it, since a buddy allocator merges all it can."""

    def __init__(self, nr_pages: int, free: Iterable[int]) -> None:
        self.nr_pages = nr_pages
        self.free = set(free)

    def has(self, order: int) -> bool:
        return any(found >= order for found in self.blocks().values())

    def take(self, page: int, order: int) -> None:
        assert page % (1 << order) == 0
        block = set(range(page, page + (1 << order)))
        assert block <= self.free
        self.free -= block

    def give(self, page: int, order: int) -> None:
        block = set(range(page, page + (1 << order)))
        assert not block & self.free
        self.free |= block

    def blocks(self) -> dict[int, int]:
        """First page -> order, of the largest aligned free blocks."""
        out: dict[int, int] = {}
        rest = set(self.free)
        for order in range(11):
            pairs = {page for page in rest if page % (2 << order) == 0 and page + (1 << order) in rest} if order < 10 else set()
            for page in rest - pairs - {page + (1 << order) for page in pairs}:
                out[page] = order
            rest = pairs
        return out


class NaiveCache:
    """``refill(order)`` gives (pfn, order) of a chunk, or None."""

    def __init__(self, refill: Callable[[int], tuple[int, int] | None]) -> None:
        self.refill = refill
        self.free: list[list[int]] = [[] for _ in range(11)]
        self.cached = [0] * 11
        self.released = [0] * 11

    def allocate(self, order: int) -> int | None:
        for found in range(order, 11):
            if self.free[found]:
                page = self.free[found].pop(0)
                break
        else:
            chunk = self.refill(order)
            if chunk is None:
                return None
            page, found = chunk
            self.cached[found] += 1
        for high in range(found - 1, order - 1, -1):
            self.free[high].insert(0, page + (1 << high))
        return page

    def put(self, page: int, order: int) -> None:
        while order < 10 and page ^ (1 << order) in self.free[order]:
            self.free[order].remove(page ^ (1 << order))
            page &= ~(1 << order)
            order += 1
        self.free[order].insert(0, page)

    def shrink(self, wanted: int) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        while sum(1 << order for _, order in out) < wanted:
            order = next((o for o in range(11) if self.free[o]), None)
            if order is None:
                break
            out.append((self.free[order].pop(0), order))
            self.released[order] += 1
        return out

    def rows(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return tuple(len(blocks) for blocks in self.free), tuple(self.cached), tuple(self.released)
