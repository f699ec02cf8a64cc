# SPDX-License-Identifier: Apache-2.0
"""``--connect``: where a running daemon is, and what it wants to know of its clients."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import click

from uaptrace.abi.errors import UsageError
from uaptrace.process.plain import plain

if TYPE_CHECKING:
    from uaptrace.session.remote import RemoteFeed

PASSWORD_VARIABLE = "UAPTRACE_PASSWORD"

connect_option = click.option(
    "--connect",
    metavar="[https://][USER@]HOST:PORT",
    help=f"From a running daemon. Its password is asked for, or taken from {PASSWORD_VARIABLE}.",
)


def open_feed(target: str) -> RemoteFeed:
    """A feed of the daemon at ``[http[s]://][USER@]HOST[:PORT]``. Raises UsageError where that says nothing.

    Certificates are checked with the system's authorities, or those of the file that SSL_CERT_FILE names (OpenSSL).
    """
    from uaptrace.session.remote import RemoteFeed, parse_address

    scheme, separator, rest = target.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise UsageError(f"cannot connect to {target!r}: give HOST:PORT or https://HOST:PORT")
    user, at, address = rest.rstrip("/").rpartition("@")
    if ":" in user:
        raise UsageError(f"a password does not belong on the command line, where others can read it: set {PASSWORD_VARIABLE}")
    host, port = parse_address(address)
    credentials = (user, _password(user, address)) if at else None
    if scheme != "https":
        return RemoteFeed(host, port, credentials=credentials)
    import ssl

    return RemoteFeed(host, port, credentials=credentials, tls=ssl.create_default_context())


def _password(user: str, address: str) -> str:
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is not None:
        return password
    if not sys.stdin.isatty():
        raise UsageError(f"the password of {user} is not known: set {PASSWORD_VARIABLE}")
    with _signals_end_in_order():
        return str(click.prompt(f"Password of {plain(user)} at {plain(address)}", hide_input=True, err=True))


@contextlib.contextmanager
def _signals_end_in_order() -> Iterator[None]:
    """A signal that ends the process lets it restore the terminal first, which does not echo now."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
