# SPDX-License-Identifier: Apache-2.0
"""The parent's side of loading: starts the loader child, and takes what it hands over.

The long-lived daemon is the parent: it never imports bcc, which brings LLVM and does not give its memory back. Nor does this module
import what only the child needs (loader/child.py), or arrays: the child is to start early, and the daemon to stay small.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from uaptrace.abi.errors import CannotTraceError, UaptraceError
from uaptrace.abi.hooks import PageAllocHook
from uaptrace.abi.units import Level
from uaptrace.loader.program import KernelConstants
from uaptrace.loader.start_log import Progress
from uaptrace.model.hook_status import HookStatus
from uaptrace.process.privileges import die_with_parent

DEFAULT_RING_BYTES: Final = 8 << 20
"""131,072 records: docs/performance.md says why so many."""
_MESSAGE_BYTES: Final = 1 << 20
_MAX_FDS: Final = 200
LOADER_GONE: Final = "the loader exited without reporting an error"
"""What is said where the child died before it could say why."""


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How to load. ``ring_bytes`` is a power of two of at least a page."""

    ring_bytes: int = DEFAULT_RING_BYTES
    page_alloc: PageAllocHook = PageAllocHook.AUTO
    mechanism: str | None = None
    page_tables: str = "auto"
    """How kernel memory is read: kcore, bpf, or auto: kcore where there is one."""
    count_flushes: bool = False
    """Count flushes of ranges of kernel addresses, also where nothing else needs that hook."""
    compile: bool = False
    """By this host's bcc, instead of as the programs are shipped."""


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
    """Descriptors by the keys of files.FILES; only what could be opened."""
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


class Loading:
    """A loader child at work. While it reads, compiles and attaches, its parent may do something else.

    As a context manager: one that was left without finish() is waited for, and what it had attached is detached.
    """

    def __init__(self, options: LoaderOptions) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
        sys.stdout.flush()
        sys.stderr.flush()
        before_cpu_s = time.process_time()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            die_with_parent(parent)
            self._here.close()
            _child(there, options, Progress("loader", before_cpu_s))
        there.close()

    def finish(self) -> Loaded:
        """Wait for the child and take what it hands over. Raises CannotTraceError (and its like) with the child's reason."""
        try:
            loaded = _receive(self._here)
        finally:
            status = self.close()
        if loaded is None:
            raise CannotTraceError(f"{LOADER_GONE} (wait status {status}): set UAPTRACE_LOADER_LOG=1 to see what bcc says")
        return loaded

    def close(self) -> int:
        """Let go of the child and wait for its end: its wait status. May be called again."""
        self._here.close()
        if not self._pid:
            return 0
        pid, self._pid = self._pid, 0
        return os.waitpid(pid, 0)[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def load(options: LoaderOptions) -> Loaded:
    """Run the loader child and take what it hands over. Raises CannotTraceError (and its like) with the child's reason."""
    with Loading(options) as loading:
        return loading.finish()


def _child(there: socket.socket, options: LoaderOptions, say: Progress) -> None:
    """Never returns. Left by os._exit: bcc's own clean-up would disable perf events that the parent still holds."""
    status = 0
    try:
        from uaptrace.loader.child import load_and_attach

        message, fds = load_and_attach(options, say)
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
        data, ancillary, _, _ = here.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(4 * _MAX_FDS), socket.MSG_CMSG_CLOEXEC)
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
