# SPDX-License-Identifier: Apache-2.0
"""What the loader child does: reads constants, plans, compiles, attaches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from uaptrace.errors import CannotTraceError
from uaptrace.loader.attaching import HookRefusedError, attach_hooks, compiled_programs, load_reader
from uaptrace.loader.btf import KernelBtf
from uaptrace.loader.constants import VARIABLES, read_constants
from uaptrace.loader.facts import read_host_facts
from uaptrace.loader.hooks import SERIES_SYMBOL
from uaptrace.loader.plan import plan_hooks, wanted_symbols
from uaptrace.loader.program import boot_constants, bpf_folder, compiler_flags, program_text, use_stub_headers
from uaptrace.sources.kernel_memory import Kcore, KernelMemory
from uaptrace.sources.procfs import read_split_counters
from uaptrace.units import Level

if TYPE_CHECKING:
    from uaptrace.loader.attach import LoaderOptions

FILES: Final = {
    "kcore": "/proc/kcore",
    "kallsyms": "/proc/kallsyms",
    "unmapped_alloc": "/sys/kernel/debug/unmapped_alloc",
    "ptdump": "/sys/kernel/debug/page_tables/kernel",
}
"""Files that only root can open; their descriptors serve a process without any privilege."""


def load_and_attach(options: LoaderOptions, say: Callable[[str], None]) -> tuple[dict[str, Any], list[int]]:
    """What the parent is told, and the descriptors that it gets, in the order that attach._receive() takes them.

    ``say`` is told how far it is.
    """
    splits_before = read_split_counters()
    facts = read_host_facts(wanted_symbols() | set(VARIABLES))
    say("symbols read")
    files = _open_files()
    folder = bpf_folder()
    use_stub_headers(folder)
    memory: KernelMemory
    if options.page_tables == "kcore" and "kcore" not in files:
        raise CannotTraceError("/proc/kcore cannot be opened: run as root, with CONFIG_PROC_KCORE=y, or use --page-tables bpf")
    if options.page_tables == "bpf" or "kcore" not in files:
        from uaptrace.sources.bpf_memory import BpfMemory

        files["reader"], files["window"] = load_reader((folder / "reader.bpf.c").read_text())
        memory = BpfMemory(files["reader"], files["window"])
    else:
        memory = Kcore(files["kcore"])
    with KernelBtf() as btf:
        constants = read_constants(memory, facts.symbols, btf, facts.gfp_names)
        offsets = _offsets(btf)
        demoted: list[str] = []
        hooked: dict[Level, int] = {}
        say("constants read")
        while True:
            plan = plan_hooks(
                facts.symbols,
                facts.attachable,
                btf.has_function,
                page_alloc=options.page_alloc,
                mechanism=options.mechanism,
                knows_flag=bool(constants.gfp_unmapped),
                demoted=demoted,
            )
            flags = compiler_flags(
                constants, plan, folder, ring_pages=options.ring_bytes // 4096, nr_cpus=facts.nr_cpus, max_tasks=options.max_tasks
            )
            compiled = compiled_programs(program_text(folder), flags)
            say("compiled")
            try:
                attached = attach_hooks(
                    compiled, boot_constants(constants), plan, btf.function_id, lambda: hooked.update(read_split_counters() or {})
                )
                break
            except HookRefusedError as error:
                say(f"{error.hook}: {error.why}")
                demoted.append(error.hook)
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
            opened[name] = os.open(path, os.O_RDONLY)
    return opened


def _offsets(btf: KernelBtf) -> dict[str, int]:
    """What is needed to read the cache's free blocks and the pageblock bits; absent members are left out."""
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
    return offsets
