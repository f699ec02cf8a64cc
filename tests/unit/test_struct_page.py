# SPDX-License-Identifier: Apache-2.0
"""Free blocks of the cache are found wherever there are struct pages, also in a region that ends with RAM."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M
from uaptrace.kernel.debugfs import CacheRows
from uaptrace.kernel.struct_page import PAGE_TYPE_BASE, PG_UNMAPPED, page_layout, read_free_blocks, steady_read

VMEMMAP = 0xFFD4000000000000
SIZE, PAGE_TYPE, PRIVATE = 64, 48, 40


class StructPages:
    """Struct pages of ``nr_pages`` pages, readable to the end of a page, as /proc/kcore has them."""

    def __init__(self, nr_pages: int, blocks: dict[int, int]) -> None:
        self.raw = np.zeros(-(-nr_pages * SIZE // PAGE_SIZE) * PAGE_SIZE, np.uint8)
        pages = self.raw[: len(self.raw) // SIZE * SIZE].reshape(-1, SIZE)
        pages[:, PAGE_TYPE : PAGE_TYPE + 4] = 0xFF
        for pfn, order in blocks.items():
            cleared = 0xFFFFFFFF & ~PG_UNMAPPED
            pages[pfn, PAGE_TYPE : PAGE_TYPE + 4] = np.frombuffer(cleared.to_bytes(4, "little"), np.uint8)
            pages[pfn, PRIVATE] = order
        assert cleared & PAGE_TYPE_BASE == PAGE_TYPE_BASE

    def read(self, address: int, size_bytes: int) -> bytes:
        raise LookupError("only whole tables are read")

    def refresh(self) -> None:
        pass

    def read_table(self, address: int, out: NDArray[np.uint64]) -> None:
        at = address - VMEMMAP
        if at + out.nbytes > len(self.raw):
            raise LookupError(hex(address))
        out[:] = self.raw[at : at + out.nbytes].view(np.uint64)


@pytest.mark.parametrize("nr_last", [512, 511, 448, 65, 64, 1])
def test_blocks_of_a_region_that_ends_with_ram_are_found(nr_last: int) -> None:
    last = 3 * PAGES_PER_2M
    blocks = {512: 9, last: 0} | ({last + 60: 2} if nr_last >= 64 else {}) | ({last + 440: 3} if nr_last >= 448 else {})
    layout = page_layout(VMEMMAP, {"struct_page": SIZE, "page.page_type": PAGE_TYPE, "page.private": PRIVATE})
    assert layout is not None
    pfns, orders = read_free_blocks(StructPages(last + nr_last, blocks), layout, [1, 3])
    assert dict(zip(pfns.tolist(), orders.tolist(), strict=True)) == blocks


def test_a_region_without_memory_has_none() -> None:
    layout = page_layout(VMEMMAP, {"struct_page": SIZE, "page.page_type": PAGE_TYPE, "page.private": PRIVATE})
    assert layout is not None
    pfns, _ = read_free_blocks(StructPages(PAGES_PER_2M, {7: 0}), layout, [0, 1, 5])
    assert pfns.tolist() == [7]


def blocks(*pairs: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    return np.array([pfn for pfn, _ in pairs], np.int64), np.array([order for _, order in pairs], np.uint8)


WHOLE, HALVES = blocks((512, 9)), blocks((512, 8), (768, 8))
TORN = blocks((512, 9), (768, 8))
"""The first page read before a free merged the two halves, the other after it."""


def row(*orders: int) -> CacheRows:
    return CacheRows(tuple(np.bincount(np.array(orders, np.int64), minlength=11).tolist()), (0,) * 11, (0,) * 11)


Read = tuple[NDArray[np.int64], NDArray[np.uint8], CacheRows | None]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([(*WHOLE, row(9))], (*WHOLE, True)),
        # A call that began before the first reading and is in the middle of it: no counter moves.
        ([(*TORN, row(9)), (*WHOLE, row(9))], (*WHOLE, True)),
        ([(*HALVES, row(9)), (*WHOLE, row(9))], (*WHOLE, True)),
        ([(*TORN, None), (*TORN, None), (*TORN, None)], (*TORN, False)),
        # A row that is wrong by itself is found by whoever compares, and does not keep the state inexact.
        ([(*HALVES, row(9))] * 3, (*HALVES, True)),
        ([(*blocks(), row())], (*blocks(), True)),
        ([(*blocks((4, 3)), row(3)), (*blocks((8, 3)), row(3))], (*blocks((8, 3)), True)),
    ],
)
def test_what_is_read_within_a_call_is_read_again(
    readings: list[Read], expected: tuple[NDArray[np.int64], NDArray[np.uint8], bool]
) -> None:
    left = iter(readings)
    pfns, orders, rows, is_one_moment = steady_read(lambda: 7, lambda: next(left), 3)
    assert (pfns.tolist(), orders.tolist(), is_one_moment) == (expected[0].tolist(), expected[1].tolist(), expected[2])
    assert rows == readings[-1][2]
    assert next(left, None) is None


def test_what_is_read_while_calls_are_counted_is_not_one_moment() -> None:
    calls = iter(range(100))
    assert not steady_read(lambda: next(calls), lambda: (*WHOLE, row(9)), 3)[3]
