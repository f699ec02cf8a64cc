# SPDX-License-Identifier: Apache-2.0
"""A daemon elsewhere as a SnapshotFeed (uaptrace.model.feed): the snapshots that its endpoint serves, for ``--connect``."""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import time
import zlib
from typing import Any, Final

from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.snapshot_json import decode_snapshot

MAX_BYTES: Final = 64 << 20
"""No answer is taken that is larger, also after unpacking."""
_PIECE_BYTES: Final = 1 << 20
_BROKEN: Final = (OSError, http.client.HTTPException, ValueError, OverflowError)
"""What a connection that breaks gives, and what http.client gives for an answer that is not HTTP (a chunk of -5 bytes)."""


class RemoteError(UaptraceError):
    """The daemon cannot be reached, or does not answer as one."""


def parse_address(text: str, default_port: int = 9970) -> tuple[str, int]:
    """``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT`` as host and port. Raises UsageError."""
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        port_text = rest.removeprefix(":")
        well_formed = rest == "" or rest.startswith(":")
    elif text.count(":") > 1:
        # A bare IPv6 address has no place for a port.
        host, port_text, well_formed = text, "", True
    else:
        host, _, port_text = text.partition(":")
        well_formed = True
    port_text = port_text or str(default_port)
    if not well_formed or not host or not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise UsageError(f"cannot connect to {text!r}: give HOST:PORT, such as 127.0.0.1:9970")
    return host, int(port_text)


class _UntilDeadline(io.RawIOBase):
    """What comes over a socket, until the deadline, however little at a time."""

    def __init__(self, sock: socket.socket, end_s: float, timeout_s: float) -> None:
        self._socket = sock
        self._stream = sock.makefile("rb", buffering=0)
        self._end_s = end_s
        self._timeout_s = timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out: the answer comes too slowly")
        self._socket.settimeout(min(left_s, self._timeout_s))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class RemoteFeed:
    """Fetches snapshots over one connection that is kept; made anew where it broke."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
        timeout_s: float = 5.0,
        deadline_s: float = 15.0,
    ) -> None:
        """``timeout_s``: no longer silence is borne; ``deadline_s``: within this time the whole answer must be there."""
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._connection: http.client.HTTPConnection
        if tls is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        else:
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        self._connection.response_class = self._response  # type: ignore[assignment]  # called as the class is
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._end_s = 0.0
        self._regions = False
        self._headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if credentials is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()

    def latest(self) -> Snapshot | None:
        """The newest state; None while the daemon has none yet. Raises RemoteError."""
        path = "/snapshot?regions=1" if self._regions else "/snapshot"
        kept = self._connection.sock is not None
        self._end_s = time.monotonic() + self._deadline_s
        try:
            status, body = self._get(path)
        except _BROKEN as error:
            self._connection.close()
            if not kept or isinstance(error, TimeoutError):
                raise RemoteError(self._unreachable(error)) from None
            # The daemon may have closed the connection between two requests, or have been started anew.
            try:
                status, body = self._get(path)
            except _BROKEN as again:
                self._connection.close()
                raise RemoteError(self._unreachable(again)) from None
        if status == 503:
            return None
        if status == 401:
            raise RemoteError(f"{self._name} requires a user name and password")
        if status != 200:
            raise RemoteError(f"{self._name} answered {status}: is uaptrace serve listening there?")
        return decode_snapshot(body)

    def waiting_for(self) -> str:
        """What the first snapshot waits for."""
        return f"{self._name} is reading its page tables"

    def want_regions(self, wanted: bool) -> None:
        """Whether snapshots have ``regions``. They are many times as large with them."""
        self._regions = wanted

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _get(self, path: str) -> tuple[int, bytes]:
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._timeout_s)
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = bytearray()
        while len(body) <= MAX_BYTES and (piece := response.read(_PIECE_BYTES)):
            body += piece
        if len(body) > MAX_BYTES:
            raise http.client.HTTPException("the answer is too large")
        if response.getheader("Content-Encoding") == "gzip":
            try:
                unpacker = zlib.decompressobj(wbits=31)
                unpacked = unpacker.decompress(body, MAX_BYTES)
            except zlib.error as error:
                raise http.client.HTTPException(f"the answer cannot be unpacked: {error}") from None
            if not unpacker.eof:
                raise http.client.HTTPException("the answer is too large or cut off")
            return response.status, unpacked
        return response.status, bytes(body)

    def _response(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, **options)
        response.fp.close()
        response.fp = io.BufferedReader(_UntilDeadline(sock, self._end_s, self._timeout_s))
        return response

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError):
            return f"cannot reach {self._name}: {error.reason or error}"
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        hint = "; is uaptrace serve running there?" if isinstance(error, ConnectionRefusedError) else ""
        return f"cannot reach {self._name}: {why}{hint}"
