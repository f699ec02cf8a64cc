# SPDX-License-Identifier: Apache-2.0
"""Facts that the loader takes from the kernel, where they differ from kernel to kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from uaptrace.abi.hooks import SERIES_SYMBOL, PageAllocHook
from uaptrace.ebpf.btf import enumerator_value
from uaptrace.loader.constants import gfp_unmapped
from uaptrace.loader.designs import design_symbols, designs_in
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.plan import NONE, plan_hooks, wanted_symbols

# As Linux 6.1 with the series prints it: a mask of several flags, and two flags of their own.
FORMAT = (
    'print fmt: ... __print_flags(REC->gfp_flags, "|", {( unsigned long)((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u)), "GFP_NOFS"}, '
    '{( unsigned long)(( gfp_t)0x800000u), "__GFP_ZEROTAGS"} , {( unsigned long)(( gfp_t)0x10000000u), "__GFP_UNMAPPED"} ) : "none"'
)


def btf_with(*enums: tuple[str, dict[str, int]]) -> bytes:
    """Raw BTF (Documentation/bpf/btf.rst) of the enums, each with its name and enumerators."""
    strings, types = b"\0", b""

    def name(text: str) -> int:
        nonlocal strings
        if not text:
            return 0
        if (kept := strings.find(b"\0" + text.encode() + b"\0")) >= 0:
            return kept + 1
        at = len(strings)
        strings += text.encode() + b"\0"
        return at

    for enum, values in enums:
        types += struct.pack("<III", name(enum), 6 << 24 | len(values), 4)
        types += b"".join(struct.pack("<Ii", name(key), value) for key, value in values.items())
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def test_a_gfp_bit_is_looked_up_where_it_is_an_enumerator() -> None:
    btf = btf_with(("zone", {"ZONE_DMA": 0}), ("", {"___GFP_DMA_BIT": 0, "___GFP_UNMAPPED_BIT": 26, "___GFP_LAST_BIT": 27}))
    assert enumerator_value(btf, "___GFP_UNMAPPED_BIT") == 26
    assert enumerator_value(btf, "___GFP_LAST_BIT") == 27
    assert enumerator_value(btf, "ZONE_DMA") is None, "of an enum that has a name"
    assert enumerator_value(btf, "___GFP_UNMAPPED") is None, "the beginning of a name is not the name"
    assert gfp_unmapped(26, "") == 1 << 26


def test_an_enumerator_is_that_of_the_enum_with_the_right_name() -> None:
    btf = btf_with(
        ("", {"PB_unmapped": 1}), ("pageblock_bits_of_old", {"PB_unmapped": 2}), ("pageblock_bits", {"PB_migrate": 0, "PB_unmapped": 7})
    )
    assert enumerator_value(btf, "PB_unmapped", "pageblock_bits") == 7
    assert enumerator_value(btf, "PB_unmapped") == 1
    assert enumerator_value(btf, "PB_unmapped", "pageblock") is None


def test_a_number_that_looks_like_the_name_is_not_taken_for_it() -> None:
    name_at = len(b"\0A_BIT\0")
    btf = btf_with(("", {"A_BIT": name_at, "B_BIT": 5}))
    assert enumerator_value(btf, "B_BIT") == 5


@pytest.mark.parametrize(
    ("names", "flag"),
    [
        (FORMAT, 0x10000000),
        (FORMAT.replace("__GFP_UNMAPPED", "__GFP_OTHER"), 0),
        (FORMAT.replace("0x10000000u", "0x10000000u | 0x4u"), 0),
        ("", 0),
    ],
)
def test_before_gfp_bits_were_enumerators_the_tracepoint_has_the_flag(names: str, flag: int) -> None:
    assert gfp_unmapped(None, names) == flag


def test_without_the_flag_what_needs_it_is_missing_with_the_reason() -> None:
    symbols = dict.fromkeys(wanted_symbols(), 1)
    for page_alloc, name in ((PageAllocHook.ENTRY, "ALLOC_PAGES"), (PageAllocHook.TRACEPOINT, "PAGE_ALLOC")):
        plan = {p.hook.name: p for p in plan_hooks(symbols, None, lambda _: True, page_alloc=page_alloc, unknown={"gfp_unmapped"})}
        assert plan[name].mechanism == NONE
        assert plan[name].is_missing
        assert "gfp flag" in plan[name].reason
        assert plan["CPA"].mechanism != NONE


def test_without_the_value_that_says_that_a_fault_gave_a_page_its_hook_is_missing_with_the_reason() -> None:
    symbols = dict.fromkeys(wanted_symbols(), 1)
    asked = plan_hooks(symbols, None, lambda _: True, page_alloc=PageAllocHook.CALLERS, unknown={"vm_fault_locked"})
    plan = {p.hook.name: p for p in asked}
    assert (plan["SECRETMEM_FAULT"].mechanism, plan["SECRETMEM_FAULT"].is_missing) == (NONE, True)
    assert plan["SECRETMEM_FAULT"].reason == "the value of VM_FAULT_LOCKED is not in BTF"
    assert [p.hook.name for p in plan.values() if p.is_missing] == ["SECRETMEM_FAULT"]


@pytest.mark.parametrize(("text", "number"), [("0-239\n", 240), ("0\n", 1), ("0-1,4-7\n", 8), ("0,2", 3), ("", os.cpu_count())])
def test_there_is_a_place_for_each_possible_cpu(text: str, number: int, tmp_path: Path) -> None:
    possible = tmp_path / "sys/devices/system/cpu/possible"
    possible.parent.mkdir(parents=True)
    possible.write_text(text)
    assert read_host_facts(set(), tmp_path).nr_cpus == number


@pytest.mark.parametrize(
    ("symbols", "vmstat", "names"),
    [
        (set(), "nr_free_pages 7\n", []),
        ({SERIES_SYMBOL}, "nr_free_pages 7\n", ["unmapped_alloc"]),
        (
            set(),
            "nr_free_pages 7\nnr_free_pages_blocks_mapped 3\nnr_free_pages_blocks_unmapped 2\n",
            ["unmapped pages of the page allocator"],
        ),
        ({SERIES_SYMBOL, "folio_zap_direct_map"}, "", ["unmapped_alloc", "guest_memfd without direct map"]),
    ],
)
def test_designs_are_told_by_names_that_only_they_bring(symbols: set[str], vmstat: str, names: list[str]) -> None:
    assert [design.name for design in designs_in(symbols, vmstat)] == names
    assert symbols - {SERIES_SYMBOL} <= design_symbols()
