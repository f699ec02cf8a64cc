# SPDX-License-Identifier: Apache-2.0
"""The loader child: reads constants, plans, compiles, attaches, and hands everything over to its parent.

The long-lived daemon is the parent: it never imports bcc, which brings LLVM and does not give its memory back.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from uaptrace.errors import CannotTraceError, UaptraceError
from uaptrace.loader.btf import KernelBtf
from uaptrace.loader.constants import VARIABLES, read_constants
from uaptrace.loader.facts import read_host_facts
from uaptrace.loader.hooks import SERIES_SYMBOL, PageAllocHook
from uaptrace.loader.plan import plan_hooks, wanted_symbols
from uaptrace.loader.program import KernelConstants, bpf_folder, compiler_flags, program_text, use_stub_headers
from uaptrace.model.snapshot import HookStatus
from uaptrace.sources.bpf_memory import BpfMemory
from uaptrace.sources.kernel_memory import Kcore, KernelMemory
from uaptrace.sources.procfs import read_split_counters
from uaptrace.units import Level

FILES: Final = {
    "kcore": "/proc/kcore",
    "kallsyms": "/proc/kallsyms",
    "unmapped_alloc": "/sys/kernel/debug/unmapped_alloc",
    "ptdump": "/sys/kernel/debug/page_tables/kernel",
}
"""Files that only root can open; their descriptors serve a process without any privilege."""
_MESSAGE_BYTES: Final = 1 << 20
_MAX_FDS: Final = 200


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How to load. ``ring_bytes`` is a power of two of at least a page."""

    ring_bytes: int = 16 << 20
    page_alloc: PageAllocHook = PageAllocHook.AUTO
    mechanism: str | None = None
    max_tasks: int = 8192
    page_tables: str = "auto"
    """How kernel memory is read: kcore, bpf, or auto: kcore where there is one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the daemon gets: descriptors and what is known about them."""

    ring_fd: int
    counters_fd: int
    nr_cpus: int
    ring_bytes: int
    link_fds: tuple[int, ...]
    program_fds: tuple[int, ...]
    files: Mapping[str, int]
    """Descriptors by the keys of FILES; only what could be opened."""
    hooks: tuple[HookStatus, ...]
    constants: KernelConstants
    symbols: Mapping[str, int]
    offsets: Mapping[str, int]
    """Offsets in bytes and sizes of what is read from struct page and mem_section; missing where the kernel has none."""
    has_series: bool
    splits_before: Mapping[Level, int] = field(default_factory=dict)
    """vmstat's split counters before the first program was loaded."""
    splits_hooked: Mapping[Level, int] = field(default_factory=dict)
    """The same when the split hooks were live."""
    loader_tgid: int = 0
    has_reader: bool = False
    """Kernel memory is read by the program files["reader"] into files["window"], not through files["kcore"]."""

    def close(self) -> None:
        """Detach: links live as long as their descriptors."""
        for fd in (*self.link_fds, *self.program_fds, self.ring_fd, self.counters_fd, *self.files.values()):
            with contextlib.suppress(OSError):
                os.close(fd)


def load(options: LoaderOptions) -> Loaded:
    """Run the loader child and take what it hands over. Raises CannotTraceError (and its like) with the child's reason."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (here, there):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        here.close()
        _child(there, options)
    there.close()
    try:
        loaded = _receive(here)
    finally:
        here.close()
        _, status = os.waitpid(pid, 0)
    if loaded is None:
        raise CannotTraceError(f"the loader ended without a word (wait status {status}): set UAPTRACE_LOADER_LOG=1 to see what bcc says")
    return loaded


def _child(there: socket.socket, options: LoaderOptions) -> None:
    """Never returns. Left by os._exit: bcc's own clean-up would disable perf events that the parent still holds."""
    # A process group of its own: Ctrl-C on the terminal is for the parent, which then sees the socket close.
    status = 0
    try:
        message, fds = _load(options)
    except UaptraceError as error:
        message, fds = {"error": str(error)}, []
    except BaseException as error:
        message, fds = {"error": f"the loader failed: {type(error).__name__}: {error}"}, []
        status = 1
    try:
        for start in range(0, len(fds), _MAX_FDS):
            part = fds[start : start + _MAX_FDS]
            there.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", part))])
        there.send(json.dumps(message).encode())
    finally:
        os._exit(status)


def _receive(here: socket.socket) -> Loaded | None:
    fds: list[int] = []
    while True:
        data, ancillary, _, _ = here.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(4 * _MAX_FDS))
        if not data:
            return None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                part = array.array("i")
                part.frombytes(payload[: len(payload) - len(payload) % 4])
                fds.extend(part)
        if data != b"+":
            break
    message: dict[str, Any] = json.loads(data)
    if "error" in message:
        raise CannotTraceError(message["error"])
    given = iter(fds)
    nr_links, nr_programs = message["nr_links"], message["nr_programs"]
    ring_fd, counters_fd = next(given), next(given)
    return Loaded(
        ring_fd=ring_fd,
        counters_fd=counters_fd,
        nr_cpus=message["nr_cpus"],
        ring_bytes=message["ring_bytes"],
        link_fds=tuple(next(given) for _ in range(nr_links)),
        program_fds=tuple(next(given) for _ in range(nr_programs)),
        files={name: next(given) for name in message["files"]},
        hooks=tuple(HookStatus(**hook) for hook in message["hooks"]),
        constants=KernelConstants(**message["constants"]),
        symbols=message["symbols"],
        offsets=message["offsets"],
        has_series=message["has_series"],
        splits_before={Level(int(k)): v for k, v in message["splits_before"].items()},
        splits_hooked={Level(int(k)): v for k, v in message["splits_hooked"].items()},
        loader_tgid=message["loader_tgid"],
        has_reader="reader" in message["files"],
    )


def _load(options: LoaderOptions) -> tuple[dict[str, Any], list[int]]:
    from uaptrace.loader.bcc_programs import HookRefusedError, compile_and_attach, load_reader

    say = _progress()
    splits_before = read_split_counters()
    facts = read_host_facts(wanted_symbols() | set(VARIABLES))
    files = _open_files()
    folder = bpf_folder()
    use_stub_headers(folder)
    memory: KernelMemory
    if options.page_tables == "kcore" and "kcore" not in files:
        raise CannotTraceError("/proc/kcore cannot be opened: run as root, with CONFIG_PROC_KCORE=y, or use --page-tables bpf")
    if options.page_tables == "bpf" or "kcore" not in files:
        files["reader"], files["window"] = load_reader((folder / "reader.bpf.c").read_text())
        memory = BpfMemory(files["reader"], files["window"])
    else:
        memory = Kcore(files["kcore"])
    nr_cpus = os.sysconf("SC_NPROCESSORS_CONF")
    with KernelBtf() as btf:
        constants = read_constants(memory, facts.symbols, btf)
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
                demoted=demoted,
            )
            flags = compiler_flags(
                constants, plan, folder, ring_pages=options.ring_bytes // 4096, nr_cpus=nr_cpus, max_tasks=options.max_tasks
            )
            try:
                attached = compile_and_attach(program_text(folder), flags, plan, lambda: hooked.update(read_split_counters() or {}))
                break
            except HookRefusedError as error:
                say(f"{error.hook}: {error.why}")
                demoted.append(error.hook)
    say("attached")
    message = {
        "nr_cpus": nr_cpus,
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


def _progress() -> Callable[[str], None]:
    """With UAPTRACE_LOADER_LOG set: what the loader does and when, on standard error."""
    if not os.environ.get("UAPTRACE_LOADER_LOG"):
        return lambda _: None
    start = time.monotonic()
    return lambda what: print(f"loader +{time.monotonic() - start:.2f} s: {what}", file=sys.stderr, flush=True)
