# SPDX-License-Identifier: Apache-2.0
"""What this host can do and what not, hook by hook, each with the reason and the command that mends it."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.hooks import SERIES_SYMBOL, PageAllocHook
from uaptrace.ebpf.btf import KernelBtf
from uaptrace.ebpf.objects import FENTRY, TRACING, Program, ProgramRefusedError, load_program
from uaptrace.kernel.container import Container, problems
from uaptrace.kernel.kcore import open_kcore
from uaptrace.loader.attaching import hook_status, load_hooks
from uaptrace.loader.designs import Design
from uaptrace.loader.host_facts import HostFacts
from uaptrace.loader.kernel_switches import Switch
from uaptrace.loader.loading import load_accepted, open_kernel
from uaptrace.loader.parent import LoaderOptions
from uaptrace.loader.plan import NONE, PlannedHook, plan_hooks
from uaptrace.loader.start_log import Progress

READY: Final = 0
DEGRADED: Final = 1
CANNOT: Final = 2

_TRIAL_FUNCTION: Final = "flush_tlb_all"
_PROBE_READ_KERNEL: Final = 113


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``mend`` is a command or a setting, empty where nothing is wrong or nothing helps."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``status`` is the exit status: 0 ready, 1 degraded, 2 cannot trace."""

    status: int
    findings: tuple[Finding, ...]
    hooks: tuple[PlannedHook, ...]
    tried: bool
    """Each program was loaded, so ``hooks`` are what became of them; else they are only what would be tried."""
    logs: Mapping[str, Sequence[str]]
    """All that the verifier said of programs that it refused, by the names of their hooks, in the order in which they were tried."""

    def state(self, planned: PlannedHook) -> str:
        """``loads``, or HookStatus.state of one that is not attached; ``not tried`` where nothing could be."""
        if planned.mechanism == NONE:
            return hook_status(planned).state
        return "loads" if self.tried else "not tried"

    def to_json(self) -> dict[str, Any]:
        """``status`` (ready, degraded, cannot trace), ``exit_status``, ``kernel``, ``findings``, ``hooks`` and ``logs``."""
        return {
            "status": ("ready", "degraded", "cannot trace")[self.status],
            "exit_status": self.status,
            "kernel": platform.release(),
            "findings": [asdict(finding) for finding in self.findings],
            "hooks": [
                {
                    "name": planned.hook.name.lower(),
                    "symbol": planned.symbol,
                    "mechanism": None if planned.mechanism == NONE else planned.mechanism,
                    "state": self.state(planned),
                    "needed_for": planned.hook.need.value,
                    "purpose": planned.hook.purpose,
                    "reason": planned.reason,
                }
                for planned in self.hooks
            ],
            "logs": {hook: list(logs) for hook, logs in self.logs.items()},
        }


def check(
    facts: HostFacts,
    kcore_error: str | None,
    bpf_error: str | None,
    try_hooks: Callable[[HostFacts, MutableMapping[str, list[str]]], tuple[PlannedHook, ...]],
    switches_off: Iterable[Switch] = (),
    compiler: str | None = None,
    designs: Sequence[Design] = (),
    walks_error: str | None = None,
    container: Container | None = None,
) -> CheckResult:
    """Put the facts together. ``kcore_error``, ``bpf_error``: why the file or a tracing program was refused, None where not;
    ``try_hooks``: loads every program, where the facts allow it, and says what became of each hook; ``switches_off``: those by which
    the kernel calls no program; ``compiler``: what compiled the programs that come with uaptrace, None where this host has to;
    ``designs``: designs_of(); ``walks_error``: why the processor's counters of page walks cannot be opened, None where they can;
    ``container``: read_container()."""
    findings = [
        _root_finding(facts),
        _bpf_finding(facts, bpf_error),
        _btf_finding(facts),
        _programs_finding(facts, compiler),
        _page_tables_finding(kcore_error, bpf_error),
        _symbols_finding(facts),
        _tracefs_finding(facts),
        *_container_finding(container),
        _designs_finding(designs),
        _loops_finding(facts),
        _walks_finding(walks_error),
    ]
    hooks: tuple[PlannedHook, ...] | None = None
    logs: dict[str, list[str]] = {}
    if all(f.ok or not f.fatal for f in findings):
        try:
            hooks = try_hooks(facts, logs)
        except CannotTraceError as error:
            findings.append(Finding("programs", False, str(error)))
    tried = hooks is not None
    planned = _planned(facts) if hooks is None else hooks
    findings.append(_switches_finding(planned, switches_off))
    return CheckResult(_status(findings, planned), tuple(findings), planned, tried, logs)


def _status(findings: Sequence[Finding], planned: Sequence[PlannedHook]) -> int:
    if any(not f.ok and f.fatal for f in findings):
        return CANNOT
    return DEGRADED if any(p.is_missing for p in planned) or any(not f.ok for f in findings) else READY


def _root_finding(facts: HostFacts) -> Finding:
    is_root = facts.effective_uid == 0
    return Finding("root", is_root, f"effective uid {facts.effective_uid}", "" if is_root else "run it with sudo")


def _btf_finding(facts: HostFacts) -> Finding:
    if facts.has_btf:
        return Finding("BTF", True, "/sys/kernel/btf/vmlinux")
    need = "use a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian's linux-image-amd64 has it)"
    return Finding("BTF", False, "no /sys/kernel/btf/vmlinux: types of the kernel are not known", need)


def _page_tables_finding(kcore_error: str | None, bpf_error: str | None) -> Finding:
    if kcore_error is None:
        return Finding("page tables", True, "/proc/kcore can be read", fatal=False)
    if bpf_error is None:
        return Finding("page tables", True, f"read by a BPF program (/proc/kcore: {kcore_error})", fatal=False)
    need = "needs root, no lockdown, and CONFIG_PROC_KCORE=y; else they are read by a BPF program"
    return Finding("page tables", False, f"/proc/kcore: {kcore_error}", need, fatal=False)


def _symbols_finding(facts: HostFacts) -> Finding:
    if any(facts.symbols.values()):
        return Finding("kernel symbols", True, "/proc/kallsyms has addresses")
    return Finding("kernel symbols", False, "addresses in /proc/kallsyms are hidden", "run it as root; sysctl -w kernel.kptr_restrict=1")


def _tracefs_finding(facts: HostFacts) -> Finding:
    if facts.attachable is not None:
        return Finding("tracefs", True, "available_filter_functions can be read", fatal=False)
    said = "not readable: whether a hook can be attached is only known when it is tried"
    mend = "mount -t tracefs tracefs /sys/kernel/tracing (in a container: mount the host's)"
    return Finding("tracefs", False, said, mend, fatal=False)


def _container_finding(container: Container | None) -> Iterable[Finding]:
    if container is None or not container.is_one:
        return
    what, mend = problems(container)
    said = f"in a container: {'; '.join(what) if what else 'it sees what it needs of the host'}"
    yield Finding("container", not what, said, "; ".join(mend), fatal=False)


def _walks_finding(walks_error: str | None) -> Finding:
    said = "can be counted: uaptrace cost --walks, uaptrace serve --count-walks"
    return Finding("page walks", True, f"cannot be counted: {walks_error}" if walks_error else said, fatal=False)


def _loops_finding(facts: HostFacts) -> Finding:
    if facts.loops_compiled:
        return Finding("compiled model", True, "compiled", fatal=False)
    said = "not compiled: fewer events a second are taken in (docs/performance.md)"
    return Finding("compiled model", True, said, "apt-get install gcc python3-dev, and install uaptrace again", fatal=False)


def _programs_finding(facts: HostFacts, compiler: str | None) -> Finding:
    if compiler is not None:
        return Finding("compiled programs", True, f"shipped with uaptrace, compiled by {compiler}")
    if facts.bcc_found:
        return Finding("compiled programs", True, "compiled by this host's bcc, and kept in /var/cache/uaptrace")
    return Finding(
        "compiled programs",
        False,
        f"this installation has none, and they cannot be compiled here: {facts.bcc_reason}",
        "apt-get install python3-bpfcc, and make the virtual environment with /usr/bin/python3 -m venv "
        "--system-site-packages (the package bcc on PyPI is something else)",
    )


def _designs_finding(designs: Sequence[Design]) -> Finding:
    if not designs:
        return Finding("designs", True, "this kernel groups no pages outside of the direct map", fatal=False)
    names = [design.name + ("" if design.is_watched else " (no hooks for it: only what it does to the map is seen)") for design in designs]
    return Finding("designs", True, ", ".join(names), fatal=False)


def _planned(facts: HostFacts) -> tuple[PlannedHook, ...]:
    """What would be tried."""
    try:
        with KernelBtf() as btf:
            return plan_hooks(facts.symbols, facts.attachable, btf.has_function)
    except CannotTraceError:
        return plan_hooks(facts.symbols, facts.attachable, lambda _: False)


def _switches_finding(planned: Iterable[PlannedHook], switches_off: Iterable[Switch]) -> Finding:
    mechanisms = {p.mechanism for p in planned}
    paths = [switch.path for switch in switches_off if switch.silences & mechanisms]
    if not paths:
        return Finding("kernel switches", True, "the kernel calls programs that are attached", fatal=False)
    mend = "; ".join(f"echo 1 > {path}" for path in paths)
    return Finding("kernel switches", False, f"the kernel calls no program: {', '.join(paths)} is 0", mend, fatal=False)


def load_everything(facts: HostFacts, logs: MutableMapping[str, list[str]], *, fresh: bool = False) -> tuple[PlannedHook, ...]:
    """Load each program that a command may want, attach none, and say what became of each hook. ``fresh``: LoaderOptions.compile;
    ``logs`` takes all that the verifier said of programs that it refused, by the names of their hooks.

    Raises CannotTraceError.
    """
    # The hook that audit takes is among what has to load where there is something to audit.
    page_alloc = PageAllocHook.CALLERS if SERIES_SYMBOL in facts.symbols else PageAllocHook.AUTO
    options = LoaderOptions(page_alloc=page_alloc, compile=fresh)

    def keep_log(hook: str, log: str) -> None:
        logs.setdefault(hook.lower(), []).append(log.strip("\0 \n"))

    with open_kernel(options, facts) as (_, btf, constants):
        return load_accepted(options, facts, constants, btf, load_hooks, Progress("loader"), keep_log)[0]


def _bpf_finding(facts: HostFacts, bpf_error: str | None) -> Finding:
    if bpf_error is None:
        return Finding("tracing programs", True, "the kernel loads BPF programs that read kernel memory")
    locked = facts.lockdown not in (None, "none")
    return Finding(
        "tracing programs",
        False,
        bpf_error + (f" (lockdown: {facts.lockdown})" if locked else ""),
        ("boot with lockdown off (Secure Boot may turn it on), or " if locked else "") + "trace in the test host: make run"
        if facts.effective_uid == 0
        else "run it with sudo",
    )


def tracing_program_error() -> str | None:
    """Try to load the smallest fentry program that reads kernel memory; why it was refused, or None. It is gone again at once.

    r1 = r10; r1 += -8; r2 = 8; r3 = 0; call bpf_probe_read_kernel; r0 = 0; exit.
    """
    code = bytes.fromhex(
        "bfa1000000000000 07010000f8ffffff b702000008000000 b703000000000000 8500000071000000 b700000000000000 9500000000000000"
    )
    assert code[36] == _PROBE_READ_KERNEL
    try:
        with KernelBtf() as btf:
            target = btf.function_id(_TRIAL_FUNCTION)
    except CannotTraceError:
        return None  # no BTF: a finding of its own
    try:
        os.close(load_program(Program("trial", TRACING, code, FENTRY, target)))
    except ProgramRefusedError as error:
        if "unknown func" in error.log or "cannot use helper" in error.log:
            return "the kernel is locked down: BPF programs may not read kernel memory"
        if error.errno == errno.EPERM:
            return "the kernel refuses tracing programs " + ("even to root" if os.geteuid() == 0 else "without root")
        return f"the kernel refuses tracing programs: {error.strerror}"
    return None


def kcore_error() -> str | None:
    """Why /proc/kcore cannot be opened, None where it can."""
    try:
        os.close(open_kcore())
    except OSError as error:
        if error.errno == errno.EPERM and os.geteuid() == 0:
            return "not permitted, not even for root: the kernel is locked down"
        return str(error.strerror)
    return None
