# SPDX-License-Identifier: Apache-2.0
"""The endpoint over real sockets: what honest clients get, and that broken and hostile ones do not keep it from them."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gc
import gzip
import http.client
import json
import os
import re
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from uaptrace.abi.errors import UsageError
from uaptrace.exporter.http import Limits
from uaptrace.exporter.server import Server, serve
from uaptrace.exporter.web_config import ConfigWatch, WebConfig
from uaptrace.model.snapshot import Exactness, Snapshot
from uaptrace.model.snapshot_json import decode_snapshot
from uaptrace.session.remote import RemoteError, RemoteFeed, parse_address

LOCAL = "127.0.0.1:0"
RECORDING = Path(__file__).parents[1] / "data/patched-6.1.uaptrace"
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


# What honest clients get


def test_metrics_in_both_formats_plain_and_compressed() -> None:
    with running() as server:
        status, headers, body = get(server)
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b"uaptrace_state_exact 1.0\n" in body
        status, headers, packed = get(server, Accept_Encoding="gzip", Accept="application/openmetrics-text;version=1.0.0")
        assert status == 200
        assert headers["Content-Encoding"] == "gzip"
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert gzip.decompress(packed).endswith(b"# EOF\n")
        assert len(packed) < len(body) / 3


def test_every_scrape_shows_the_state_of_its_own_moment() -> None:
    snapshots = iter([small_snapshot(), replace(small_snapshot(), exactness=Exactness(False, ("lost",)))])
    with running(lambda: next(snapshots)) as server:
        assert b"uaptrace_state_exact 1.0\n" in get(server)[2]
        assert b"uaptrace_state_exact 0.0\n" in get(server)[2]


def test_health_readiness_and_everything_else() -> None:
    feeds: list[Snapshot | None] = [None]
    with running(lambda: feeds[0]) as server:
        assert get(server, "/healthz")[::2] == (200, b"ok\n")
        assert get(server, "/readyz")[::2] == (503, b"no state yet: the direct map is still being read\n")
        assert get(server, "/snapshot")[0] == 503
        feeds[0] = small_snapshot(exact=False)
        assert get(server, "/readyz")[::2] == (503, b"the state is not exact: 3 events lost\n")
        feeds[0] = small_snapshot()
        assert get(server, "/readyz")[::2] == (200, b"ok\n")
        for path in ("/nothing", "/metrics/", "/metrics/x", "//metrics", "/%6detrics", "/../metrics", "*"):
            assert get(server, path)[0] == 404, path
        assert get(server, "/metrics", "POST")[0] == 405
        assert get(server, "/metrics?debug=1")[0] == 200


def test_head_has_the_headers_of_get_and_no_body() -> None:
    with running() as server:
        status, headers, body = get(server, "/healthz", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize("snapshot", [None, small_snapshot(), largest_snapshot()])
def test_the_landing_page_links_what_there_is(snapshot: Snapshot | None) -> None:
    with running(lambda: snapshot) as server:
        status, headers, body = get(server, "/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        for path in ("metrics", "healthz", "readyz", "snapshot"):
            assert f'href="{path}"'.encode() in body


def test_names_from_the_host_cannot_become_markup() -> None:
    evil = replace(small_snapshot(), host=replace(small_snapshot().host, hostname="<script>alert(1)</script>"))
    with running(lambda: evil) as server:
        assert b"<script>" not in get(server, "/")[2]


def test_one_connection_serves_many_scrapes() -> None:
    with running() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.connect()
        address = connection.sock.getsockname()
        for _ in range(5):
            connection.request("GET", "/metrics")
            assert connection.getresponse().read()
            assert connection.sock.getsockname() == address
        connection.close()
        assert server.statistics.scrapes == 5


def test_pipelined_requests_are_answered_in_order() -> None:
    with running() as server:
        answer = raw(
            server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"404"]


def test_http_1_0_is_answered_too() -> None:
    with running() as server:
        assert raw(server, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")


def test_a_request_in_pieces_is_a_request() -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
        assert read_all(client).endswith(b"ok\n")


# The state for uaptrace top --connect


def test_a_remote_view_gets_the_very_state_of_the_daemon() -> None:
    with running(largest_snapshot, region_feed=lambda: largest_snapshot(nr_regions=4096)) as server:
        feed = RemoteFeed("127.0.0.1", server.port)
        assert feed.latest() == largest_snapshot()
        regions = feed.latest(regions=True)
        feed.close()
        assert regions is not None
        assert regions.regions is not None
        assert len(regions.regions.level) == 4096
        assert decode_snapshot(get(server, "/snapshot")[2]) == largest_snapshot()


def test_a_remote_view_survives_a_restart_of_the_daemon() -> None:
    with running() as server:
        feed = RemoteFeed("127.0.0.1", server.port)
        assert feed.latest() is not None
        port = server.port
    with pytest.raises(RemoteError, match=r"cannot reach 127\.0\.0\.1:\d+: .*refused; is uaptrace serve running there"):
        feed.latest()
    again = serve(small_snapshot, f"127.0.0.1:{port}")
    try:
        assert feed.latest() == small_snapshot()
    finally:
        feed.close()
        again.stop()


def test_a_remote_view_says_what_is_wrong_in_one_line() -> None:
    with running(lambda: None) as server:
        assert RemoteFeed("127.0.0.1", server.port).latest() is None
    users = {"a": bcrypt.hashpw(b"b", bcrypt.gensalt(4)).decode()}
    with running(web_config=WebConfig(users=users)) as server:
        with pytest.raises(RemoteError, match="wants a user name and password"):
            RemoteFeed("127.0.0.1", server.port).latest()
        assert RemoteFeed("127.0.0.1", server.port, credentials=("a", "b")).latest() == small_snapshot()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(RemoteError, match="timed out"):
        RemoteFeed("127.0.0.1", listener.getsockname()[1], timeout_s=0.05).latest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 9970)),
        ("host:1", ("host", 1)),
        ("[::1]:2", ("::1", 2)),
        ("[::1]", ("::1", 9970)),
        ("::1", ("::1", 9970)),
        ("", None),
        (":9970", None),
        ("host:", ("host", 9970)),
        ("host:0", None),
        ("host:65536", None),
        ("host:x", None),
        ("[::1]x", None),
    ],
)
def test_addresses_of_daemons(text: str, expected: tuple[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="give HOST:PORT"):
            parse_address(text)
    else:
        assert parse_address(text) == expected


# Where it listens


@pytest.mark.parametrize(
    "listen", ["", "9970", "localhost", "localhost:", "localhost:http", "localhost:65536", "::1:9970", "127.0.0.1:-1", "127.0.0.1:000000"]
)
def test_a_bad_address_is_one_line(listen: str) -> None:
    with pytest.raises(UsageError, match="cannot listen on") as caught:
        serve(small_snapshot, listen)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listen", ["nowhere.invalid:0", "192.0.2.1:0"])
def test_an_address_that_is_not_ours_is_one_line(listen: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {listen}"):
        serve(small_snapshot, listen)


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with (
        running() as server,
        pytest.raises(UsageError, match="Address already in use; another program has the port, choose one with --listen"),
    ):
        serve(small_snapshot, f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("listen", [":0", "[::]:0"])
def test_all_addresses_and_both_families(listen: str) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    server = serve(small_snapshot, listen)
    try:
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, server.port, timeout=PATIENCE_S)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"
            connection.close()
        assert server.url.startswith("http://[::1]:")
    finally:
        server.stop()


def test_one_address_of_ipv6_is_that_address_alone() -> None:
    try:
        server = serve(small_snapshot, "[::1]:0")
    except UsageError:
        pytest.skip("no IPv6 here")
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    finally:
        server.stop()


def test_stop_frees_the_port_and_ends_all_threads_and_descriptors() -> None:
    gc.collect()  # descriptors that earlier tests left to be collected would go in the middle of this one
    before_threads, before_fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    server = serve(small_snapshot, LOCAL)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    get(server)
    server.stop()
    server.stop()
    for client in idle:
        client.close()
    again = serve(small_snapshot, f"127.0.0.1:{server.port}")
    again.stop()
    wait_until(lambda: threading.active_count() == before_threads)
    assert len(os.listdir("/proc/self/fd")) <= before_fds


# Broken and hostile clients


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20), b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000, b"413"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 4_000 + b"\r\n", b"431"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n", b"417"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", b"413"),
    ],
    ids=[
        *("request line", "header", "TLS", "no host", "length", "chunk", "body", "words"),
        *("header at once", "headers at once", "HTTP/2", "HTTP/2 preface", "expectation", "expected body"),
    ],
)
def test_what_is_not_a_request_is_told_why_and_counted(data: bytes, status: bytes) -> None:
    with running() as server:
        answer = raw(server, data)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
        assert server.statistics.dropped["malformed"] == 1
        assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"transfer-encoding: CHUNKED\r\ncontent-length: 0\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4, 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length : 4\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"X: a\r\n\tContent-Length: 4\r\n",
        b"X: a\nContent-Length: 4\r\n",
        b"X: a\rContent-Length: 4\r\n",
        b"X: a\0b\r\n",
    ],
)
def test_a_request_whose_end_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(head: bytes) -> None:
    with running() as server:
        data = b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = raw(server, data)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) in ([b"400"], [b"501"]), answer
        assert b"\r\nConnection: close\r\n" in answer
        assert server.statistics.dropped["malformed"] == 1


def test_lines_that_end_with_a_line_feed_alone_are_refused_also_in_pieces() -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /healthz HTTP/1.1\nHost: x":
            with contextlib.suppress(ConnectionError):
                client.sendall(bytes([byte]))
        assert read_all(client).startswith(b"HTTP/1.1 400 ")


def test_a_transfer_encoding_that_http_1_0_does_not_have_is_refused() -> None:
    with running() as server:
        assert raw(server, b"GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_after_a_body_in_chunks_no_further_request_is_read() -> None:
    with running() as server:
        chunks = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        answer = raw(server, chunks + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"]
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("body", [b"Content-Length: 3\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"], ids=["length", "chunks"])
def test_a_client_that_asks_whether_to_send_its_body_is_told_to_go_on(body: bytes) -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nConnection: close\r\n" + body)
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc" if b"Length" in body else b"3\r\nabc\r\n0\r\n\r\n")
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"ok\n")


def test_a_client_that_asks_but_has_no_body_gets_its_answer() -> None:
    with running() as server:
        answer = raw(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_the_format_that_a_client_refuses_is_not_sent() -> None:
    with running() as server:
        accept = "text/plain;version=0.0.4;q=1, application/openmetrics-text;version=1.0.0;q=0"
        assert get(server, Accept=accept)[1]["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        for accept in ("application/openmetrics-text;version=7.5.3", "text/plain;version=7.5.3"):
            assert "7.5.3" not in get(server, Accept=accept)[1]["Content-Type"]


def test_odd_bytes_in_headers_do_no_harm() -> None:
    with running() as server:
        for accept in (
            b"text/plain; version=1.0.0\xe9",
            b"application/openmetrics-text; version=1.0.0; escaping=\xff",
            b"\xc3\xa9",
            b";;;,,,",
        ):
            answer = raw(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: " + accept + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), (accept, answer[:80])


def test_a_silent_connection_is_closed_at_its_deadline() -> None:
    with running(limits=Limits(request_s=0.05)) as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as silent:
            assert silent.recv(1) == b""
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as slow:
            slow.sendall(b"GET /metr")
            assert slow.recv(1) == b""
        wait_until(lambda: server.statistics.dropped["deadline"] == 2)
        assert server.statistics.connections == 0


def test_a_kept_connection_that_is_idle_is_closed_without_being_counted_as_broken() -> None:
    with running(limits=Limits(idle_s=0.05)) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(client).endswith(b"ok\n")
        assert sum(server.statistics.dropped.values()) == 0


def test_a_second_request_that_never_ends_has_a_deadline_too() -> None:
    with running(limits=Limits(request_s=0.2)) as server, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).endswith(b"ok\n")
        client.sendall(b"G")
        assert client.recv(1) == b""
        wait_until(lambda: server.statistics.dropped["deadline"] == 1)


def test_a_client_that_does_not_take_its_answer_is_given_up() -> None:
    big = largest_snapshot(nr_regions=1 << 20)
    with running(lambda: big, limits=Limits(answer_s=0.5)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /snapshot?regions=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: server.statistics.dropped["deadline"] == 1)
        wait_until(lambda: server.statistics.connections == 0)
        assert get(server, "/healthz")[0] == 200


def test_a_client_that_leaves_in_the_middle_costs_nothing() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow_feed() -> Snapshot | None:
        entered.set()
        leave.wait(PATIENCE_S)
        return small_snapshot()

    with running(slow_feed, feed_timeout_s=PATIENCE_S) as server:
        client = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(PATIENCE_S)
        client.close()
        leave.set()
        assert get(server)[0] == 200
        wait_until(lambda: server.statistics.connections == 0)


def test_a_tracing_loop_that_does_not_answer_is_said_and_the_process_stays_alive() -> None:
    leave = threading.Event()

    def stuck_feed() -> Snapshot | None:
        leave.wait(PATIENCE_S)
        return small_snapshot()

    with running(stuck_feed, feed_timeout_s=0.05) as server:
        status, _, body = get(server)
        assert (status, body) == (503, b"no state within 0.05 s: the tracing loop does not answer\n")
        assert get(server, "/readyz")[0] == 503
        assert get(server, "/healthz")[0] == 200
        leave.set()
        wait_until(lambda: get(server)[0] == 200)


def test_an_error_in_the_feed_is_not_the_end_of_the_endpoint() -> None:
    calls = iter([RuntimeError("secret detail"), None])

    def feed() -> Snapshot | None:
        error = next(calls)
        if error is not None:
            raise error
        return small_snapshot()

    with running(feed) as server:
        assert get(server)[::2] == (500, b"error in uaptrace: RuntimeError\n")
        assert get(server)[0] == 200


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


def test_two_hundred_silent_connections_do_not_slow_a_scrape() -> None:
    with running(largest_snapshot) as server:
        usual_s = scrape_times_s(lambda: get(server))
        silent = []
        try:
            for _ in range(200):
                silent.append(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S))
            crowded_s = scrape_times_s(lambda: get(server))
            assert server.statistics.connections <= Limits().connections
            assert server.statistics.dropped["limit"] >= 200 - Limits().connections
        finally:
            for client in silent:
                client.close()
        assert crowded_s < RATIO * usual_s


def test_the_connection_that_was_silent_for_longest_makes_room_and_a_kept_one_stays() -> None:
    with running(limits=Limits(connections=3)) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        address = kept.sock.getsockname()
        first, second = (socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(2))
        wait_until(lambda: server.statistics.connections == 3)
        third = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
        assert first.recv(1) == b"", "the oldest silent one had to go"
        third.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(third).endswith(b"ok\n")
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b"ok\n"
        assert kept.sock.getsockname() == address
        for client in (first, second, third, kept):
            client.close()


def test_requests_beyond_the_limit_wait_and_are_answered() -> None:
    gate = threading.Event()

    def feed() -> Snapshot | None:
        gate.wait(PATIENCE_S)
        return small_snapshot()

    with running(feed, limits=Limits(connections=4), feed_timeout_s=PATIENCE_S) as server:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(get, server) for _ in range(12)]
            wait_until(lambda: server.statistics.connections == 4)
            gate.set()
            assert [answer.result(PATIENCE_S)[0] for answer in answers] == [200] * 12
        assert sum(server.statistics.dropped.values()) == 0


def test_many_honest_scrapers_at_once() -> None:
    with running(largest_snapshot) as server, concurrent.futures.ThreadPoolExecutor(24) as pool:
        statuses = [answer[0] for answer in pool.map(lambda _: get(server), range(200))]
    assert statuses == [200] * 200
    assert server.statistics.scrapes == 200
    assert sum(server.statistics.dropped.values()) == 0


# TLS and passwords


class Pki:
    """A CA, a server certificate in a folder, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        server = self.ca.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(folder / "server.key")
        for i, blob in enumerate(server.cert_chain_pems):
            blob.write_to_path(folder / "server.crt", append=i > 0)
        self.ca.cert_pem.write_to_path(folder / "ca.crt")

    def config(self, text: str = "", tls: str = "") -> ConfigWatch:
        file = self.folder / "web.yml"
        file.write_text(f"tls_server_config: {{cert_file: server.crt, key_file: server.key, {tls}}}\n{text}")
        return ConfigWatch(file, pytest.fail)

    def client(self, name: str | None = None, ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if name is not None:
            (ca or self.ca).issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_https(pki: Pki) -> None:
    with running(largest_snapshot, web_config=pki.config()) as server:
        assert server.url.startswith("https://")
        status, _, body = get(server, tls=pki.client())
        assert status == 200
        assert b"uaptrace_state_exact" in body
        feed = RemoteFeed("127.0.0.1", server.port, tls=pki.client())
        assert feed.latest() == largest_snapshot()
        feed.close()
        with pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED"):
            RemoteFeed("127.0.0.1", server.port, tls=ssl.create_default_context()).latest()


def test_the_commands_reach_a_daemon_that_is_guarded(pki: Pki) -> None:
    """``--connect https://USER@HOST:PORT`` with the password from the environment, as a person would type it."""
    users = f"basic_auth_users: {{watcher: '{bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}'}}"
    with running(largest_snapshot, web_config=pki.config(users)) as server:

        def connect(target: str, **environment: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "uaptrace", "splits", "--json", "--connect", target],
                env={**os.environ, "SSL_CERT_FILE": str(pki.folder / "ca.crt"), **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )

        address = f"127.0.0.1:{server.port}"
        good = connect(f"https://watcher@{address}", UAPTRACE_PASSWORD="right")
        assert good.returncode == 0, good.stderr
        assert json.loads(good.stdout)["groups"]
        for target, environment, said in (
            (f"https://watcher@{address}", {"UAPTRACE_PASSWORD": "wrong"}, "wants a user name and password"),
            (f"https://{address}", {}, "wants a user name and password"),
            (f"https://watcher@{address}", {}, "set UAPTRACE_PASSWORD"),
            (f"https://watcher:right@{address}", {}, "does not belong on the command line"),
            (f"https://watcher@{address}", {"UAPTRACE_PASSWORD": "right", "SSL_CERT_FILE": os.devnull}, "CERTIFICATE_VERIFY_FAILED"),
            (f"ftp://{address}", {}, "cannot connect to"),
        ):
            done = connect(target, **environment)
            assert done.returncode != 0
            assert said in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1


def test_plain_http_to_the_https_port_is_refused_and_counted(pki: Pki) -> None:
    with running(web_config=pki.config()) as server:
        assert raw(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[:5] != b"HTTP/"
        wait_until(lambda: server.statistics.dropped["handshake"] == 1)
        assert get(server, "/healthz", tls=pki.client())[0] == 200


def test_minimum_version(pki: Pki) -> None:
    with running(web_config=pki.config(tls="min_version: TLS13")) as server:
        old = pki.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            get(server, tls=old)
        assert get(server, tls=pki.client())[0] == 200


def refused(server: Server, tls: ssl.SSLContext) -> bool:
    """Under TLS 1.3 a client learns of it only when it reads."""
    try:
        get(server, "/healthz", tls=tls)
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        return True
    return False


def test_client_certificates(pki: Pki) -> None:
    tls = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt"
    with running(web_config=pki.config(tls=tls)) as server:
        assert refused(server, pki.client())
        assert refused(server, pki.client("prometheus.example", trustme.CA()))
        assert get(server, tls=pki.client("prometheus.example"))[0] == 200
        wait_until(lambda: server.statistics.dropped["handshake"] == 2)


def test_only_the_allowed_names_of_client_certificates(pki: Pki) -> None:
    tls = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt, client_allowed_sans: [prometheus.example, 192.0.2.7]"
    with running(web_config=pki.config(tls=tls)) as server:
        assert refused(server, pki.client("somebody.example"))
        assert get(server, tls=pki.client("prometheus.example"))[0] == 200
        assert get(server, tls=pki.client("192.0.2.7"))[0] == 200


def test_handshakes_that_never_end_do_not_slow_a_scrape(pki: Pki) -> None:
    with running(largest_snapshot, web_config=pki.config()) as server:
        client = pki.client()
        usual_s = scrape_times_s(lambda: get(server, tls=client), 20)
        stalled = []
        try:
            for i in range(60):
                connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
                # Nothing at all, or the first bytes of a ClientHello.
                connection.sendall(b"\x16\x03\x01\x02\x00\x01"[: i % 7])
                stalled.append(connection)
            crowded_s = scrape_times_s(lambda: get(server, tls=client), 20)
        finally:
            for connection in stalled:
                connection.close()
        assert crowded_s < RATIO * usual_s


def test_a_handshake_has_a_deadline_and_leaves_nothing_behind(pki: Pki) -> None:
    with running(web_config=pki.config(), limits=Limits(handshake_s=0.1)) as server:
        before = len(os.listdir("/proc/self/fd"))
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as stalled:
            assert stalled.recv(1) == b""
        wait_until(lambda: server.statistics.dropped["handshake"] == 1)
        assert server.statistics.connections == 0
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_handshakes_over_the_limit_make_room(pki: Pki) -> None:
    with running(web_config=pki.config(), limits=Limits(connections=8)) as server:
        before = len(os.listdir("/proc/self/fd"))
        stalled = [socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(40)]
        assert get(server, tls=pki.client())[0] == 200
        assert server.statistics.connections <= 8
        for connection in stalled:
            connection.close()
        wait_until(lambda: server.statistics.connections == 0)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_passwords() -> None:
    users = {"prometheus": bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()}
    with running(web_config=WebConfig(users=users)) as server:
        for path in ("/metrics", "/healthz", "/readyz", "/snapshot", "/", "/nothing"):
            status, headers, _ = get(server, path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="uaptrace", charset="UTF-8"'), path
        for wrong in (
            basic("prometheus", "wrong"),
            basic("nobody", "right"),
            basic("", ""),
            basic("prometheus", ""),
            basic("prometheus", "right\0"),
            basic("prometheus", "x" * 2000),
            "Bearer right",
            "Basic",
            "Basic ???",
            "Basic " + base64.b64encode(b"no colon").decode(),
            "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        ):
            assert get(server, Authorization=wrong)[0] == 401, wrong
        for _ in range(2):
            assert get(server, Authorization=basic("prometheus", "right"))[0] == 200
        assert server.statistics.dropped["unauthorized"] == 6 + 11


def test_a_password_with_a_colon_and_beyond_ascii() -> None:
    users = {"müller": bcrypt.hashpw("pä:ss".encode(), bcrypt.gensalt(4)).decode()}
    with running(web_config=WebConfig(users=users)) as server:
        assert get(server, Authorization=basic("müller", "pä:ss"))[0] == 200


def test_hashes_of_other_tools_and_long_passwords() -> None:
    long = "x" * 100
    # htpasswd writes $2y$; bcrypt has only ever looked at 72 bytes.
    stored = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    with running(web_config=WebConfig(users={"a": stored})) as server:
        assert get(server, Authorization=basic("a", long))[0] == 200


def test_guessing_passwords_does_not_slow_those_who_know_theirs() -> None:
    users = {"prometheus": bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()}
    with running(web_config=WebConfig(users=users)) as server:

        def scrape() -> tuple[int, Any, Any]:
            return get(server, Authorization=basic("prometheus", "right"))

        assert scrape()[0] == 200
        usual_s = scrape_times_s(scrape, 20)
        stop = threading.Event()

        def guess(which: int) -> set[int]:
            statuses, number = set(), 0
            while not stop.is_set():
                statuses.add(get(server, Authorization=basic("prometheus", f"guess {which} {number}"))[0])
                number += 1
            return statuses

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            guessing = [pool.submit(guess, i) for i in range(4)]
            wait_until(lambda: server.statistics.dropped["unauthorized"] > 0)
            crowded_s = scrape_times_s(scrape, 20)
            stop.set()
            assert {status for answer in guessing for status in answer.result(PATIENCE_S)} == {401}
        # One core is busy with bcrypt, on purpose; a scrape that had to wait for it would take as long as a check.
        check_s = scrape_times_s(lambda: bcrypt.checkpw(b"x", users["prometheus"].encode()), 1)
        assert crowded_s < max(RATIO * usual_s, check_s)


@contextlib.contextmanager
def guesses(server: Server, users: Sequence[str], number: int = 60) -> Iterator[None]:
    """So many connections, each with a wrong password for one of the users in turn, none of which is answered by this one's begin."""
    with contextlib.ExitStack() as stack:
        for i in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S))
            guess = basic(users[i % len(users)], f"guess {i}")
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: {guess}\r\n\r\n".encode())
        yield


def hashed(password: str, cost: int) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


SLOW = hashed("slow", 4).replace("$04$", "$16$")
"""Nobody's password, and one that takes seconds to find that out."""


def test_a_process_that_ends_while_a_password_is_compared_ends_in_order() -> None:
    # What is destroyed last waits until the comparison is over: bcrypt then finds no interpreter, and aborts the process.
    script = """
import asyncio, os, sys, time
from uaptrace.exporter.password_checks import PasswordChecks

class Last:
    def __del__(self, os=os, time=time):
        while len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.01)

last = Last()

async def guess():
    checks = PasswordChecks()
    comparison = asyncio.create_task(checks.check("a", b"guess", {"a": sys.argv[1]}, lambda: None))
    await asyncio.sleep(0)
    checks.stop()
    comparison.cancel()

asyncio.run(guess())
"""
    done = subprocess.run([sys.executable, "-c", script, hashed("right", 14)], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("guessed", [["slow"], ["nobody", "no one", "slow"]], ids=["a user's", "of unknown names too"])
def test_guesses_at_an_expensive_password_delay_nobody_else(guessed: list[str]) -> None:
    with running(web_config=WebConfig(users={"slow": SLOW, "quick": hashed("right", 10)})) as server, guesses(server, guessed):
        assert get(server, Authorization=basic("quick", "right"))[0] == 200
        assert server.statistics.dropped["unauthorized"] == 0, "the guesses are still being looked at"


def test_guesses_that_take_all_places_keep_nobody_out() -> None:
    config = WebConfig(users={"slow": SLOW, "quick": hashed("right", 4)})
    with running(web_config=config, limits=Limits(connections=16)) as server, guesses(server, ["slow", "nobody"]):
        assert get(server, Authorization=basic("quick", "right"))[0] == 200
        assert server.statistics.dropped["limit"] > 0


def test_guesses_at_one_name_delay_that_name_alone() -> None:
    """Also where all hashes cost the same."""
    config = WebConfig(users={name: hashed(name, 10) for name in ("guessed", "other")})
    with running(web_config=config) as server, guesses(server, ["guessed", "nobody"]):
        assert get(server, Authorization=basic("other", "other"))[0] == 200
        assert server.statistics.dropped["unauthorized"] < 10, "it waited for two turns, not for all"


def test_who_knows_the_password_is_never_told_to_come_later() -> None:
    """Also where all others guess at the same name."""
    config = WebConfig(users={"guessed": hashed("right", 6)})
    with running(web_config=config) as server, guesses(server, ["guessed"], 100), concurrent.futures.ThreadPoolExecutor(8) as pool:
        right = [pool.submit(get, server, Authorization=basic("guessed", "right")) for _ in range(8)]
        assert [answer.result(PATIENCE_S)[0] for answer in right] == [200] * 8


def test_time_does_not_tell_which_names_exist() -> None:
    config = WebConfig(users={"cheap": hashed("a", 4), "usual": hashed("b", 9), "dear": hashed("c", 11)})
    with running(web_config=config) as server:
        # In turn: what else this machine does meanwhile meets all alike.
        rounds = [
            [
                scrape_times_s(partial(get, server, Authorization=basic(name, f"guess {i}")), 1)
                for name in ("cheap", "usual", "dear", "nobody")
            ]
            for i in range(9)
        ]
    medians_s = [statistics.median(times_s) for times_s in zip(*rounds, strict=True)]
    assert max(medians_s) < 2 * min(medians_s), medians_s


def test_the_end_does_not_wait_for_a_password(tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{slow: '{SLOW.replace('$16$', '$20$')}'}}")
    command = [sys.executable, "-m", "uaptrace", "serve", "--listen", LOCAL, "--web.config.file", str(config), "--replay", str(RECORDING)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        threads = Path(f"/proc/{process.pid}/task")
        before = len(list(threads.iterdir()))
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('slow', 'guess')}\r\n\r\n".encode())
            wait_until(lambda: len(list(threads.iterdir())) > before)
            process.terminate()
            assert process.wait(20) == 0, "the comparison takes a minute"


def test_a_changed_password_takes_effect_at_once(pki: Pki) -> None:
    def users(password: bytes) -> str:
        return f"basic_auth_users: {{a: {bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()}}}"

    with running(web_config=pki.config(users(b"one"))) as server:
        assert get(server, tls=pki.client(), Authorization=basic("a", "one"))[0] == 200
        pki.config(users(b"two"))
        assert get(server, tls=pki.client(), Authorization=basic("a", "one"))[0] == 401
        assert get(server, tls=pki.client(), Authorization=basic("a", "two"))[0] == 200


def test_headers_of_the_configuration_are_on_every_answer() -> None:
    config = WebConfig(headers={"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'"})
    with running(web_config=config) as server:
        for path in ("/", "/metrics", "/nothing"):
            assert get(server, path)[1]["X-Frame-Options"] == "deny"
        assert get(server, "/")[1]["Content-Security-Policy"] == "default-src 'self'"


def test_rate_limit() -> None:
    with running(web_config=WebConfig(rate_limit_interval_s=3600, rate_limit_burst=3)) as server:
        assert [get(server, "/healthz")[0] for _ in range(5)] == [200, 200, 200, 429, 429]
