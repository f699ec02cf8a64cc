# SPDX-License-Identifier: Apache-2.0
"""Page tables in made-up physical memory, for the real reader."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

from uaptrace.kernel.page_tables import PageTableReader, PagingLayout

PRESENT, LEAF, NX = 1, 0x80, 1 << 63
ENCRYPTION_BIT = 1 << 51
PFN_MASK = 0x000FFFFFFFFFF000 & ~ENCRYPTION_BIT
PAGE_OFFSETS = {4: 0xFFFF888000000000, 5: 0xFF11000000000000}
# Where tables lie in the made-up physical memory: above all that is mapped.
TABLES_AT = 1 << 40


class FakeMemory:
    """Page tables as bytes, made entry by entry as the architecture manual says."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.page_offset = PAGE_OFFSETS[levels]
        self.tables: dict[int, NDArray[np.uint64]] = {}
        self.top = self._new()
        self.gone: set[int] = set()

    def _new(self) -> int:
        physical = TABLES_AT + 4096 * len(self.tables)
        self.tables[physical] = np.zeros(512, np.uint64)
        return physical

    def table_of(self, address: int, shift: int) -> tuple[NDArray[np.uint64], int]:
        """The table whose entries cover 2**shift bytes, made on the way; and the index in it."""
        table = self.top
        for at in range(48 if self.levels == 5 else 39, shift, -9):
            index = (address >> at) & 511
            entry = int(self.tables[table][index])
            if not entry & PRESENT:
                entry = self._new() | PRESENT | 2 | ENCRYPTION_BIT
                self.tables[table][index] = entry
            table = entry & PFN_MASK
        return self.tables[table], (address >> shift) & 511

    def map(self, pfn: int, shift: int, *, present: bool) -> None:
        table, index = self.table_of(self.page_offset + (pfn << 12), shift)
        leaf = LEAF if shift > 12 else 0
        if present:
            table[index] = (pfn << 12) | PRESENT | leaf | NX | ENCRYPTION_BIT
        else:  # the page number is inverted
            table[index] = (~(pfn << 12) & 0x000FFFFFFFFFF000) | leaf | NX | 0x62

    def refresh(self) -> None:
        pass

    def read(self, address: int, size_bytes: int) -> bytes:
        raise LookupError("only whole tables are read")

    def read_table(self, address: int, out: NDArray[np.uint64]) -> None:
        physical = address - self.page_offset
        if physical in self.gone or physical not in self.tables:
            raise LookupError(hex(address))
        out[:] = self.tables[physical]

    def reader(self, now_ns: Callable[[], int] | None = None) -> PageTableReader:
        layout = PagingLayout(self.page_offset + self.top, self.page_offset, 1 << 42, self.levels, PFN_MASK)
        return PageTableReader(self, layout, now_ns or count().__next__)
