# SPDX-License-Identifier: Apache-2.0
"""Puts the BPF C sources together into one text for bcc, with what was read from this kernel as definitions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Final

from uaptrace.ebpf.compiled import BOOT_CONSTANT
from uaptrace.loader.plan import PlannedHook

SUBJECTS: Final = ("common", "page_tables", "unmapped_cache", "direct_map", "shrinker")
"""The order matters: each may use what stands before it."""


@dataclass(frozen=True, slots=True)
class KernelConstants:
    """Values of the running kernel that the programs are compiled with. Addresses are virtual, offsets in bytes."""

    page_offset: int
    direct_map_size: int
    vmemmap: int
    init_pgd: int
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


BOOT_CONSTANTS: Final = ("page_offset", "direct_map_size", "vmemmap", "init_pgd", "phys_base")
"""Those that address space randomisation makes anew for each boot. They are put in when the programs are loaded."""


def boot_constants(constants: KernelConstants) -> tuple[int, ...]:
    """Their values, for with_values()."""
    return tuple(getattr(constants, name) for name in BOOT_CONSTANTS)


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


def compiler_flags(
    constants: KernelConstants, plan: Iterable[PlannedHook], folder: Path, *, ring_pages: int, nr_cpus: int, max_tasks: int
) -> list[str]:
    """-D and -I flags for ``program_text``: nothing in them changes from boot to boot."""
    flags = [f"-I{folder}", f"-DUAP_RING_PAGES={ring_pages}", f"-DUAP_NR_CPUS={nr_cpus}", f"-DUAP_MAX_TASKS={max_tasks}"]
    for constant in fields(constants):
        if constant.name in BOOT_CONSTANTS:
            value = f"UAP_AT_BOOT({BOOT_CONSTANT << 32 | BOOT_CONSTANTS.index(constant.name):#x})"
        else:
            # LEVELS is compared by the preprocessor, which takes no suffix it may not know.
            value = f"{getattr(constants, constant.name)}{'' if constant.name == 'levels' else 'ULL'}"
        flags.append(f"-DUAP_{constant.name.upper()}={value}")
    for planned in plan:
        flags.append(f"-DUAP_HOOK_{planned.hook.name}={planned.mechanism.upper()}")
        flags.append(f"-DUAP_SYMBOL_{planned.hook.name}={planned.symbol or planned.hook.symbols[-1]}")
    return flags


def use_stub_headers(folder: Path) -> None:
    """Make bcc take our eight headers instead of the running kernel's. To be called before it is imported."""
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
