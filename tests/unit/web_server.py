# SPDX-License-Identifier: Apache-2.0
"""A server over a real socket, and what clients of it do. For tests."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator

from tests.unit.exporter_snapshots import small_snapshot
from uaptrace.exporter.server import Server, serve
from uaptrace.model.snapshot import Snapshot

LOCAL = "127.0.0.1:0"
PATIENCE_S = 60.0
"""Only bounds how long a failing test takes."""


@contextlib.contextmanager
def running(feed: Callable[[], Snapshot | None] = small_snapshot, **options: object) -> Iterator[Server]:
    server = serve(feed, LOCAL, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()


def get(
    server: Server, path: str = "/metrics", method: str = "GET", tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE_S, context=tls)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def raw(server: Server, data: bytes) -> bytes:
    """All that the server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def scrape_times_s(scrape: Callable[[], object], number: int = 40) -> float:
    """Median time of a scrape; the machine's own noise is in the tail."""
    times = []
    for _ in range(number):
        begin = time.perf_counter()
        scrape()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


RATIO = 5.0
"""A blocked server would wait for a deadline of seconds: a ratio of hundreds."""
