# SPDX-License-Identifier: Apache-2.0
"""Reads the constants that the programs and the page-table reader need from the running kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.btf import KernelBtf
from uaptrace.kernel.kcore import KernelMemory, read_u32, read_u64
from uaptrace.loader.program import KernelConstants

VARIABLES: Final = (
    "init_top_pgt",
    "init_mm",
    "page_offset_base",
    "vmalloc_base",
    "vmemmap_base",
    "__pgtable_l5_enabled",
    "phys_base",
    "physical_mask",
    "sme_me_mask",
    "mem_section",
    "_text",
    "kfence_enabled",
    "__kfence_pool",
)
"""Kernel variables whose addresses are wanted from kallsyms. Not every kernel has all of them."""

KERNEL_IMAGE: Final = 0xFFFFFFFF80000000
"""__START_KERNEL_map (Documentation/arch/x86/x86_64/mm.rst)."""
_GFP_UNMAPPED: Final = "__GFP_UNMAPPED"
_GFP_UNMAPPED_BIT: Final = "___GFP_UNMAPPED_BIT"
_PRESENT: Final = 1
_PTE_PFN_MASK: Final = 0x000FFFFFFFFFF000
# Documentation/arch/x86/x86_64/mm.rst: without KASLR of memory regions, and how much room the direct map has.
_PAGE_OFFSET: Final = {4: 0xFFFF888000000000, 5: 0xFF11000000000000}
_VMEMMAP: Final = {4: 0xFFFFEA0000000000, 5: 0xFFD4000000000000}
_DIRECT_MAP_BYTES: Final = {4: 1 << 46, 5: 1 << 55}


def read_constants(memory: KernelMemory, symbols: Mapping[str, int], btf: KernelBtf, gfp_names: str) -> KernelConstants:
    """``gfp_names``: HostFacts.gfp_names. Raises CannotTraceError where something that cannot be done without is missing."""
    if not any(symbols.values()):
        raise CannotTraceError(
            "kernel addresses are hidden: run as root with kernel.kptr_restrict below 2 (sysctl -w kernel.kptr_restrict=1)"
        )
    levels = 5 if _number(memory, symbols, "__pgtable_l5_enabled", read_u32, 0) & 1 else 4
    mask = _PTE_PFN_MASK
    if "physical_mask" in symbols:
        mask &= read_u64(memory, symbols["physical_mask"])
    if "sme_me_mask" in symbols:
        mask &= ~read_u64(memory, symbols["sme_me_mask"])
    if "init_top_pgt" in symbols:
        pgd = symbols["init_top_pgt"]
    elif "init_mm" in symbols:
        pgd = read_u64(memory, symbols["init_mm"] + btf.member_offset("mm_struct", "pgd"))
    else:
        raise CannotTraceError("neither init_top_pgt nor init_mm is in /proc/kallsyms: CONFIG_KALLSYMS_ALL=y is needed")
    page_offset = _number(memory, symbols, "page_offset_base", read_u64, _PAGE_OFFSET[levels])
    # With KASLR the regions are closer together than their largest sizes: the direct map ends before vmalloc's at the latest.
    vmalloc = _number(memory, symbols, "vmalloc_base", read_u64, page_offset + _DIRECT_MAP_BYTES[levels])
    return KernelConstants(
        page_offset=page_offset,
        direct_map_size=min(_DIRECT_MAP_BYTES[levels], vmalloc - page_offset),
        vmemmap=_number(memory, symbols, "vmemmap_base", read_u64, _VMEMMAP[levels]),
        init_pgd=pgd,
        first_pud=_first_pud(memory, pgd, page_offset, levels, mask),
        levels=levels,
        pfn_mask=mask,
        struct_page_size=btf.struct_size("page"),
        phys_base=_number(memory, symbols, "phys_base", read_u64, 0),
        kernel_image=KERNEL_IMAGE,
        gfp_unmapped=gfp_unmapped(btf.enumerator(_GFP_UNMAPPED_BIT), gfp_names),
        cpa_vaddr=btf.member_offset("cpa_data", "vaddr"),
        cpa_pgd=btf.member_offset("cpa_data", "pgd"),
        cpa_mask_set=btf.member_offset("cpa_data", "mask_set"),
        cpa_mask_clr=btf.member_offset("cpa_data", "mask_clr"),
        cpa_numpages=btf.member_offset("cpa_data", "numpages"),
        cpa_curpage=btf.member_offset("cpa_data", "curpage"),
        cpa_flags=btf.member_offset("cpa_data", "flags"),
        cpa_pages=btf.member_offset("cpa_data", "pages"),
        shrink_nr_to_scan=btf.member_offset("shrink_control", "nr_to_scan"),
        task_group_leader=btf.member_offset("task_struct", "group_leader"),
        task_comm=btf.member_offset("task_struct", "comm"),
        task_start_time=btf.member_offset("task_struct", "start_time"),
        has_task_btf=int(_has_helper(btf, "get_current_task_btf")),
        has_func_arg=int(_has_helper(btf, "get_func_arg")),
        rdonly_cast=btf.function_id("bpf_rdonly_cast") if btf.has_function("bpf_rdonly_cast") else 0,
        page_type=btf.struct_id("page"),
        vm_fault_page=btf.member_offset("vm_fault", "page"),
        vm_fault_locked=btf.enumerator("VM_FAULT_LOCKED", "vm_fault_reason") or 0,
    )


def _first_pud(memory: KernelMemory, pgd: int, page_offset: int, levels: int, mask: int) -> int:
    table = pgd
    for level in range(levels, 3, -1):
        entry = read_u64(memory, table + (page_offset >> 3 + 9 * level & 511) * 8)
        if not entry & _PRESENT:
            return 0
        table = page_offset + (entry & mask)
    return table


def _has_helper(btf: KernelBtf, name: str) -> bool:
    return btf.enumerator(f"BPF_FUNC_{name}", "bpf_func_id") is not None


def gfp_unmapped(bit: int | None, gfp_names: str) -> int:
    """The flag of the series, 0 where nothing says which it is.

    From 6.12 on gfp bits are enumerators (``bit``); before, their values are to be had only where a tracepoint names them:
    ``{( unsigned long)(( gfp_t)0x10000000u), "__GFP_UNMAPPED"}``.
    """
    if bit is not None:
        return 1 << bit
    entry = re.search(r"\{([^{}]*), \"" + _GFP_UNMAPPED + r"\"", gfp_names)
    numbers = re.findall(r"0x[0-9a-fA-F]+", entry[1]) if entry else []
    return int(numbers[0], 16) if len(numbers) == 1 else 0


def _number(memory: KernelMemory, symbols: Mapping[str, int], name: str, read: object, default: int) -> int:
    if name not in symbols:
        return default
    return int(read(memory, symbols[name]))  # type: ignore[operator]
