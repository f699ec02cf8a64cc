# SPDX-License-Identifier: Apache-2.0
"""Puts the BPF C sources together into one text for bcc, the same for every kernel; what differs is put in when it is loaded."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Final

from uaptrace.ebpf.compiled import KERNEL_CALL, LOAD_CONSTANT

SUBJECTS: Final = ("common", "contexts", "records", "hooks", "page_tables", "unmapped_cache", "direct_map", "shrinker", "secret_memory")
"""The order matters: each may use what stands before it."""


@dataclass(frozen=True, slots=True)
class KernelConstants:
    """Values of the running kernel that are put into the programs when they are loaded. Addresses are virtual, offsets in bytes."""

    page_offset: int
    direct_map_size: int
    vmemmap: int
    init_pgd: int
    first_pud: int
    """The table of 1G entries that a walk for ``page_offset`` comes to; 0: there is none."""
    levels: int
    pfn_mask: int
    struct_page_size: int
    phys_base: int
    kernel_image: int
    gfp_unmapped: int
    cpa_vaddr: int
    cpa_pgd: int
    cpa_mask_set: int
    cpa_mask_clr: int
    cpa_numpages: int
    cpa_curpage: int
    cpa_flags: int
    cpa_pages: int
    shrink_nr_to_scan: int
    task_group_leader: int
    task_comm: int
    task_start_time: int
    has_task_btf: int
    """1 where there is bpf_get_current_task_btf(), else 0."""
    has_func_arg: int
    """1 where there are bpf_get_func_arg() and bpf_get_func_ret(), else 0."""
    rdonly_cast: int
    """BTF id of bpf_rdonly_cast(), 0 where the kernel has none."""
    page_type: int
    """BTF id of struct page, whose first member is a number of 64 bits."""
    vm_fault_page: int
    vm_fault_locked: int
    """The flag in a fault's result that says that it gave a page. 0 where it is not known."""
    cpa_code: int = 0
    """Where the code of __change_page_attr_set_clr() begins, and of those that are seen by where it returns to: all 0 where none is."""
    cpa_code_bytes: int = 0
    set_invalid_code: int = 0
    set_invalid_code_bytes: int = 0
    set_default_code: int = 0
    set_default_code_bytes: int = 0
    set_valid_code: int = 0
    set_valid_code_bytes: int = 0
    graph_return: int = 0
    """What a graph tracer puts in the place of the address that a function returns to. 0: the kernel has none."""
    probe_return: int = 0
    """The same of return probes."""


def load_constants(constants: KernelConstants) -> tuple[int, ...]:
    """Their values by their numbers, for with_values()."""
    return astuple(constants)


def map_sizes(*, ring_bytes: int, nr_cpus: int) -> dict[str, int]:
    """Entries of the maps whose size is the loader's to say, for Compiled.sized(). A ring's are its bytes."""
    return {"ring": ring_bytes, "counters": nr_cpus}


def bpf_folder() -> Path:
    """Folder of events.h, the .bpf.c files and include/."""
    try:
        return Path(str(resources.files("uaptrace.bpf")))
    except ModuleNotFoundError:
        # A checkout that is on the path as it is, not installed.
        return Path(__file__).resolve().parents[2] / "bpf"


def program_text(folder: Path) -> str:
    """All subjects as one text: bcc rewrites map accesses in the main file only, so includes would not do."""
    parts = ['#include "events.h"\n']
    for subject in SUBJECTS:
        path = folder / f"{subject}.bpf.c"
        parts.append(f'#line 1 "{path.name}"\n{path.read_text()}')
    return "".join(parts)


def reader_text(folder: Path) -> str:
    """The program that reads kernel memory where there is no /proc/kcore. It has no constants."""
    return (folder / "reader.bpf.c").read_text()


def cost_text(folder: Path) -> str:
    """The program that times reads for ``uaptrace cost``. It has no constants."""
    return (folder / "cost.bpf.c").read_text()


def compiler_flags() -> tuple[str, ...]:
    """-D flags for ``program_text``: the number of each constant, and nothing that is this machine's."""
    names = [constant.name.upper() for constant in fields(KernelConstants)]
    values = (f"-DUAP_{name}=UAP_AT_LOAD({LOAD_CONSTANT << 32 | number:#x})" for number, name in enumerate(names))
    return (*values, f"-DUAP_RDONLY_CAST_CALL={KERNEL_CALL << 16 | names.index('RDONLY_CAST'):#x}")


def use_stub_headers(folder: Path) -> None:
    """Make bcc take our eight headers instead of the running kernel's. To be called before it is imported."""
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
