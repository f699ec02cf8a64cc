# SPDX-License-Identifier: Apache-2.0
"""Broken, slow and hostile clients get their answer, or none, and do not keep honest ones from theirs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import re
import socket
import threading

import pytest

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from tests.unit.web_server import PATIENCE_S, RATIO, get, raw, read_all, running, scrape_times_s, wait_until
from uaptrace.exporter.http import Limits
from uaptrace.model.snapshot import Snapshot


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
