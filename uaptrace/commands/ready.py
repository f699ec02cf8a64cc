# SPDX-License-Identifier: Apache-2.0
"""``--ready-file``: made by a process of its own, so that the one that traces need not stay who may write there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import click

from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.commands.tracing import folder_of
from uaptrace.process.files import touch
from uaptrace.process.privileges import drop_privileges

_ANSWER_BYTES: Final = 1 << 16
_MADE: Final = b"\0"
"""What is answered when the file is there; anything else is why not."""

ready_file_option = click.option(
    "--ready-file",
    "ready_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Create this file when all hooks are attached and the baseline is read.",
)


@contextlib.contextmanager
def ready_file(path: Path | None) -> Iterator[Callable[[], None]]:
    """Gives what is to be called when tracing has begun: it makes the file, or raises UsageError.

    To be entered before anything is opened that only the tracing process is to have. Root forks a process here, which becomes the
    owner of the file's folder, waits, and ends with the block or with its parent.
    """
    if path is None:
        yield lambda: None
    elif os.geteuid() != 0:
        yield lambda: touch(path)
    else:
        with _maker(path) as make:
            yield make


@contextlib.contextmanager
def _maker(path: Path) -> Iterator[Callable[[], None]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        here.close()
        _wait_and_make(there, path)
    there.close()

    def make() -> None:
        try:
            here.send(b"\0")
            answer = here.recv(_ANSWER_BYTES)
        except OSError:
            answer = b""
        reap()
        if not answer:
            raise UaptraceError(f"cannot make {path}: the process that creates it has exited")
        if answer != _MADE:
            raise UsageError(answer.decode(errors="replace"))

    @cache
    def reap() -> None:
        here.close()
        os.waitpid(pid, 0)

    try:
        yield make
    finally:
        reap()


def _wait_and_make(there: socket.socket, path: Path) -> NoReturn:
    """The maker's whole life. It ends when nobody has the other end any more, so it needs no signal."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        why_not = _become_owner(path)
        if there.recv(1):
            there.send((why_not or _touched(path))[:_ANSWER_BYTES])
    finally:
        os._exit(0)


def _become_owner(path: Path) -> bytes:
    """Why not, if so."""
    try:
        drop_privileges(folder_of(path))
    except (UaptraceError, OSError) as error:
        return f"cannot make {path}: {error}".encode()
    return b""


def _touched(path: Path) -> bytes:
    try:
        touch(path)
    except UaptraceError as error:
        return str(error).encode()
    return _MADE
