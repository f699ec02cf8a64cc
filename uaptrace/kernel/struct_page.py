# SPDX-License-Identifier: Apache-2.0
"""Free blocks of the unmapped cache, read from struct page, and the pageblock bits, read from mem_section.

Offsets come from BTF. A free block's first page has the page type "unmapped" and its order in page->private. Where page types are
enumerators (PGTY_*), the type is the upper byte of page_type; before they were, types are bits that are *cleared* in it
(include/linux/page-flags.h), and the constants are the series' (docs/kernel.md, section 1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE, PAGES_PER_2M
from uaptrace.kernel.debugfs import CacheRows
from uaptrace.kernel.kcore import KernelMemory, read_u64
from uaptrace.model.updates import blocks_fit

PAGE_TYPE_BASE: Final = 0xF0000000
PG_UNMAPPED: Final = 0x00000800
PB_UNMAPPED: Final = 7
NR_PAGEBLOCK_BITS: Final = 8
_SECTION_SIZE_BITS: Final = 27
"""x86-64 (arch/x86/include/asm/sparsemem.h)."""
PAGES_PER_SECTION: Final = 1 << (_SECTION_SIZE_BITS - 12)
_WORDS_PER_PAGE: Final = PAGE_SIZE // 8
_SECTION_MAP_MASK: Final = ~0x3F
_SECTION_PRESENT: Final = 1


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Where struct pages are and where in them the two fields are. Bytes."""

    vmemmap: int
    struct_page_size: int
    page_type: int
    private: int
    type_mask: int
    type_value: int
    """A page is a free block's first where page_type has this value under the mask."""


def page_layout(vmemmap: int, offsets: Mapping[str, int]) -> PageLayout | None:
    """None where this kernel's struct page has no such fields."""
    mask, value = PAGE_TYPE_BASE | PG_UNMAPPED, PAGE_TYPE_BASE
    if "PGTY_unmapped" in offsets:
        mask, value = 0xFF000000, offsets["PGTY_unmapped"] << 24
    try:
        return PageLayout(vmemmap, offsets["struct_page"], offsets["page.page_type"], offsets["page.private"], mask, value)
    except KeyError:
        return None


def read_free_blocks(memory: KernelMemory, layout: PageLayout, regions: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Heads of the cache's free blocks in the given 2M regions: (pfns int64, orders uint8), ascending by pfn.

    Where a region is partial, as the last one of RAM may be, its struct pages are read as far as there are any.
    """
    pfns: list[NDArray[np.int64]] = []
    orders: list[NDArray[np.uint8]] = []
    size = layout.struct_page_size
    buffer = np.empty(PAGES_PER_2M * size // 8, np.uint64)
    for region in sorted(regions):
        first = region * PAGES_PER_2M
        if not _read_struct_pages(memory, layout.vmemmap + first * size, buffer):
            continue
        raw = buffer.view(np.uint8).reshape(PAGES_PER_2M, size)
        page_type = raw[:, layout.page_type : layout.page_type + 4].copy().view("<u4")[:, 0]
        heads = np.flatnonzero((page_type & np.uint32(layout.type_mask)) == layout.type_value)
        if not len(heads):
            continue
        private = raw[heads, layout.private : layout.private + 8].copy().view("<u8")[:, 0]
        good = private < NR_ORDERS
        pfns.append((heads[good] + first).astype(np.int64))
        orders.append(private[good].astype(np.uint8))
    if not pfns:
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    return np.concatenate(pfns), np.concatenate(orders)


def _read_struct_pages(memory: KernelMemory, address: int, buffer: NDArray[np.uint64]) -> bool:
    """Fill the buffer; what does not exist is zero, which is no page's type. Whether anything was there."""
    try:
        memory.read_table(address, buffer)
        return True
    except (OSError, LookupError):
        buffer[:] = 0
    some = False
    for at in range(0, len(buffer), _WORDS_PER_PAGE):
        # The kernel's list of what can be read ends with a page.
        with contextlib.suppress(OSError, LookupError):
            memory.read_table(address + 8 * at, buffer[at : at + _WORDS_PER_PAGE])
            some = True
    return some


class PageblockBits:
    """Reads the unmapped bit of pageblocks (2M each) from mem_section, as SPARSEMEM_EXTREME lays it out."""

    def __init__(self, memory: KernelMemory, mem_section: int, offsets: Mapping[str, int]) -> None:
        self._memory = memory
        self._roots = read_u64(memory, mem_section)
        self._section_size = offsets["mem_section"]
        self._usage = offsets["mem_section.usage"]
        self._flags = offsets["mem_section_usage.pageblock_flags"]
        self._per_root = 4096 // self._section_size
        self._unmapped = offsets.get("PB_unmapped", PB_UNMAPPED)
        self._nr_bits = offsets.get("NR_PAGEBLOCK_BITS", NR_PAGEBLOCK_BITS)

    def read(self, regions: Iterable[int]) -> dict[int, bool]:
        """The bit by region; regions whose section cannot be read are left out."""
        found = {}
        for region in regions:
            try:
                found[region] = self._read_one(region)
            except (OSError, LookupError):
                continue
        return found

    def _read_one(self, region: int) -> bool:
        pfn = region * PAGES_PER_2M
        section = pfn // PAGES_PER_SECTION
        root = read_u64(self._memory, self._roots + 8 * (section // self._per_root))
        if not root:
            raise LookupError(f"no section for pfn {pfn}")
        usage = read_u64(self._memory, root + self._section_size * (section % self._per_root) + self._usage)
        if not usage:
            raise LookupError(f"no pageblock flags for pfn {pfn}")
        bit = (pfn % PAGES_PER_SECTION) // PAGES_PER_2M * self._nr_bits + self._unmapped
        word = read_u64(self._memory, usage + self._flags + bit // 64 * 8)
        return bool(word >> (bit % 64) & 1)


def steady_read(
    count: Callable[[], int],
    read: Callable[[], tuple[NDArray[np.int64], NDArray[np.uint8], CacheRows | None]],
    tries: int,
) -> tuple[NDArray[np.int64], NDArray[np.uint8], CacheRows | None, bool]:
    """Read until it is one moment: ``count`` (of cache operations) was the same before and after, and what was read can be true.

    ``read`` gives (pfns, orders, debugfs's rows). Returns those of the last try, and whether they are of one moment. A call that
    began before the reading and ends after it is counted neither before nor after, and moves blocks meanwhile. So blocks that overlap
    are never of one moment; where they only are others than the row of free ones says it is tried again, at most ``tries`` times in
    all, and the last stands: the row itself may be wrong.
    """
    while True:
        tries -= 1
        before = count()
        pfns, orders, rows = read()
        is_one_moment = count() == before and blocks_fit(pfns, orders)
        as_told = rows is None or tuple(np.bincount(orders, minlength=NR_ORDERS).tolist()) == rows.free
        if (is_one_moment and as_told) or tries <= 0:
            return pfns, orders, rows, is_one_moment
