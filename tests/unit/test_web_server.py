# SPDX-License-Identifier: Apache-2.0
"""The endpoint over real sockets: what honest clients get."""

from __future__ import annotations

import contextlib
import gc
import gzip
import http.client
import os
import re
import socket
import threading
from dataclasses import replace

import bcrypt
import pytest

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from tests.unit.web_server import LOCAL, PATIENCE_S, get, raw, read_all, running, wait_until
from uaptrace.abi.errors import UsageError
from uaptrace.exporter.server import serve
from uaptrace.exporter.web_config import WebConfig
from uaptrace.model.snapshot import Exactness, Snapshot
from uaptrace.model.snapshot_json import decode_snapshot
from uaptrace.session.remote import RemoteError, RemoteFeed, parse_address


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
        feed.want_regions(True)
        regions = feed.latest()
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
        with pytest.raises(RemoteError, match="requires a user name and password"):
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
