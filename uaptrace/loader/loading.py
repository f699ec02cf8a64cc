# SPDX-License-Identifier: Apache-2.0
"""Plans and loads: again without what the kernel refuses, until it takes the rest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.btf import KernelBtf
from uaptrace.ebpf.compiled import Compiled
from uaptrace.kernel.kcore import Kcore, KernelMemory, open_kcore
from uaptrace.loader.attaching import HooksRefusedError, load_unattached
from uaptrace.loader.constants import read_constants
from uaptrace.loader.host_facts import HostFacts
from uaptrace.loader.plan import CALLER, GRAPH_RETURNS, PROBE_RETURNS, PlannedHook, plan_hooks
from uaptrace.loader.program import KernelConstants, bpf_folder, compiler_flags, load_constants, map_sizes, program_text, reader_text
from uaptrace.loader.programs import compiled_programs
from uaptrace.loader.verdicts import last_words

if TYPE_CHECKING:
    from uaptrace.loader.parent import LoaderOptions

Result = TypeVar("Result")
Use = Callable[[Compiled, Sequence[int], Sequence[PlannedHook], Callable[[str], int]], Result]
"""attach_hooks() or load_hooks()."""


def open_memory(options: LoaderOptions, kcore_fd: int | None) -> tuple[KernelMemory, dict[str, int]]:
    """Kernel memory as ``options`` say, and the descriptors ``reader`` and ``window`` where a program reads it.

    ``kcore_fd``: None where it cannot be opened. Raises CannotTraceError.
    """
    if options.page_tables == "kcore" and kcore_fd is None:
        raise CannotTraceError("/proc/kcore cannot be opened: run as root, with CONFIG_PROC_KCORE=y, or use --page-tables bpf")
    if options.page_tables != "bpf" and kcore_fd is not None:
        return Kcore(kcore_fd), {}
    from uaptrace.ebpf.reader import BpfMemory

    folder = bpf_folder()
    reader, maps = load_unattached(compiled_programs(reader_text(folder), (), folder, fresh=options.compile), "read_kernel")
    window = maps["window"]
    return BpfMemory(reader, window), {"reader": reader, "window": window}


@contextlib.contextmanager
def open_kernel(options: LoaderOptions, facts: HostFacts) -> Iterator[tuple[KernelMemory, KernelBtf, KernelConstants]]:
    """Memory, types and constants of the running kernel, as long as the context lasts. Raises CannotTraceError."""
    with contextlib.ExitStack() as opened:
        kcore = None
        with contextlib.suppress(OSError):
            kcore = open_kcore()
            opened.callback(os.close, kcore)
        memory, files = open_memory(options, kcore)
        for fd in files.values():
            opened.callback(os.close, fd)
        btf = opened.enter_context(KernelBtf())
        yield memory, btf, read_constants(memory, facts.symbols, btf, facts.gfp_names)


def with_callers(constants: KernelConstants, plan: Sequence[PlannedHook], facts: HostFacts) -> KernelConstants:
    """The constants with the code of what is seen by where an attribute change returns to, and of that change."""
    seen = {p.hook.label: str(p.symbol) for p in plan if p.mechanism == CALLER}
    if not seen:
        return constants
    seen |= {p.hook.label: str(p.symbol) for p in plan if p.hook.name == "CPA"}
    code = {f"{label}_code": facts.symbols[symbol] for label, symbol in seen.items()}
    sizes = {f"{label}_code_bytes": facts.code_bytes[symbol] for label, symbol in seen.items()}
    graph, probe = (next((facts.symbols[name] for name in names if name in facts.symbols), 0) for names in (GRAPH_RETURNS, PROBE_RETURNS))
    return replace(constants, **code, **sizes, graph_return=graph, probe_return=probe)


def load_accepted(
    options: LoaderOptions,
    facts: HostFacts,
    constants: KernelConstants,
    btf: KernelBtf,
    use: Use[Result],
    say: Callable[[str], None],
    on_log: Callable[[str, str], object] = lambda hook, log: None,
) -> tuple[tuple[PlannedHook, ...], Result]:
    """What became of each hook, and what ``use`` made of those that the kernel takes.

    A hook that is refused is tried by the next mechanism, and left out when there is none. Before that all are tried without what
    needs the JIT. ``on_log``: called with the hook's name and
    all that the verifier said of it. Raises CannotTraceError.
    """
    folder = bpf_folder()
    compiled = compiled_programs(program_text(folder), compiler_flags(), folder, fresh=options.compile)
    compiled = compiled.sized(map_sizes(ring_bytes=options.ring_bytes, nr_cpus=facts.nr_cpus))
    say("compiled")
    refused: dict[str, list[str]] = {}
    while True:
        plan = plan_hooks(
            facts.symbols,
            facts.attachable,
            btf.has_function,
            page_alloc=options.page_alloc,
            mechanism=options.mechanism,
            count_flushes=options.count_flushes,
            unknown=frozenset(name for name in ("gfp_unmapped", "vm_fault_locked") if not getattr(constants, name)),
            refused=refused,
            code_bytes=facts.code_bytes,
        )
        try:
            return plan, use(compiled, load_constants(with_callers(constants, plan, facts)), plan, btf.function_id)
        except HooksRefusedError as error:
            if constants.rdonly_cast:
                # Calls of kernel functions need the JIT, which may be off. Reading by a helper takes longer, and always works.
                say(f"{error}: tried again without bpf_rdonly_cast()")
                constants = replace(constants, rdonly_cast=0)
                continue
            for hook, why in error.refusals.items():
                log = error.logs.get(hook, "")
                say(f"{hook}: {last_words(log) or why}")
                if log:
                    on_log(hook, log)
                refused.setdefault(hook, []).append(why)
