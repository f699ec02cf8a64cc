# SPDX-License-Identifier: Apache-2.0
"""Loads and attaches what was planned."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.compiled import Compiled, with_values
from uaptrace.ebpf.kprobes import attach_kprobe
from uaptrace.ebpf.libbpf import link_program
from uaptrace.ebpf.objects import FENTRY as FENTRY_TYPE
from uaptrace.ebpf.objects import (
    FEXIT,
    KPROBE,
    RAW_TRACEPOINT,
    TRACING,
    Program,
    ProgramRefusedError,
    create_map,
    load_program,
)
from uaptrace.loader.plan import CALLER, FENTRY, NONE, TRACEPOINT, PlannedHook
from uaptrace.model.hook_status import HookStatus

_SPLIT_HOOKS: Final = ("CPA", "FLUSH_ALL")
"""What sees splits. They are live before anything else is loaded, because loading splits."""
_MAX_THREADS: Final = 8
_FIGURES: Final = ("processed ", "verification time ", "stack depth ")
"""How lines begin that the verifier prints after its verdict (print_verification_stats in kernel/bpf/verifier.c)."""


class HooksRefusedError(Exception):
    """The kernel refused to load or attach programs. ``refusals``: its own words, by the names of the hooks; ``logs``: all of
    the verifier's."""

    def __init__(self, refusals: Mapping[str, str], logs: Mapping[str, str] | None = None) -> None:
        super().__init__("; ".join(f"{hook}: {why}" for hook, why in refusals.items()))
        self.refusals = dict(refusals)
        self.logs = dict(logs or {})


@dataclass(frozen=True, slots=True)
class Attached:
    """Descriptors of what was attached, and what each hook became. Descriptors live as long as the process that has them."""

    ring_fd: int
    counters_fd: int
    link_fds: tuple[int, ...]
    program_fds: tuple[int, ...]
    hooks: tuple[HookStatus, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One program of a hook: its entry, or its exit."""

    planned: PlannedHook
    is_exit: bool
    program: Program


def attach_hooks(
    compiled: Compiled,
    constants: Sequence[int],
    plan: Sequence[PlannedHook],
    function_id: Callable[[str], int],
    on_split_hooks: Callable[[], object] = lambda: None,
) -> Attached:
    """Load and attach every planned hook.

    ``constants``: program.load_constants(); ``function_id``: BTF id of a function; ``on_split_hooks`` is called once, when the hooks
    that see splits are live. Raises HooksRefusedError where the kernel refuses any, with nothing left attached.
    """
    maps = _create_maps(compiled)
    programs: list[int] = []
    links: list[int] = []
    try:
        parts = _all_parts(plan, compiled, maps, constants, function_id)
        first = [part for part in parts if part.planned.hook.name in _SPLIT_HOOKS]
        rest = [part for part in parts if part.planned.hook.name not in _SPLIT_HOOKS]
        for group in (first, rest):
            loaded = _load_side_by_side([part.program for part in group])
            programs += [fd for fd in loaded if isinstance(fd, int)]
            for part, fd in zip(group, _all_loaded(group, loaded), strict=True):
                links.append(_link(part, fd))
            if group is first:
                on_split_hooks()
    except HooksRefusedError:
        for fd in (*links, *programs, *maps):
            os.close(fd)
        raise
    by_name = dict(zip(compiled.maps, maps, strict=True))
    statuses = tuple(hook_status(planned) for planned in plan)
    return Attached(by_name["ring"], by_name["counters"], tuple(links), tuple(programs), statuses)


def load_hooks(compiled: Compiled, constants: Sequence[int], plan: Sequence[PlannedHook], function_id: Callable[[str], int]) -> None:
    """Load every planned hook's programs, attach none, and let go of them again. Arguments and errors are attach_hooks()'s."""
    maps = _create_maps(compiled)
    loaded: list[int | ProgramRefusedError] = []
    try:
        parts = _all_parts(plan, compiled, maps, constants, function_id)
        loaded = _load_side_by_side([part.program for part in parts])
        _all_loaded(parts, loaded)
    finally:
        for fd in (*(fd for fd in loaded if isinstance(fd, int)), *maps):
            os.close(fd)


def _all_parts(
    plan: Sequence[PlannedHook], compiled: Compiled, maps: Sequence[int], constants: Sequence[int], function_id: Callable[[str], int]
) -> list[_Part]:
    return [part for planned in plan for part in _parts(planned, compiled, maps, constants, function_id)]


def _all_loaded(parts: Sequence[_Part], loaded: Sequence[int | ProgramRefusedError]) -> list[int]:
    """The descriptors. Raises HooksRefusedError where the kernel refused any."""
    refused = {part.planned.hook.name: error for part, error in zip(parts, loaded, strict=True) if not isinstance(error, int)}
    if refused:
        raise HooksRefusedError(
            {hook: verdict(error.log) or str(error.strerror) for hook, error in refused.items()},
            {hook: error.log for hook, error in refused.items()},
        )
    return [fd for fd in loaded if isinstance(fd, int)]


def verdict(log: str) -> str:
    """Why the verifier refused a program: the last line of what it said, before its figures. Empty where it said nothing."""
    lines = (line.strip() for line in log.strip("\0 \n").splitlines())
    return next((line for line in reversed(list(lines)) if line and not line.startswith(_FIGURES)), "")


def load_unattached(compiled: Compiled, function: str) -> tuple[int, dict[str, int]]:
    """Load one program to be run by BPF_PROG_TEST_RUN: its descriptor, and those of its maps by name. Raises CannotTraceError."""
    maps = _create_maps(compiled)
    try:
        program = load_program(Program(function, RAW_TRACEPOINT, with_values(compiled.functions[function], maps)))
    except ProgramRefusedError as error:
        for fd in maps:
            os.close(fd)
        raise CannotTraceError(f"the kernel refused the BPF program {function}: {verdict(error.log) or error.strerror}") from None
    return program, dict(zip(compiled.maps, maps, strict=True))


def _create_maps(compiled: Compiled) -> list[int]:
    """Descriptors of new maps, in the order of compiled.maps."""
    fds: list[int] = []
    for name, spec in compiled.maps.items():
        try:
            fds.append(create_map(name, spec))
        except OSError as error:
            raise CannotTraceError(f"the kernel refused the BPF map {name}: {error.strerror}") from None
    return fds


def _parts(
    planned: PlannedHook, compiled: Compiled, maps: Sequence[int], constants: Sequence[int], function_id: Callable[[str], int]
) -> list[_Part]:
    """The programs of a hook in the order in which they are attached."""
    if planned.mechanism in (NONE, CALLER) or planned.symbol is None:
        return []
    parts = []
    # Exit first: a call that is entered before its exit is hooked would leave its context behind.
    for is_exit in (True, False) if planned.hook.has_exit else (False,):
        function = ("exit_" if is_exit else "enter_") + planned.hook.name
        kind, attach_type, target = KPROBE, 0, 0
        if planned.mechanism == FENTRY:
            kind, attach_type, target = TRACING, FEXIT if is_exit else FENTRY_TYPE, function_id(planned.symbol)
        elif planned.mechanism == TRACEPOINT:
            kind = RAW_TRACEPOINT
        else:
            function += "_regs"
        name = ("x_" if is_exit else "e_") + planned.hook.name.lower()
        code = with_values(compiled.functions[function], maps, constants)
        parts.append(_Part(planned, is_exit, Program(name, kind, code, attach_type, target)))
    return parts


def _load_side_by_side(programs: Sequence[Program]) -> list[int | ProgramRefusedError]:
    """Descriptors in the order of the programs, or why not. The time goes into the kernel's verifier, which takes several at once."""
    results: list[int | ProgramRefusedError] = [ProgramRefusedError(0, "")] * len(programs)
    # The longest first: nobody is left with a long one at the end.
    waiting = sorted(range(len(programs)), key=lambda i: len(programs[i].code))

    def work() -> None:
        while True:
            try:
                i = waiting.pop()
            except IndexError:
                return
            try:
                results[i] = load_program(programs[i])
            except ProgramRefusedError as error:
                results[i] = error

    threads = [threading.Thread(target=work) for _ in range(min(len(programs), os.cpu_count() or 1, _MAX_THREADS) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    return results


def _link(part: _Part, program_fd: int) -> int:
    """Descriptor of the link or perf event. Raises HooksRefusedError."""
    planned = part.planned
    try:
        if part.program.kind == KPROBE:
            return attach_kprobe(program_fd, str(planned.symbol), is_exit=part.is_exit)
        return link_program(program_fd, str(planned.symbol) if planned.mechanism == TRACEPOINT else "")
    except OSError as error:
        why = f"cannot attach {planned.mechanism} to {planned.symbol}: {error.strerror}"
        raise HooksRefusedError({planned.hook.name: why}) from None


def hook_status(planned: PlannedHook) -> HookStatus:
    """What became of a hook that was planned so, once everything else was loaded."""
    mechanism = None if planned.mechanism == NONE else planned.mechanism
    needed = mechanism is not None or planned.is_missing
    reason = "" if mechanism else planned.reason
    return HookStatus(planned.hook.name.lower(), planned.symbol, mechanism, reason, needed, refused=planned.is_refused)
