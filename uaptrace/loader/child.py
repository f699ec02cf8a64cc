# SPDX-License-Identifier: Apache-2.0
"""What the loader child does: reads constants, plans, loads, attaches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.hooks import SERIES_SYMBOL
from uaptrace.abi.units import Level
from uaptrace.ebpf.btf import KernelBtf
from uaptrace.kernel.kcore import open_kcore
from uaptrace.kernel.procfs import read_split_counters
from uaptrace.loader.attaching import attach_hooks
from uaptrace.loader.constants import VARIABLES, read_constants
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.loading import load_accepted, open_memory
from uaptrace.loader.opened_files import FILES
from uaptrace.loader.plan import sized_symbols, wanted_symbols

if TYPE_CHECKING:
    from uaptrace.loader.parent import LoaderOptions


def load_and_attach(options: LoaderOptions, say: Callable[[str], None]) -> tuple[dict[str, Any], list[int]]:
    """What the parent is told, and the descriptors that it gets, in the order that attach._receive() takes them.

    ``say`` is told how far it is.
    """
    splits_before = read_split_counters()
    facts = read_host_facts(wanted_symbols() | set(VARIABLES), sized=sized_symbols())
    say("symbols read")
    files = _open_files()
    memory, reader = open_memory(options, files.get("kcore"))
    files.update(reader)
    with KernelBtf() as btf:
        constants = read_constants(memory, facts.symbols, btf, facts.gfp_names)
        offsets = _offsets(btf)
        hooked: dict[Level, int] = {}
        say("constants read")
        attach = partial(attach_hooks, on_split_hooks=lambda: hooked.update(read_split_counters() or {}))
        _, attached = load_accepted(options, facts, constants, btf, attach, say)
    say("attached")
    message = {
        "nr_cpus": facts.nr_cpus,
        "ring_bytes": options.ring_bytes,
        "nr_links": len(attached.link_fds),
        "nr_programs": len(attached.program_fds),
        "files": list(files),
        "hooks": [asdict(hook) for hook in attached.hooks],
        "constants": asdict(constants),
        "symbols": facts.symbols,
        "offsets": offsets,
        "has_series": SERIES_SYMBOL in facts.symbols,
        "splits_before": splits_before or {},
        "splits_hooked": hooked,
        "loader_tgid": os.getpid(),
    }
    return message, [attached.ring_fd, attached.counters_fd, *attached.link_fds, *attached.program_fds, *files.values()]


def _open_files() -> dict[str, int]:
    opened = {}
    for name, path in FILES.items():
        with contextlib.suppress(OSError):
            opened[name] = open_kcore(path) if name == "kcore" else os.open(path, os.O_RDONLY)
    return opened


def _offsets(btf: KernelBtf) -> dict[str, int]:
    """What is needed to read the cache's free blocks and the pageblock bits: offsets and sizes in bytes, enumerators by name.

    What this kernel does not have is left out.
    """
    offsets = {"struct_page": btf.struct_size("page")}
    for struct_name, member in (
        ("page", "page_type"),
        ("page", "private"),
        ("mem_section", "usage"),
        ("mem_section_usage", "pageblock_flags"),
        ("mem_section", "section_mem_map"),
    ):
        if btf.has_member(struct_name, member):
            offsets[f"{struct_name}.{member}"] = btf.member_offset(struct_name, member)
    with contextlib.suppress(CannotTraceError):
        offsets["mem_section"] = btf.struct_size("mem_section")
    for enum, name in (("pagetype", "PGTY_unmapped"), ("pageblock_bits", "PB_unmapped"), ("pageblock_bits", "NR_PAGEBLOCK_BITS")):
        if (value := btf.enumerator(name, enum)) is not None:
            offsets[name] = value
    # Where bits stand alone, the enumerator is how many are used, and a pageblock takes the next power of two.
    if (used := btf.enumerator("__NR_PAGEBLOCK_BITS", "pageblock_bits")) is not None:
        offsets["NR_PAGEBLOCK_BITS"] = 1 << (used - 1).bit_length()
    return offsets
