# SPDX-License-Identifier: Apache-2.0
"""A small buddy allocator that keeps blocks on lists, as the unmapped cache of the kernel does: what free blocks are held against."""

from __future__ import annotations

from uaptrace.abi.units import NR_ORDERS


class BuddyLists:
    """Free blocks by order, last in first out; freeing merges buddies, allocating splits the smallest block that is large enough."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = [[] for _ in range(NR_ORDERS)]

    def add(self, pfn: int, order: int) -> None:
        while order < NR_ORDERS - 1 and (pfn ^ (1 << order)) in self.lists[order]:
            self.lists[order].remove(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        self.lists[order].append(pfn)

    def take(self, order: int) -> int | None:
        for size in range(order, NR_ORDERS):
            if self.lists[size]:
                pfn = self.lists[size].pop()
                for half in range(size - 1, order - 1, -1):
                    self.lists[half].append(pfn + (1 << half))
                return pfn
        return None

    def take_smallest(self) -> tuple[int, int] | None:
        """A block of the smallest order there is: what the shrinker releases first."""
        for order, blocks in enumerate(self.lists):
            if blocks:
                return blocks.pop(), order
        return None

    def rows(self) -> tuple[int, ...]:
        return tuple(len(blocks) for blocks in self.lists)

    def blocks(self) -> list[tuple[int, int]]:
        return [(pfn, order) for order, blocks in enumerate(self.lists) for pfn in blocks]
