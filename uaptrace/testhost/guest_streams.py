# SPDX-License-Identifier: Apache-2.0
"""Input and output of the virtual machine: pipes, consoles, and the terminal of a person."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Final

KVM_GAVE_UP: Final = b"KVM internal error"
"""What QEMU says of a machine that it then leaves standing."""


def copy(source: int, target: int) -> None:
    """Copies until the end of the source; a reader that has gone is no error."""
    with contextlib.suppress(OSError):
        while data := os.read(source, 65536):
            while data:
                data = data[os.write(target, data) :]


def copy_console(source: int, targets: list[int], kill: Callable[[], None]) -> None:
    """Copies until the end of the source; a machine that KVM has given up would stand still for ever, and is killed."""
    tail = b""
    with contextlib.suppress(OSError):
        while data := os.read(source, 65536):
            for target in targets:
                os.write(target, data)
            if KVM_GAVE_UP in (tail := (tail + data)[-65536 - len(KVM_GAVE_UP) :]):
                kill()


def feed(source: int, target: int) -> None:
    copy(source, target)
    with contextlib.suppress(OSError):
        os.close(target)


def send(target: int, kind: bytes, data: bytes) -> None:
    """One frame to the helper in the guest: kind, length, data."""
    frame = kind + struct.pack("<H", len(data)) + data
    with contextlib.suppress(OSError):
        while frame:
            frame = frame[os.write(target, frame) :]


def feed_terminal(target: int, done: int) -> None:
    """Keys and changes of the window's size, until the machine has gone."""
    resized_read, resized_write = os.pipe()
    os.set_blocking(resized_write, False)
    signal.set_wakeup_fd(resized_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, resized_read, done], [], [])
        if done in ready:
            return
        if resized_read in ready:
            os.read(resized_read, 4096)
            size = os.get_terminal_size(0)
            send(target, b"W", struct.pack("<HH", size.lines, size.columns))
        if 0 in ready:
            data = os.read(0, 4096)
            if not data:
                return
            send(target, b"D", data)


@contextlib.contextmanager
def raw_terminal(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
