# SPDX-License-Identifier: Apache-2.0
"""A terminal with a process on it, as a terminal emulator has: what modes are on, and what its settings are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_MODE: Final = re.compile(rb"\x1b\[\?([\d;]+)([hl])")
_KITTY: Final = re.compile(rb"\x1b\[([<>])\d*u")
ORDINARY: Final = frozenset({7, 25})
"""Modes that are on in a terminal that nobody has touched: lines wrap, and the cursor shows."""
ALTERNATE_SCREEN: Final = 1049
TIMEOUT_S: Final = 300.0


class Terminal:
    """One process on a terminal of its own, which controls it if ``controlling``. ``streams``: what it has in place of the terminal."""

    def __init__(
        self,
        command: list[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        streams: Mapping[int, int] | None = None,
        controlling: bool = True,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.output = b""
        self.status: int | None = None
        """Exit status, 128 + N where signal N ended it; None as long as ended() was not true."""
        self.usage: Any = None
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                self._become(command, {**os.environ, "TERM": "xterm-256color", **(environment or {})}, streams or {}, controlling, prepare)
            os._exit(127)

    def _become(
        self,
        command: list[str],
        environment: Mapping[str, str | None],
        streams: Mapping[int, int],
        controlling: bool,
        prepare: Callable[[], object] | None,
    ) -> None:
        # As a shell starts a program: what a runner in the background ignores (nohup: SIGHUP) would be ignored here too.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        if controlling:
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        for descriptor in range(3):
            os.dup2(streams.get(descriptor, self.slave), descriptor)
        os.closerange(3, 256)
        if prepare is not None:
            prepare()
        os.execve(
            shutil.which(command[0]) or command[0], command, {name: value for name, value in environment.items() if value is not None}
        )

    # What it shows

    def read(self, wait_s: float = 0.05) -> bytes:
        """What it wrote meanwhile, which is kept in ``output`` too."""
        if not select.select([self.master], [], [], wait_s)[0]:
            return b""
        try:
            got = os.read(self.master, 1 << 16)
        except OSError:  # Nobody has the terminal open any more.
            return b""
        self.output += got
        return got

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Take its output until the condition holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not after {TIMEOUT_S} s; {self.output[-2000:]!r}"
            self.read()

    def shows(self, text: str) -> None:
        """Wait until it has written this."""
        self.until(lambda: text.encode() in self.output, f"{text!r} on the terminal")

    @property
    def modes(self) -> frozenset[int]:
        """The private modes that are on now, with 0 for each keyboard protocol that was not taken back."""
        on = set(ORDINARY)
        for numbers, how in _MODE.findall(self.output):
            for number in map(int, numbers.split(b";")):
                (on.add if how == b"h" else on.discard)(number)
        if sum(1 if how == b">" else -1 for how in _KITTY.findall(self.output)) > 0:
            on.add(0)
        return frozenset(on)

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    # What is done to it

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    # Its end

    def ended(self) -> bool:
        """Whether it has; ``status`` and ``usage`` are known then."""
        if self.status is None:
            pid, status, self.usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
        return self.status is not None

    def wait(self, *, read: bool = True) -> int:
        """Exit status, when it has ended. ``read``: take its output meanwhile."""
        if read:
            self.until(self.ended, "its end")
            while self.read(0):
                pass
        else:
            deadline = time.monotonic() + TIMEOUT_S
            while not self.ended():
                assert time.monotonic() < deadline, "it does not end"
                time.sleep(0.01)
        assert self.status is not None
        return self.status

    def stopped(self) -> None:
        """Wait until it is stopped, as a shell does."""

        def is_stopped() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            assert not pid or os.WIFSTOPPED(status), f"it ended: {status:#x}"
            return bool(pid)

        self.until(is_stopped, "stopped")
        while self.read(0):
            pass

    def close(self) -> None:
        if self.status is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)


@contextlib.contextmanager
def terminal(command: list[str], **options: Any) -> Iterator[Terminal]:
    """A Terminal that is closed, and its process ended, whatever happens."""
    made = Terminal(command, **options)
    try:
        yield made
    finally:
        made.close()
