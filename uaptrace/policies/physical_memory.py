# SPDX-License-Identifier: Apache-2.0
"""The physical memory that requests meet: which pages are free, in which blocks, and how the direct map begins.

Sizes are in 4K pages. Memory is one zone; it begins at page 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE, PAGES_PER_2M, PMD_ORDER, REGIONS_PER_1G, Level, format_bytes
from uaptrace.model.updates import LARGE_ABSENT
from uaptrace.policies.engine_layout import MOVABLE, UNMOVABLE
from uaptrace.policies.rng import permutation, random_words, uniform

TOP_BLOCK: Final = 1 << (NR_ORDERS - 1)
"""Pages of the largest block of the page allocator: memory is a multiple of it (4 MiB)."""

UNMOVABLE_SHARE: Final = 0.25
"""Share of the 2M blocks in part use that hold the kernel's own memory: it is their holes that its next allocations go to."""

MIN_BYTES: Final = 16 << 20
MAX_BYTES: Final = 1 << 40
MAX_SPAN_BYTES: Final = 1 << 42
"""Largest recorded range of addresses, holes included: the engine numbers pages by 32 bits, and has a dozen bytes for each."""


@dataclass(frozen=True, slots=True)
class Memory:
    """``level``: uint8, Level of each 2M region, NONE for holes. ``free_pfns``, ``free_orders``: the free blocks, in the order in
    which they stand on their lists, first one first. ``block_type``: uint8, migrate type of each 2M block. All other pages are in use."""

    level: NDArray[np.uint8]
    free_pfns: NDArray[np.int64]
    free_orders: NDArray[np.int64]
    block_type: NDArray[np.uint8]
    fragmentation: float
    """Share of the free pages that is in blocks below 2M: extfrag/unusable_index for order 9."""

    @property
    def nr_pages(self) -> int:
        """Pages of the address range, holes included."""
        return len(self.level) * PAGES_PER_2M

    @property
    def size_bytes(self) -> int:
        """Bytes of memory, without holes."""
        return int(np.count_nonzero(self.level)) * PAGES_PER_2M * PAGE_SIZE

    @property
    def free_bytes(self) -> int:
        return int((1 << self.free_orders).sum()) * PAGE_SIZE


def fresh_map(nr_regions: int) -> NDArray[np.uint8]:
    """Every whole aligned 1G by one entry, the rest by 2M entries."""
    level = np.full(nr_regions, Level.M2, np.uint8)
    level[: nr_regions - nr_regions % REGIONS_PER_1G] = Level.G1
    return level


def synthetic_memory(size_bytes: int, fragmentation: float, seed: int) -> Memory:
    """Memory of which a part is in use so that ``fragmentation`` of the free pages is in blocks below 2M.

    That is the kernel's unusable free space index for order 9 (debugfs, extfrag/unusable_index), 0 to 1. A share
    2f / (1 + f) of the 2M blocks is half in use, in pieces of 1 to 32 pages, a quarter of them by unmovable memory; the others are free.
    """
    if not MIN_BYTES <= size_bytes <= MAX_BYTES:
        raise UsageError(f"--memory is {format_bytes(size_bytes)}; give {format_bytes(MIN_BYTES)} to {format_bytes(MAX_BYTES)}")
    if not 0 <= fragmentation <= 1:
        raise UsageError(f"--fragmentation is {fragmentation:g}; give a number from 0 to 1")
    nr_blocks = size_bytes // (TOP_BLOCK * PAGE_SIZE) * 2
    nr_used = round(2 * fragmentation / (1 + fragmentation) * nr_blocks)
    free = np.ones((nr_blocks, PAGES_PER_2M), np.bool_)
    chosen = permutation(seed, "memory.blocks", nr_blocks)[:nr_used]
    if nr_used:
        free[chosen] = _half_in_use(nr_used, seed)
    pfns, orders = free_blocks(free.reshape(-1))
    return _memory(fresh_map(nr_blocks), pfns, orders, chosen, seed)


def _half_in_use(nr_blocks: int, seed: int) -> NDArray[np.bool_]:
    """Blocks of 512 pages, each cut into 16 runs whose pages are used in aligned pieces of 1, 2, 4, ... or 32 pages."""
    runs = nr_blocks * 16
    piece = (random_words(seed, "memory.pieces", runs) % np.uint64(6)).astype(np.int64)
    draws = uniform(seed, "memory.used", runs * 32).reshape(runs, 32)
    source = np.arange(32)[None, :] >> piece[:, None] << piece[:, None]
    return (np.take_along_axis(draws, source, axis=1) < 0.5).reshape(nr_blocks, PAGES_PER_2M)


def free_blocks(free: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The blocks that a buddy allocator makes of free pages: (pfns, orders), by order, then ascending."""
    level: NDArray[np.bool_] = free
    pfns: list[NDArray[np.int64]] = []
    orders: list[NDArray[np.int64]] = []
    for order in range(NR_ORDERS):
        pairs: NDArray[np.bool_] = (
            np.logical_and(level[0::2], level[1::2]) if order < NR_ORDERS - 1 else np.zeros(len(level) // 2, np.bool_)
        )
        alone = level if order == NR_ORDERS - 1 else level & ~np.repeat(pairs, 2)
        found = np.flatnonzero(alone).astype(np.int64) << order
        pfns.append(found)
        orders.append(np.full(len(found), order, np.int64))
        level = pairs
    return np.concatenate(pfns), np.concatenate(orders)


def _memory(
    level: NDArray[np.uint8], pfns: NDArray[np.int64], orders: NDArray[np.int64], partly_used: NDArray[np.int64], seed: int
) -> Memory:
    """``partly_used``: blocks, in random order, of which the first ones hold unmovable memory.

    As after boot the lowest block is first on its list; memory that was in use has them in no order.
    """
    block_type = np.full(len(level), MOVABLE, np.uint8)
    block_type[partly_used[: round(UNMOVABLE_SHARE * len(partly_used))]] = UNMOVABLE
    if len(partly_used):
        order = permutation(seed, "memory.lists", len(pfns))
        pfns, orders = pfns[order], orders[order]
    free = int((1 << orders).sum())
    small = int((1 << orders[orders < PMD_ORDER]).sum())
    return Memory(level, pfns, orders, block_type, small / free if free else 0.0)


_MAX_DIGITS: Final = 15


def parse_buddyinfo(text: str) -> tuple[int, ...]:
    """Free blocks by order, all zones of /proc/buddyinfo added up. ValueError where the text is not that."""
    totals = [0] * NR_ORDERS
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("empty")
    for line in lines:
        head, zone, counts = line.partition("zone")
        if not head.startswith("Node") or not zone:
            raise ValueError(f"not a line of /proc/buddyinfo: {line!r}")
        words = counts.split()[1:]
        if len(words) != NR_ORDERS:
            raise ValueError(f"{len(words)} orders, not {NR_ORDERS}")
        if not all(word.isdecimal() and len(word) <= _MAX_DIGITS for word in words):
            raise ValueError(f"not numbers of blocks: {counts.strip()!r}")
        numbers = [int(word) for word in words]
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
    return tuple(totals)


def memory_from_buddyinfo(level: NDArray[np.uint8], blocks: Sequence[int], seed: int) -> Memory:
    """Memory with just that many free blocks of each order, at random places that no merge would change.

    ``level``: uint8 for each 2M region, NONE for holes. RecordingError where so many do not fit.
    """
    nr_regions = -(-len(level) // 2) * 2  # whole blocks of the largest order
    levels = np.zeros(nr_regions, np.uint8)
    levels[: len(level)] = level
    # Blocks of the order at hand that are not free. One that is cut for a free half keeps a page in use in the other half, so
    # that no merge would change the numbers; so each must keep one.
    used = np.flatnonzero((levels.reshape(-1, 2) != Level.NONE).all(axis=1)).astype(np.int64) * TOP_BLOCK
    lone = np.flatnonzero(levels != Level.NONE).astype(np.int64) * PAGES_PER_2M
    lone = lone[~np.isin(lone & ~(TOP_BLOCK - 1), used)]
    pfns: list[NDArray[np.int64]] = []
    for order in range(NR_ORDERS - 1, -1, -1):
        wanted = int(blocks[order])
        if wanted > len(used):
            raise RecordingError(
                f"{wanted} free blocks of order {order} do not fit into {format_bytes(len(level) * PAGES_PER_2M * PAGE_SIZE)}; "
                "give --memory and --fragmentation instead of the recorded buddyinfo"
            )
        mixed = used[permutation(seed, f"buddyinfo.{order}", len(used))]
        chosen, rest = mixed[:wanted], mixed[wanted:]
        if order == NR_ORDERS - 1:
            pfns.append(chosen)
            used = rest
        else:
            upper = (random_words(seed, f"buddyinfo.half.{order}", wanted) & np.uint64(1)).astype(np.int64) << order
            pfns.append(chosen + upper)
            # ``used`` holds blocks of the next higher order here: cut them.
            used = np.concatenate([chosen + ((1 << order) - upper), rest, rest + (1 << order)])
        if order == NR_ORDERS - 2:
            used = np.concatenate([used, lone])
    found = np.concatenate(pfns)
    orders = np.repeat(np.arange(NR_ORDERS - 1, -1, -1), [len(p) for p in pfns]).astype(np.int64)
    small = np.unique(found[orders < PMD_ORDER] // PAGES_PER_2M)
    return _memory(levels, found, orders, small[permutation(seed, "buddyinfo.types", len(small))], seed)


def recorded_memory(
    levels: NDArray[np.uint8] | None,
    buddyinfo: str,
    *,
    size_bytes: int | None,
    host_bytes: int | None,
    fragmentation: float | None,
    default_fragmentation: float,
    keep_map: bool,
    seed: int,
) -> Memory:
    """The memory of a recorded host, as far as the recording tells: its holes and size, its free blocks, on demand its map.

    ``levels``: MapReading.levels of the first complete reading (uint8 for each 2M region), None where there is none. What the caller
    gives (``size_bytes``, ``fragmentation``) counts more than what was recorded. ``keep_map``: begin with the recorded levels instead of
    the largest that fit. UsageError where that is not to be had.
    """
    if keep_map and (levels is None or size_bytes is not None):
        raise UsageError("--map recorded needs a recording with a complete reading of the direct map, and no --memory")
    if levels is None or size_bytes is not None:
        size = size_bytes or host_bytes or 0
        return synthetic_memory(size, default_fragmentation if fragmentation is None else fragmentation, seed)
    if len(levels) * PAGES_PER_2M * PAGE_SIZE > MAX_SPAN_BYTES:
        span = format_bytes(len(levels) * PAGES_PER_2M * PAGE_SIZE)
        raise UsageError(f"the recorded map spans {span}, more than {format_bytes(MAX_SPAN_BYTES)}; give --memory for a smaller one")
    clean = (levels & ~np.uint8(LARGE_ABSENT)).astype(np.uint8)
    level = clean if keep_map else _largest_map(clean)
    if fragmentation is None and buddyinfo:
        try:
            blocks = parse_buddyinfo(buddyinfo)
        except ValueError as error:
            raise RecordingError(f"the recording's buddyinfo cannot be read ({error}); give --fragmentation") from error
        return memory_from_buddyinfo(level, blocks, seed)
    # The same share of blocks as in a memory of that size without holes.
    wanted = default_fragmentation if fragmentation is None else fragmentation
    whole = synthetic_memory(max(MIN_BYTES, -(-len(level) // 2) * TOP_BLOCK * PAGE_SIZE), wanted, seed)
    padded = np.zeros(len(whole.level), np.uint8)
    padded[: len(level)] = level
    free = np.repeat(padded.reshape(-1, 2).all(axis=1), 2)[whole.free_pfns // PAGES_PER_2M]
    return Memory(padded, whole.free_pfns[free], whole.free_orders[free], whole.block_type, whole.fragmentation)


def _largest_map(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same memory with 1G entries wherever a whole one is memory, 2M entries elsewhere."""
    out = np.where(levels == Level.NONE, np.uint8(Level.NONE), np.uint8(Level.M2)).astype(np.uint8)
    whole = len(out) // REGIONS_PER_1G * REGIONS_PER_1G
    gigas = (out[:whole].reshape(-1, REGIONS_PER_1G) != Level.NONE).all(axis=1)
    out[:whole][np.repeat(gigas, REGIONS_PER_1G)] = Level.G1
    return out
