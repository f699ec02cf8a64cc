# SPDX-License-Identifier: Apache-2.0
"""How much of the direct map a processor's TLB can hold: its geometry as CPUID says it, and the arithmetic."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uaptrace.abi.units import LEVELS, Level, pages_to_bytes
from uaptrace.kernel.tlb import Cpuid, data_tlb, tlb_of_this_processor
from uaptrace.model.tlb import TlbPart, largest_level, reach_bytes

K4, M2, G1 = Level.K4, Level.M2, Level.G1
PROCESSORS = json.loads((Path(__file__).parents[1] / "data/cpuid.json").read_text())
GIB = 1 << 30


def cpuid_of(name: str) -> Cpuid:
    """The processor's leaves; zeros where the capture has none, as a processor answers beyond its last subleaf."""
    leaves = PROCESSORS[name]["leaves"]

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        words = leaves.get(f"{leaf:08x}.{subleaf}", "0-0-0-0").split("-")
        eax, ebx, ecx, edx = (int(word, 16) for word in words)
        return eax, ebx, ecx, edx

    return cpuid


# From Intel's 64 and IA-32 Architectures Optimization Reference Manual and AMD's Software Optimization Guides for families 17h and 19h.
KNOWN = {
    "Intel Haswell-EP": {K4: (2, 1024), M2: (2, 1024), G1: (1, 4)},
    "Intel Cascade Lake": {K4: (2, 1536), M2: (2, 1536), G1: (2, 16)},
    "Intel Sapphire Rapids": {K4: (2, 2048), M2: (2, 1024), G1: (2, 1024)},
    "AMD Rome": {K4: (2, 2048), M2: (2, 2048), G1: (1, 64)},
    "AMD Genoa": {K4: (2, 3072), M2: (2, 3072), G1: (1, 72)},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_largest_level_is_what_the_manuals_say(name: str) -> None:
    parts = data_tlb(cpuid_of(name))
    assert {size: largest_level(parts, size) for size in LEVELS} == KNOWN[name]


@pytest.mark.parametrize(
    ("name", "present", "reach"),
    [
        # 64 GiB in 2M mappings: as many as there are entries.
        ("Intel Haswell-EP", {M2: 32768}, 1024 * 2 << 20),
        ("Intel Cascade Lake", {M2: 32768}, 1536 * 2 << 20),
        ("AMD Genoa", {M2: 32768}, 3072 * 2 << 20),
        # In 1G mappings: all of it, or what there are entries for.
        ("AMD Rome", {G1: 64}, 64 * GIB),
        ("Intel Cascade Lake", {G1: 64}, 16 * GIB),
        # In 4K mappings only.
        ("AMD Rome", {K4: 1 << 24}, 2048 * 4096),
        # 4K entries take the places that 2M ones leave, where they share.
        ("Intel Cascade Lake", {M2: 1000, K4: 1 << 20}, 1000 * (2 << 20) + 536 * 4096),
        ("Intel Sapphire Rapids", {G1: 1000, M2: 1024, K4: 1 << 20}, 1000 * GIB + 1024 * (2 << 20) + 24 * 4096),
    ],
)
def test_reach_of_known_processors(name: str, present: dict[Level, int], reach: int) -> None:
    assert reach_bytes(data_tlb(cpuid_of(name)), present) == reach


def test_a_mapping_of_a_size_without_entries_is_held_in_pieces() -> None:
    assert reach_bytes([TlbPart(2, 1024, (K4, M2))], {G1: 64}) == 1024 * 2 << 20
    assert reach_bytes([TlbPart(2, 1024, (K4,))], {G1: 1, M2: 1}) == 1024 * 4096


def test_an_unknown_tlb_has_no_reach() -> None:
    assert reach_bytes([], {M2: 1}) is None
    assert data_tlb(lambda leaf, subleaf: (0, 0, 0, 0)) == ()


@given(
    st.lists(st.builds(TlbPart, st.just(1), st.integers(0, 3), st.sampled_from([(K4,), (M2,), (G1,), (K4, M2), (K4, G1)])), max_size=3),
    st.fixed_dictionaries({size: st.integers(0, 3) for size in LEVELS}),
)
def test_no_other_way_to_fill_it_holds_more(parts: list[TlbPart], present: dict[Level, int]) -> None:
    """Every way to give each entry a size that it can hold, tried one by one."""
    if {size for part in parts for size in part.sizes} != set(LEVELS):
        return
    entries = [part.sizes for part in parts for _ in range(part.nr_entries)]
    best = 0
    for sizes in itertools.product(*entries):
        used = {size: min(sizes.count(size), present[size]) for size in LEVELS}
        best = max(best, sum(number * pages_to_bytes(size.nr_pages) for size, number in used.items()))
    assert reach_bytes(parts, present) == best


def test_this_processor_answers() -> None:
    """The module in C is there, wherever a C compiler was."""
    assert all(part.nr_entries and part.sizes for part in tlb_of_this_processor())
