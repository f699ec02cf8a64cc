# SPDX-License-Identifier: Apache-2.0
"""The state of a running daemon, fetched from its endpoint: what ``uaptrace top --connect HOST:PORT`` shows."""

from __future__ import annotations

import base64
import http.client
import ssl
import zlib
from typing import Final

from uaptrace.errors import UaptraceError, UsageError
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.snapshot_json import decode_snapshot

MAX_BYTES: Final = 256 << 20
"""No answer is taken that is larger, also after unpacking."""


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
    ) -> None:
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._connection: http.client.HTTPConnection
        if tls is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        else:
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        self._headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if credentials is not None:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()

    def latest(self, *, regions: bool = False) -> Snapshot | None:
        """The newest state; None while the daemon has none yet. Raises RemoteError.

        ``regions``: with the direct map region by region, for pictures.
        """
        path = "/snapshot?regions=1" if regions else "/snapshot"
        kept = self._connection.sock is not None
        try:
            status, body = self._get(path)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if not kept or isinstance(error, TimeoutError):
                raise RemoteError(self._unreachable(error)) from None
            # The daemon may have closed the connection between two requests, or have been started anew.
            try:
                status, body = self._get(path)
            except (OSError, http.client.HTTPException) as again:
                self._connection.close()
                raise RemoteError(self._unreachable(again)) from None
        if status == 503:
            return None
        if status == 401:
            raise RemoteError(f"{self._name} wants a user name and password")
        if status != 200:
            raise RemoteError(f"{self._name} answered {status}: is it uaptrace serve that listens there?")
        return decode_snapshot(body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _get(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise http.client.HTTPException("the answer is too large")
        if response.getheader("Content-Encoding") == "gzip":
            try:
                unpacker = zlib.decompressobj(wbits=31)
                body = unpacker.decompress(body, MAX_BYTES)
            except zlib.error as error:
                raise http.client.HTTPException(f"the answer cannot be unpacked: {error}") from None
            if not unpacker.eof:
                raise http.client.HTTPException("the answer is too large or cut off")
        return response.status, body

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLError):
            return f"cannot reach {self._name}: {error.reason or error}"
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        hint = "; is uaptrace serve running there?" if isinstance(error, ConnectionRefusedError) else ""
        return f"cannot reach {self._name}: {why}{hint}"
