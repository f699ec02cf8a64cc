# SPDX-License-Identifier: Apache-2.0
"""KFENCE's pool is found by its guard pages, wherever it begins and however many objects the kernel was built with."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.page_table_memory import FakeMemory
from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.kernel.kfence import is_on, pool_regions

SYMBOLS = {"kfence_enabled": 0x1000, "__kfence_pool": 0x2000}


class Kernel(FakeMemory):
    """Tables and the two variables."""

    def __init__(self, first_pfn: int, nr_objects: int, *, on: bool = True) -> None:
        super().__init__(5)
        self.variables = {0x1000: struct.pack("<I", 0xFFFFFF00 | on), 0x2000: struct.pack("<Q", self.page_offset + (first_pfn << 12))}
        end = first_pfn + 2 * (nr_objects + 1)
        first, last = first_pfn // PAGES_PER_2M, (end - 1) // PAGES_PER_2M
        for region in range(max(first - 1, 0), last + 2):
            for page in range(PAGES_PER_2M):
                pfn = region * PAGES_PER_2M + page
                inside = first_pfn <= pfn < end
                is_guard = inside and (pfn == first_pfn or (pfn - first_pfn) % 2 == 1)
                self.map(pfn, 12, present=not is_guard)

    def read(self, address: int, size_bytes: int) -> bytes:
        return self.variables[address][:size_bytes]

    def regions(self) -> list[int]:
        return pool_regions(self, SYMBOLS, self.page_offset, self.reader().read_regions)


@settings(deadline=None, max_examples=15)
@given(st.integers(512, 1300), st.integers(1, 900))
def test_the_pool_is_found_where_it_is(first_pfn: int, nr_objects: int) -> None:
    end = first_pfn + 2 * (nr_objects + 1)
    assert Kernel(first_pfn, nr_objects).regions() == list(range(first_pfn // PAGES_PER_2M, (end - 1) // PAGES_PER_2M + 1))


def test_nothing_is_left_out_where_kfence_is_off_or_not_there() -> None:
    off = Kernel(1024, 255, on=False)
    assert not is_on(off, SYMBOLS)
    assert off.regions() == []
    assert pool_regions(off, {}, off.page_offset, off.reader().read_regions) == []


@pytest.mark.parametrize("pool", [0, 0xFFFFFFFF81000000 & 0xFFFF])
def test_a_pool_that_is_not_there_yet_is_none(pool: int) -> None:
    kernel = Kernel(1024, 3)
    kernel.variables[0x2000] = struct.pack("<Q", pool)
    assert kernel.regions() == []
