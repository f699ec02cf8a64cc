# SPDX-License-Identifier: Apache-2.0
"""The memory that a replay begins with: as fragmented as asked for, or with a recorded host's free blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.abi.units import Level
from uaptrace.policies.physical_memory import (
    Memory,
    free_blocks,
    fresh_map,
    memory_from_buddyinfo,
    parse_buddyinfo,
    recorded_memory,
    synthetic_memory,
)
from uaptrace.policies.rng import random_words, uniform

BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      2
Node 0, zone    DMA32      3      4      3      4      5      1      3      2      3      3    600
"""


def free_pages(memory: Memory) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    free = np.zeros(memory.nr_pages, np.bool_)
    for pfn, order in zip(memory.free_pfns.tolist(), memory.free_orders.tolist(), strict=True):
        assert pfn % (1 << order) == 0
        assert not free[pfn : pfn + (1 << order)].any()
        free[pfn : pfn + (1 << order)] = True
    return free


@pytest.mark.parametrize("wanted", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_fragmentation_is_the_kernels_unusable_index(wanted: float) -> None:
    memory = synthetic_memory(1 << 30, wanted, 7)
    free = free_pages(memory)
    in_large = free.reshape(-1, 512).all(axis=1).sum() * 512
    assert 1 - in_large / free.sum() == pytest.approx(wanted, abs=0.01)
    assert memory.fragmentation == pytest.approx(wanted, abs=0.01)
    assert memory.size_bytes == 1 << 30
    assert memory.free_bytes == int(free.sum()) * 4096


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.floats(0, 1))
def test_free_blocks_are_all_that_could_be_merged(seed: int, share: float) -> None:
    free = uniform(seed, "test", 4096) < share
    pfns, orders = free_blocks(free)
    again = np.zeros(4096, np.bool_)
    blocks = set(zip(pfns.tolist(), orders.tolist(), strict=True))
    for pfn, order in blocks:
        again[pfn : pfn + (1 << order)] = True
        assert order == 10 or (pfn ^ (1 << order), order) not in blocks
    assert np.array_equal(free, again)


def test_memory_begins_in_the_largest_mappings() -> None:
    level = synthetic_memory((2 << 30) + (64 << 20), 0.0, 1).level
    assert np.count_nonzero(level == Level.G1) == 1024
    assert np.count_nonzero(level == Level.M2) == 32


def test_buddyinfo_gives_just_those_blocks_and_none_that_would_merge() -> None:
    blocks = parse_buddyinfo(BUDDYINFO)
    assert blocks == (3, 4, 3, 4, 5, 1, 3, 2, 4, 4, 602)
    level = fresh_map(2048)
    level[100:103] = Level.NONE
    memory = memory_from_buddyinfo(level, blocks, 5)
    assert np.bincount(memory.free_orders, minlength=11).tolist() == list(blocks)
    free = free_pages(memory)
    assert not free.reshape(-1, 512)[100:103].any()
    assert np.bincount(free_blocks(free)[1], minlength=11).tolist() == list(blocks)


def test_buddyinfo_that_does_not_fit_is_told_in_one_line() -> None:
    with pytest.raises(RecordingError, match="do not fit"):
        memory_from_buddyinfo(fresh_map(8), parse_buddyinfo(BUDDYINFO), 1)
    for text in ("", "nonsense", "Node 0, zone DMA 1 2 3", "Node 0, zone x" + " -5" * 11, "Node 0, zone x" + " 1" * 10 + " x"):
        with pytest.raises(ValueError):  # noqa: PT011 - a different text for each
            parse_buddyinfo(text)


def test_a_recorded_host_keeps_its_holes_and_gets_its_map_only_on_demand() -> None:
    levels = fresh_map(1024)
    levels[:512] = Level.M2
    levels[0] = Level.K4
    levels[200:204] = Level.NONE
    options = {"size_bytes": None, "host_bytes": 2 << 30, "fragmentation": 0.0, "default_fragmentation": 0.3, "seed": 1}
    fresh = recorded_memory(levels, "", keep_map=False, **options)  # type: ignore[arg-type]
    assert fresh.level[0] == Level.M2  # a hole in the first GiB: no 1G entry
    assert (fresh.level[512:] == Level.G1).all()
    assert (fresh.level[200:204] == Level.NONE).all()
    assert not free_pages(fresh).reshape(-1, 512)[200:204].any()
    assert fresh.size_bytes == (2 << 30) - (8 << 20)
    kept = recorded_memory(levels, "", keep_map=True, **options)  # type: ignore[arg-type]
    assert np.array_equal(kept.level, levels)
    with pytest.raises(UsageError):
        recorded_memory(None, "", keep_map=True, **options)  # type: ignore[arg-type]
    with pytest.raises(RecordingError):
        recorded_memory(levels, "garbage", keep_map=False, **options | {"fragmentation": None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "fragmentation"), [(1 << 20, 0.1), (1 << 50, 0.1), (1 << 30, -0.1), (1 << 30, 1.5), (1 << 30, float("nan"))]
)
def test_sizes_that_make_no_sense_are_refused(size: int, fragmentation: float) -> None:
    with pytest.raises(UsageError):
        synthetic_memory(size, fragmentation, 1)


def test_random_numbers_are_splitmix64s() -> None:
    # The generator of Steele, Lea and Flood: same state, same words on every machine and for ever.
    state = 1234567
    words = []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(z ^ (z >> 31))
    assert random_words(1234567, "", 3).tolist() == words == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_recorded_map_beyond_the_engine_s_numbers_is_refused() -> None:
    """It numbers pages by 32 bits."""
    levels = np.zeros((1 << 21) + 2, np.uint8)
    levels[:8] = Level.M2
    options = {"size_bytes": None, "host_bytes": 16 << 20, "fragmentation": 0.0, "default_fragmentation": 0.3, "keep_map": True, "seed": 1}
    with pytest.raises(UsageError, match="--memory"):
        recorded_memory(levels, "", **options)  # type: ignore[arg-type]
