# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are always there, take every character, and whose end is told apart from other errors."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import IO, Final

from uaptrace.abi.errors import OutputError, ReaderGoneError, UsageError

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_NAMES: Final = {_STDIN: "input", _STDOUT: "output", _STDERR: "error"}
_NO_SCREEN: Final = frozenset({"dumb", "unknown"})
"""Values of TERM that say that the terminal cannot move its cursor."""


def prepare_streams() -> None:
    """Make standard input, output and error usable, whatever the caller gave this process.

    One that is closed becomes /dev/null, so that no file that is opened later gets its number: input is at its end, messages are
    lost, and output fails (OutputError), since nobody would get it. Characters that the locale lacks are replaced. Messages that
    cannot be written are dropped: the command goes on.
    """
    for number, flags in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        _fill(number, flags)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(_STDIN, closefd=False)))
        sys.__stdin__ = sys.stdin  # type: ignore[misc]
    sys.stdout = _text_stream(_Output(_STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text_stream(_Messages(_STDERR, "w", closefd=False), sys.stderr, line_buffering=True)
    # These are what the standard library asks for the size of the terminal, and what the screen is drawn on.
    sys.__stdout__ = sys.__stdout__ or sys.stdout  # type: ignore[misc]
    sys.__stderr__ = sys.__stderr__ or sys.stderr  # type: ignore[misc]


def check_terminal() -> None:
    """UsageError where the screen can neither be drawn nor steered."""
    missing = [name for number, name in _NAMES.items() if not os.isatty(number)]
    if missing:
        raise UsageError(f"the screen needs a terminal, and standard {' and '.join(missing)} is none: use --once")
    term = os.environ.get("TERM")
    if term in _NO_SCREEN:
        raise UsageError(f"TERM={term} has no full-screen mode: use --once, or set TERM to what the terminal is")


def abandon_output() -> None:
    """What still waits for standard output goes nowhere: Python, which writes it at exit, has nothing to complain about."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _fill(number: int, flags: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nothing = os.open(os.devnull, flags)
        os.dup2(nothing, number, inheritable=True)
        if nothing != number:
            os.close(nothing)


def _text_stream(raw: io.FileIO, before: IO[str] | None, *, line_buffering: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None),
        errors="replace",
        line_buffering=line_buffering or raw.isatty(),
        write_through=getattr(before, "write_through", False),
    )


class _Output(io.FileIO):
    """Standard output. OutputError where it takes no more; ReaderGoneError where whoever read it has enough."""

    def write(self, data: object, /) -> int:
        while True:
            try:
                written: int | None = super().write(data)  # type: ignore[arg-type]
            except BrokenPipeError:
                raise ReaderGoneError from None
            except OSError as error:
                raise OutputError(f"cannot write to standard output: {error.strerror}") from None
            if written is not None:
                return written
            select.select([], [self], [])  # Somebody made it non-blocking: wait as if nobody had.


class _Messages(io.FileIO):
    """Standard error. Where it takes nothing, what is said is lost."""

    def write(self, data: object, /) -> int:
        with contextlib.suppress(OSError):
            while True:
                written: int | None = super().write(data)  # type: ignore[arg-type]
                if written is not None:
                    return written
                select.select([], [self], [])
        return memoryview(data).nbytes  # type: ignore[arg-type]
