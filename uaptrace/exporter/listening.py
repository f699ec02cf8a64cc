# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, by the address that a person writes."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from uaptrace.abi.errors import UsageError

_BACKLOG: Final = 256
_ALL_IPV6: Final = "::"


def bind(listen: str) -> socket.socket:
    """A listening socket for ``HOST:PORT``, ``[IPv6]:PORT`` or ``:PORT``. Raises UsageError.

    ``:PORT`` and ``[::]:PORT`` take both families, as with the exporters that are written in Go.
    """
    host, port = _split(listen)
    try:
        candidates = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"cannot listen on {listen}: {host!r}: {getattr(error, 'strerror', error)}") from None
    if not host:
        # All addresses: one IPv6 socket takes both families, where the kernel has IPv6.
        candidates.sort(key=lambda found: found[0] != socket.AF_INET6)
    failure: OSError | None = None
    for family, _, _, _, address in candidates:
        both = family == socket.AF_INET6 and address[0] == _ALL_IPV6 and socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            failure = failure or error
            continue
        listener.setblocking(False)
        return listener
    assert failure is not None
    hint = "; another program has the port, choose one with --listen" if failure.errno == errno.EADDRINUSE else ""
    raise UsageError(f"cannot listen on {listen}: {_why(failure)}{hint}")


def _split(listen: str) -> tuple[str, int]:
    host, colon, port_text = listen.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5 or int(port_text) > 65535:
        raise UsageError(f"cannot listen on {listen!r}: give HOST:PORT, such as 127.0.0.1:9970")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(f"cannot listen on {listen!r}: put an IPv6 address in brackets, such as [::1]:9970")
    return host.strip("[]"), int(port_text)


def _why(error: OSError) -> str:
    """The kernel's words without what Python adds to them."""
    return os.strerror(error.errno) if error.errno else str(error)
