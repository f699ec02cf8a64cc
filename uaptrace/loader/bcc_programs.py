# SPDX-License-Identifier: Apache-2.0
"""Compiles, loads and attaches with bcc. The only module that imports it, and only when something is to be attached."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uaptrace.errors import CannotTraceError
from uaptrace.loader.plan import FENTRY, NONE, TRACEPOINT, PlannedHook
from uaptrace.model.snapshot import HookStatus


class HookRefusedError(Exception):
    """The kernel refused to load or attach one hook's program. ``hook`` is its name."""

    def __init__(self, hook: str, why: str) -> None:
        super().__init__(why)
        self.hook = hook
        self.why = why


@dataclass(frozen=True, slots=True)
class Attached:
    """Descriptors of what was attached, and what each hook became. Descriptors live as long as the process that has them."""

    ring_fd: int
    counters_fd: int
    link_fds: tuple[int, ...]
    program_fds: tuple[int, ...]
    hooks: tuple[HookStatus, ...]


def compile_and_attach(text: str, flags: Sequence[str], plan: Sequence[PlannedHook], on_split_hooks: Any = None) -> Attached:
    """Load the text and attach every planned hook in order.

    ``on_split_hooks`` is called once, when the first two hooks (those that see splits) are live. Raises HookRefusedError for
    the first hook that the kernel refuses, with nothing left attached; CannotTraceError when compiling failed.
    """
    with _quiet_stderr() as complaints:
        try:
            import bcc
        except ImportError as error:
            raise CannotTraceError(f"bcc cannot be imported ({error}): apt-get install python3-bpfcc") from error

        class Programs(bcc.BPF):  # type: ignore[misc]
            def _trace_autoload(self) -> None:
                """Nothing by itself: each hook is attached on its own below."""

        try:
            programs = Programs(text=text, cflags=list(flags))
        except Exception as error:
            raise CannotTraceError(f"bcc could not compile the programs: {complaints() or error}") from error

    lib = bcc.libbcc.lib
    links: list[int] = []
    functions: list[int] = []
    statuses: list[HookStatus] = []
    called = on_split_hooks is None
    try:
        for planned in plan:
            if not called and planned.hook.name not in ("CPA", "FLUSH_ALL"):
                called = True
                on_split_hooks()
            if planned.mechanism == NONE or planned.symbol is None:
                if planned.is_missing:
                    statuses.append(HookStatus(planned.hook.name.lower(), planned.symbol, None, planned.reason))
                continue
            for is_exit in (True, False) if planned.hook.has_exit else (False,):
                # Exit first: a call that is entered before its exit is hooked would leave its context behind.
                with _quiet_stderr() as complaints:
                    program, link = _attach(programs, lib, bcc.BPF, planned, is_exit, complaints)
                functions.append(program)
                links.append(link)
            statuses.append(HookStatus(planned.hook.name.lower(), planned.symbol, planned.mechanism))
    except HookRefusedError:
        for fd in (*links, *functions):
            os.close(fd)
        raise
    return Attached(programs["ring"].map_fd, programs["counters"].map_fd, tuple(links), tuple(functions), tuple(statuses))


def load_reader(text: str) -> tuple[int, int]:
    """Load bpf/reader.bpf.c: descriptors of its program and of its window. Raises CannotTraceError."""
    with _quiet_stderr() as complaints:
        try:
            import bcc

            program = bcc.BPF(text=text)
            function = program.load_func(b"read_kernel", bcc.BPF.RAW_TRACEPOINT)
        except ImportError as error:
            raise CannotTraceError(f"bcc cannot be imported ({error}): apt-get install python3-bpfcc") from error
        except Exception as error:
            raise CannotTraceError(f"kernel memory can be read neither by /proc/kcore nor by BPF: {complaints() or error}") from error
    return function.fd, program["window"].map_fd


def _attach(programs: Any, lib: Any, kinds: Any, planned: PlannedHook, is_exit: bool, complaints: Any) -> tuple[int, int]:
    """Descriptors of the program and of its link (or perf event)."""
    symbol = str(planned.symbol).encode()
    if planned.mechanism == FENTRY:
        name, kind = (b"kretfunc__" if is_exit else b"kfunc__") + symbol, kinds.TRACING
    elif planned.mechanism == TRACEPOINT:
        name, kind = b"enter_" + planned.hook.name.encode(), kinds.RAW_TRACEPOINT
    else:
        name, kind = (b"exit_" if is_exit else b"enter_") + planned.hook.name.encode(), kinds.KPROBE
    try:
        program = programs.load_func(name, kind)
    except Exception as error:
        raise HookRefusedError(planned.hook.name, f"{error} {complaints()}".strip()) from error
    if planned.mechanism == FENTRY:
        link = lib.bpf_attach_kfunc(program.fd)
    elif planned.mechanism == TRACEPOINT:
        link = lib.bpf_attach_raw_tracepoint(program.fd, symbol)
    else:
        event = (b"r_" if is_exit else b"p_") + b"uaptrace_" + symbol
        link = lib.bpf_attach_kprobe(program.fd, int(is_exit), event, symbol, 0, 0)
    if link < 0:
        raise HookRefusedError(planned.hook.name, complaints() or f"cannot attach {planned.mechanism} to {planned.symbol}")
    return program.fd, link


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Any]:
    """Catch what LLVM and libbpf print on descriptor 2. Yields a function that gives the last lines of it so far."""
    sys.stderr.flush()
    saved = os.dup(2)
    catcher = os.memfd_create("complaints")
    os.dup2(catcher, 2)

    def said() -> str:
        size = os.lseek(catcher, 0, os.SEEK_END)
        lines = os.pread(catcher, 65536, max(0, size - 65536)).decode(errors="replace").strip().splitlines()
        if os.environ.get("UAPTRACE_LOADER_LOG"):
            return "\n".join(lines[-12:])
        return "; ".join(line.strip() for line in lines if "error" in line.lower())[:500] or "; ".join(lines[-3:])

    try:
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(catcher)
