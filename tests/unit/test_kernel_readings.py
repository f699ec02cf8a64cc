# SPDX-License-Identifier: Apache-2.0
"""Figures of real kernels are read as they are; text that is none gives a clear error."""

from __future__ import annotations

import gzip
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.guest_session import entries_in_dump
from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.abi.hooks import HOOKS, SERIES_SYMBOL, Need, PageAllocHook
from uaptrace.abi.units import Level
from uaptrace.kernel.debugfs import parse_unmapped_alloc
from uaptrace.kernel.kallsyms import name_addresses
from uaptrace.kernel.procfs import collapse_counters, direct_map_bytes, parse_meminfo, parse_vmstat, read_split_counters, split_counters
from uaptrace.kernel.ptdump import parse_ptdump
from uaptrace.kernel.zones import parse_zoneinfo, zone_ranges
from uaptrace.loader.host_facts import HostFacts, parse_code_bytes, parse_kallsyms, parse_lockdown
from uaptrace.loader.loading import with_callers
from uaptrace.loader.plan import CALLER, CALLERS, FENTRY, KPROBE, NONE, TRACEPOINT, plan_hooks
from uaptrace.loader.program import KernelConstants
from uaptrace.model.updates import PAGE_PRESENT

DATA = Path(__file__).parents[1] / "data" / "kernels"
KERNELS = sorted(path.name for path in DATA.iterdir())


@pytest.mark.parametrize("kernel", KERNELS)
def test_split_counters_and_sizes_of_real_kernels(kernel: str) -> None:
    vmstat = parse_vmstat((DATA / kernel / "proc/vmstat").read_text())
    splits = split_counters(vmstat)
    assert splits is not None
    assert splits == read_split_counters(DATA / kernel)
    assert set(splits) == {Level.M2, Level.G1}
    sizes = direct_map_bytes(parse_meminfo((DATA / kernel / "proc/meminfo").read_text()))
    assert sizes is not None
    assert all(size % 4096 == 0 for size in sizes.values())
    assert sum(sizes.values()) > 1 << 30


def test_a_kernel_without_a_counter_has_none_rather_than_zero() -> None:
    assert split_counters({"nr_free_pages": 5}) is None
    assert collapse_counters({"direct_map_level2_splits": 5}) is None
    assert direct_map_bytes({"MemTotal": 5}) is None


@pytest.mark.parametrize("kernel", KERNELS)
def test_zones_of_real_kernels(kernel: str) -> None:
    zones = parse_zoneinfo((DATA / kernel / "proc/zoneinfo").read_text())
    assert "DMA32" in {name for _, name, _, _ in zones}
    assert all(first < end for _, _, first, end in zones)
    assert zone_ranges(["dma32"], [], DATA / kernel) == [
        (f"node {node} {name}", first, end) for node, name, first, end in zones if name == "DMA32"
    ]
    with pytest.raises(UsageError, match="no zone Fast: it has"):
        zone_ranges(["Fast"], [], DATA / kernel)


def test_rows_of_the_cache_as_the_patched_kernel_writes_them() -> None:
    rows = parse_unmapped_alloc((DATA / "patched" / "sys/kernel/debug/unmapped_alloc").read_text())
    assert len(rows.free) == len(rows.cached) == len(rows.released) == 11
    free, cached, released = (sum(n << order for order, n in enumerate(row)) for row in (rows.free, rows.cached, rows.released))
    assert 0 < free <= cached - released


@pytest.mark.parametrize(
    "text", ["", "Free: 1 2\nCached: 1 2\n", "Free: x\nCached: 1\nReleased: 1\n", "Free: 1\nCached: 1 2\nReleased: 1\n"]
)
def test_rows_that_are_none_are_said_to_be_none(text: str) -> None:
    with pytest.raises(UaptraceError, match="debugfs unmapped_alloc has"):
        parse_unmapped_alloc(text)


def test_the_kernels_dump_of_its_page_tables() -> None:
    """What is not present in it is at least what the cache's own rows of the same moment say is free in it."""
    text = gzip.decompress((DATA / "patched" / "ptdump.gz").read_bytes()).decode()
    page_offset = int((DATA / "patched" / "page_offset").read_text(), 16)
    reading = parse_ptdump(text, page_offset, 1 << 42, 0, 0)
    rows = parse_unmapped_alloc((DATA / "patched" / "sys/kernel/debug/unmapped_alloc").read_text())
    free_pages = sum(n << order for order, n in enumerate(rows.free))
    present = int((reading.levels == Level.M2).sum()) * 512 + int((reading.pages == PAGE_PRESENT).sum())
    memory = parse_meminfo((DATA / "patched" / "proc/meminfo").read_text())["MemTotal"] // 4096
    assert free_pages > 0
    assert memory < present + free_pages < memory * 1.1
    not_present = int((reading.levels == Level.NONE).sum()) * 512 + int((reading.pages != PAGE_PRESENT).sum())
    assert not_present >= free_pages
    large = int((reading.levels == Level.M2).sum()) + int((reading.levels == Level.G1).sum()) // 512
    assert entries_in_dump(text) == large + int((reading.pages == PAGE_PRESENT).sum())
    with pytest.raises(UaptraceError, match="no direct map"):
        parse_ptdump("---[ User Space ]---\n", page_offset, 1 << 42, 0, 0)


@given(
    st.lists(
        st.tuples(st.integers(0xFFFFFFFF81000000, 0xFFFFFFFF82000000), st.sampled_from("tTwWdDrb")), min_size=1, unique_by=lambda x: x[0]
    )
)
def test_an_address_has_the_name_of_the_function_before_it(symbols: list[tuple[int, str]]) -> None:
    text = "".join(
        f"{address:016x} {kind} f_{address:x}\t[mod]\n" if address % 2 else f"{address:016x} {kind} f_{address:x}\n"
        for address, kind in symbols
    )
    functions = sorted(address for address, kind in symbols if kind in "tTwW")
    wanted = [address + offset for address, _ in symbols for offset in (0, 5)]
    named = name_addresses(text.encode(), wanted)
    for address in wanted:
        before = [f for f in functions if f <= address and address - f < 1 << 20]
        expected = None if not before else f"f_{before[-1]:x}+{address - before[-1]:#x}" + (" [mod]" if before[-1] % 2 else "")
        assert named.get(address) == expected


@given(st.binary(max_size=300))
def test_any_text_is_taken_without_a_crash(data: bytes) -> None:
    assert parse_kallsyms(b"ffff T wanted\n", ["wanted"]) == {"wanted": 0xFFFF}
    assert isinstance(name_addresses(data, [1, 2**63]), dict)


def test_names_of_a_real_kernel() -> None:
    text = gzip.decompress((DATA / "patched" / "kallsyms.gz").read_bytes())
    address = parse_kallsyms(text, ["unmapped_pages_alloc"])["unmapped_pages_alloc"]
    assert name_addresses(text, [address, address + 0x1A]) == {
        address: "unmapped_pages_alloc+0x0",
        address + 0x1A: "unmapped_pages_alloc+0x1a",
    }


def test_lockdown() -> None:
    assert parse_lockdown("none [integrity] confidentiality\n") == "integrity"
    assert parse_lockdown(None) is None
    assert parse_lockdown("") is None


def all_symbols() -> dict[str, int]:
    return {symbol: 1 for hook in HOOKS for symbol in hook.symbols}


ON_REQUEST = ("PAGE_ALLOC", "ALLOC_PAGES", "ALLOC_PAGES_COUNT", "SECRETMEM_FAULT")


def test_every_hook_stands_on_its_own() -> None:
    """One function that is missing takes nothing else down, and is said to be missing."""
    symbols = all_symbols()
    for hook in HOOKS:
        without = {name: 1 for name in symbols if name not in hook.symbols}
        plan = {p.hook.name: p for p in plan_hooks(without, None, lambda _: True)}
        assert plan[hook.name].mechanism == NONE
        assert plan[hook.name].reason
        # What this kernel has nothing of is not missing, nor what was not asked for.
        assert plan[hook.name].is_missing == (hook.need is not Need.OPTIONAL and hook.name not in ("CACHE_ALLOC", *ON_REQUEST))
        if hook.name != "CACHE_ALLOC":  # without it there is no series
            others = {name for name, p in plan.items() if p.mechanism == NONE} - {hook.name, *ON_REQUEST}
            assert others == set()


def test_fentry_first_kprobe_where_types_are_missing_or_it_was_refused() -> None:
    symbols = all_symbols()
    assert {p.mechanism for p in plan_hooks(symbols, None, lambda _: True) if p.hook.name not in ON_REQUEST} == {FENTRY}
    assert {p.mechanism for p in plan_hooks(symbols, None, lambda _: False) if p.hook.name not in ON_REQUEST} == {KPROBE}
    stock = {name: 1 for name in symbols if name != SERIES_SYMBOL}
    counted = {p.hook.name: p for p in plan_hooks(stock, None, lambda _: True, count_flushes=True)}
    assert counted["FLUSH_RANGE"].mechanism == FENTRY, "asked for, on a kernel without the series too"
    refused = {p.hook.name: p for p in plan_hooks(symbols, None, lambda _: True, refused={"CPA": ["R2", "R3"], "SET_INVALID": ["R1"]})}
    assert refused["CPA"].mechanism == NONE
    assert refused["CPA"].is_refused
    assert refused["CPA"].reason == "R3", "what the kernel said last"
    assert refused["SET_INVALID"].mechanism == KPROBE
    assert refused["SET_DEFAULT"].mechanism == FENTRY


def test_what_is_one_attribute_change_is_seen_by_where_that_returns() -> None:
    """Half of what an event cost was programs on set_direct_map_*(). Where the return cannot tell them apart they have programs."""
    stock = {name: 1 for name in all_symbols() if name != SERIES_SYMBOL}
    sizes = dict.fromkeys(stock, 64)

    def mechanisms(symbols: dict[str, int] = stock, code_bytes: dict[str, int] = sizes, has_type: bool = True, **how: Any) -> set[str]:
        planned = plan_hooks(symbols, None, lambda _: has_type, code_bytes=code_bytes, **how)
        return {p.mechanism for p in planned if p.hook.name in CALLERS}

    assert mechanisms() == {CALLER}
    assert mechanisms(code_bytes={}) == {FENTRY}, "where the functions end is not known"
    assert mechanisms(has_type=False) == {KPROBE}
    assert mechanisms(mechanism=KPROBE) == {KPROBE}
    assert mechanisms(refused={"CPA": ["R2"]}) == {FENTRY}, "a kretprobe does not see where its function returns to"
    assert mechanisms(all_symbols(), dict.fromkeys(all_symbols(), 64)) == {FENTRY}, "a refill is known before its first page is unmapped"
    assert mechanisms({**stock, "__set_pages_np": 1}) == {FENTRY}, "the change returns to a function between"
    assert mechanisms({**stock, "__kernel_map_pages": 1}) == {FENTRY}, "it makes the same change"


def test_code_of_callers_is_put_into_the_programs() -> None:
    constants = KernelConstants(**{field.name: 0 for field in fields(KernelConstants)})
    symbols = {"__change_page_attr_set_clr": 0x1000, "set_direct_map_invalid_noflush": 0x2000, "set_direct_map_default_noflush": 0x3000}
    symbols |= {"flush_tlb_all": 0x4000, "return_to_handler": 0x5000, "__kretprobe_trampoline": 0x6000}
    facts = HostFacts(0, None, True, True, "", None, symbols, dict(zip(symbols, (256, 16, 32, 8, 4, 4), strict=True)))
    plan = plan_hooks(facts.symbols, None, lambda _: True, code_bytes=facts.code_bytes)
    told = with_callers(constants, plan, facts)
    assert (told.cpa_code, told.cpa_code_bytes) == (0x1000, 256)
    assert (told.set_invalid_code, told.set_invalid_code_bytes) == (0x2000, 16)
    assert (told.set_default_code, told.set_default_code_bytes) == (0x3000, 32)
    assert (told.set_valid_code, told.set_valid_code_bytes) == (0, 0), "not in this kernel: no address is in it"
    assert (told.graph_return, told.probe_return) == (0x5000, 0x6000)
    assert with_callers(constants, plan_hooks(facts.symbols, None, lambda _: True), facts) == constants


def test_how_far_a_function_goes_in_kallsyms() -> None:
    lines = b"ffffffff81000000 T first\nffffffff81000000 t alias\nffffffff81000040 t __pfx_next\nffffffff81000050 T next\n"
    symbols = parse_kallsyms(lines, ["first", "alias", "next", "none"])
    assert parse_code_bytes(lines, symbols) == {"first": 0x40, "alias": 0x40}, "of the last one nothing says where it ends"
    unordered = lines + b"ffffffff80000000 T before\n"
    assert "next" not in parse_code_bytes(unordered, parse_kallsyms(unordered, ["next"]))
    assert parse_code_bytes(b"0000000000000000 T hidden\n0000000000000000 T too\n", {"hidden": 0}) == {}
    assert parse_code_bytes(lines + b"ffffffff8100", symbols) == {"first": 0x40, "alias": 0x40}, "cut off"
    text = gzip.decompress((DATA / "patched" / "kallsyms.gz").read_bytes())
    symbols = parse_kallsyms(text, ["set_direct_map_invalid_noflush"])
    assert parse_code_bytes(text, symbols) == {"set_direct_map_invalid_noflush": 0x90}, "as its System.map has it"


def test_what_ftrace_cannot_hook_is_not_tried() -> None:
    symbols = all_symbols()
    plan = {p.hook.name: p for p in plan_hooks(symbols, frozenset(symbols) - {"flush_tlb_all"}, lambda _: True)}
    assert "available_filter_functions" in plan["FLUSH_ALL"].reason


def test_a_kernel_without_the_series_is_not_hooked_on_the_page_allocator_unless_asked() -> None:
    symbols = {name: 1 for hook in HOOKS if hook.need is not Need.SERIES for name in hook.symbols}
    for choice, expected in ((PageAllocHook.AUTO, NONE), (PageAllocHook.OFF, NONE), (PageAllocHook.COUNT, FENTRY)):
        plan = {p.hook.name: p for p in plan_hooks(symbols, None, lambda _: True, page_alloc=choice)}
        assert plan["ALLOC_PAGES"].mechanism == NONE
        assert plan["ALLOC_PAGES_COUNT"].mechanism == expected


def test_nothing_is_hooked_on_the_page_allocator_unless_asked() -> None:
    symbols = all_symbols()

    def mechanisms(choice: PageAllocHook, **how: Any) -> tuple[str, str]:
        plan = {p.hook.name: p for p in plan_hooks(symbols, None, lambda _: True, page_alloc=choice, **how)}
        assert all(p.mechanism != NONE or not p.is_missing for p in plan.values()), "not asked for is not missing"
        return plan["PAGE_ALLOC"].mechanism, plan["ALLOC_PAGES"].mechanism

    assert mechanisms(PageAllocHook.AUTO) == mechanisms(PageAllocHook.OFF) == (NONE, NONE)
    assert mechanisms(PageAllocHook.TRACEPOINT) == mechanisms(PageAllocHook.TRACEPOINT, mechanism=KPROBE) == (TRACEPOINT, NONE)
    assert mechanisms(PageAllocHook.ENTRY) == (NONE, FENTRY)
    assert mechanisms(PageAllocHook.ENTRY, mechanism=KPROBE) == (NONE, KPROBE)
    assert mechanisms(PageAllocHook.CALLERS) == (NONE, NONE)
    for choice, expected in ((PageAllocHook.AUTO, NONE), (PageAllocHook.ENTRY, NONE), (PageAllocHook.CALLERS, FENTRY)):
        plan = {p.hook.name: p for p in plan_hooks(symbols, None, lambda _: True, page_alloc=choice, unknown={"gfp_unmapped"})}
        assert plan["SECRETMEM_FAULT"].mechanism == expected, "it does not look at the flag"
    asked = plan_hooks(symbols, None, lambda _: True, page_alloc=PageAllocHook.TRACEPOINT, refused={"PAGE_ALLOC": ["no room"]})
    refused = {p.hook.name: p for p in asked}
    assert refused["PAGE_ALLOC"].is_missing
    assert refused["PAGE_ALLOC"].is_refused
    assert refused["PAGE_ALLOC"].reason == "no room"


def test_the_newest_name_of_the_page_allocator_is_taken() -> None:
    """6.14 and later have both names: the older one is a wrapper that misses callers."""
    plan = {p.hook.name: p for p in plan_hooks(all_symbols(), None, lambda _: True, page_alloc=PageAllocHook.ENTRY)}
    assert plan["ALLOC_PAGES"].symbol == "__alloc_frozen_pages_noprof"
