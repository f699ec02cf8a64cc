# SPDX-License-Identifier: Apache-2.0
"""What systemd gives to a service and wants to hear from it: man 3 sd_notify, man 3 sd_listen_fds. Without it nothing is said."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

from uaptrace.abi.errors import UsageError
from uaptrace.process.plain import plain

_FIRST_FD: Final = 3
READY_LIMIT_S: Final = 30.0
"""A state that is not exact by then is served as inexact, with its reasons, rather than not at all."""
SAY_S: Final = 1.0
"""Between two looks at the state for the status line."""


class ServiceManager:
    """``READY=1`` when the state is exact, ``STATUS=`` when it changes, ``WATCHDOG=1`` at each turn of the loop that calls ``turn()``.

    ``address``: NOTIFY_SOCKET; empty: nobody wants to hear. The socket is opened here, so that a process that gives up its privileges
    later can still send. ``clock``: seconds, monotonic. UsageError where the address is none.
    """

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begin_s = clock()
        self._next_s = self._begin_s
        self._status = ""
        self._is_ready = False
        self._socket: socket.socket | None = None
        if not address:
            return
        if not address.startswith(("/", "@")):
            raise UsageError(f"NOTIFY_SOCKET is not a socket's address: {plain(address)!r}")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def turn(self, reasons: Callable[[], list[str]]) -> None:
        """Called by the loop at each turn; a loop that hangs is not fed for. ``reasons``: why the state is not exact."""
        if self._socket is None:
            return
        lines = ["WATCHDOG=1"]
        now_s = self._clock()
        if now_s >= self._next_s:
            self._next_s = now_s + SAY_S
            why = reasons()
            status = f"not exact: {plain('; '.join(why))}" if why else "exact"
            if status != self._status:
                lines.append(f"STATUS={status}")
                self._status = status
            if not self._is_ready and (not why or now_s >= self._begin_s + READY_LIMIT_S):
                lines.append("READY=1")
                self._is_ready = True
        self._send(lines)

    def stopping(self) -> None:
        """The service ends in order."""
        if self._socket is not None:
            self._send(["STOPPING=1"])

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lines: list[str]) -> None:
        assert self._socket is not None
        # A manager that is busy or gone is no reason to stop tracing; what it misses comes again at the next turn.
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)


def notify_address(environment: MutableMapping[str, str]) -> str:
    """NOTIFY_SOCKET, taken out of the environment, so that no child process speaks for the service."""
    return environment.pop("NOTIFY_SOCKET", "")


def handed_listener(environment: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """The listening socket of a socket unit; None where the service manager has handed over none. UsageError: it is of no use."""
    meant_for, number = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if meant_for != str(pid) or not number:
        return None
    if number != "1":
        raise UsageError(f"the socket unit hands over {plain(number)} sockets: give it one ListenStream=")
    try:
        listener = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise UsageError(f"the service manager hands over no socket: {error.strerror}") from None
    is_stream = listener.type == socket.SOCK_STREAM and listener.family in (socket.AF_INET, socket.AF_INET6)
    if not is_stream or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError("the socket of the socket unit is not a listening TCP socket: give it one ListenStream=ADDRESS:PORT")
    os.set_inheritable(_FIRST_FD, False)
    listener.setblocking(False)
    return listener
