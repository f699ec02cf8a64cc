# SPDX-License-Identifier: Apache-2.0
"""KFENCE's pool (mm/kfence/core.c): 4K pages whose present bit it flips by itself, where nothing can be hooked.

The pool begins with two pages that are never present; then pages of objects and guard pages take turns, and guards are never
present either. How many there are is a constant of the build that the kernel tells nowhere, so the guards say where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from uaptrace.abi.units import PAGE_SHIFT, PAGES_PER_2M
from uaptrace.kernel.kcore import KernelMemory, read_u32, read_u64
from uaptrace.model.updates import PAGE_ABSENT, MapReading

_MAX_REGIONS: Final = 257
"""65,535 objects, the most that can be configured (lib/Kconfig.kfence), and a pool that begins within a region."""


def is_on(memory: KernelMemory, symbols: Mapping[str, int]) -> bool:
    """Whether KFENCE is at work now. It can be switched on while the kernel runs."""
    return "kfence_enabled" in symbols and bool(read_u32(memory, symbols["kfence_enabled"]) & 0xFF)


def pool_regions(
    memory: KernelMemory, symbols: Mapping[str, int], page_offset: int, read_regions: Callable[[int, int], MapReading]
) -> list[int]:
    """The 2M regions that the pool lies in; none where KFENCE is off."""
    if "__kfence_pool" not in symbols or not is_on(memory, symbols):
        return []
    pool = read_u64(memory, symbols["__kfence_pool"])
    if pool < page_offset:
        return []
    first_pfn = (pool - page_offset) >> PAGE_SHIFT
    first = first_pfn // PAGES_PER_2M
    found = []
    for region in range(first, first + _MAX_REGIONS):
        pages = read_regions(region, 1).pages
        begin = max(first_pfn - region * PAGES_PER_2M, 0)
        guard = begin + (region * PAGES_PER_2M + begin - first_pfn + 1) % 2
        if not len(pages) or pages[0][guard] != PAGE_ABSENT:
            break
        found.append(region)
    return found
