# SPDX-License-Identifier: Apache-2.0
"""The terminal of the screen: every way out of it gives it back as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any, Final

from textual.drivers.linux_driver import LinuxDriver

_ENDING: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
    signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR,
)  # fmt: skip
"""Signals that end a process that does not handle them."""
_PATIENCE_S: Final = 2.0
"""For how long a screen that a signal ends waits for a terminal that takes no output."""
_ORDINARY: Final = (
    b"\x1b[?2004l\x1b[?7h\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?2048l\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l"
)
"""Undoes every mode that the driver sets."""


class ScreenDriver(LinuxDriver):
    """Textual's driver, on a stream that takes every character and drops what a terminal that is gone no longer takes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._file = sys.stderr  # type: ignore[assignment]  # which streams.py made a TextIOWrapper

    def _disable_mouse_support(self) -> None:
        super()._disable_mouse_support()
        self.write("\x1b[?1016l")

    def _run_input_thread(self) -> None:
        # A terminal that is gone is an error here; hung_up() says so.
        with contextlib.suppress(OSError):
            self.run_input_thread()


def hung_up() -> bool:
    """Whether the terminal on standard input is gone: reading it would give its end again and again."""
    poll = select.poll()
    poll.register(0, 0)
    return bool(poll.poll(0))


class Ending:
    """What ended the screen: an error, or a signal.

    ``watch`` is called once the event loop runs, before the terminal is touched; ``stop`` when the screen is gone.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.signal: int | None = None
        self._attributes: list[Any] = []
        self._last_resort: threading.Timer | None = None

    def watch(self, leave: Callable[[], object]) -> None:
        """Call ``leave()`` when a signal comes that ends a process."""
        with contextlib.suppress(termios.error):
            self._attributes = termios.tcgetattr(0)
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self.by_signal, number, leave)

    def by_signal(self, number: int, leave: Callable[[], object]) -> None:
        """End as if the signal had come."""
        if self.signal is not None:
            return
        self.signal = number
        self._last_resort = threading.Timer(_PATIENCE_S, self._leave_at_once)
        self._last_resort.daemon = True
        self._last_resort.start()
        leave()

    def stop(self) -> None:
        """Raise the error, or SystemExit with 128 + the signal, where one of them ended the screen."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        if self.error is not None:
            raise self.error
        if self.signal is not None:
            sys.exit(128 + self.signal)

    def _leave_at_once(self) -> None:
        """The terminal takes no output, so its modes cannot be written in order: set what can be set, and end."""
        with contextlib.suppress(OSError, termios.error):
            if self._attributes:
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
            termios.tcflush(2, termios.TCOFLUSH)
            os.write(os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), _ORDINARY)
        os._exit(128 + (self.signal or 0))
