# SPDX-License-Identifier: Apache-2.0
"""``--connect`` to what is no daemon: whatever it sends and however slowly, the answer is one line, in time and within memory."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from uaptrace.abi.errors import UaptraceError
from uaptrace.model.snapshot_json import encode_snapshot
from uaptrace.session.remote import MAX_BYTES, RemoteError, RemoteFeed

Answer = Callable[[socket.socket], object]
PATIENCE_S = 60.0


class Impostor:
    """Answers each connection's first bytes with whatever ``answer`` sends, and closes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.answer: Answer = lambda client: None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sends(self, data: bytes) -> Impostor:
        self.answer = lambda client: client.sendall(data)
        return self

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(PATIENCE_S)
                    client.recv(65536)
                    self.answer(client)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def impostor() -> Iterator[Impostor]:
    server = Impostor()
    yield server
    server.close()


def ok(body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + headers + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return ok(body, b"Transfer-Encoding: chunked\r\n")


def with_bucket(value: int) -> bytes:
    document = json.loads(encode_snapshot(largest_snapshot()))
    next(iter(document["latency"].values()))["buckets"][0] = value
    return json.dumps(document).encode()


BAD = {
    "negative chunk": chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "huge chunk": chunked(b"f" * 300 + b"\r\nhello"),
    "chunk beyond the limit": chunked(b"7fffffffffff\r\nhello"),
    "chunk that is no number": chunked(b"zz\r\nhello"),
    "chunks that end too early": chunked(b"5\r\nhel"),
    "endless chunk line": chunked(b"5;" + b"x" * 100_000),
    "bucket of 10^400": ok(with_bucket(10**400)),
    "negative length": ok(b"", b"Content-Length: -5\r\n"),
    "huge length": ok(b"x", b"Content-Length: " + b"9" * 400 + b"\r\n"),
    "length that is no number": ok(b"", b"Content-Length: many\r\n"),
    "cut off": ok(b"{", b"Content-Length: 5000\r\n"),
    "deep": ok(b"[" * 500_000),
    "many values": ok(b"[" + b"[]," * 2_000_000 + b"[]]"),
    "not a number": ok(b'{"schema": NaN}'),
    "large number": ok(b'{"schema": 1' + b"0" * 100_000 + b"}"),
    "broken gzip": ok(b"\x1f\x8b\x08\x00garbage", b"Content-Encoding: gzip\r\n"),
    "large gzip": ok(gzip.compress(bytes(MAX_BYTES + 1), 1), b"Content-Encoding: gzip\r\n"),
    "half a gzip": ok(gzip.compress(encode_snapshot(small_snapshot()))[:-20], b"Content-Encoding: gzip\r\n"),
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "HTTP without a status": b"HTTP/1.1 \r\n\r\n",
    "a status of words": b"HTTP/1.1 two hundred\r\n\r\n",
    "endless status line": b"HTTP/1.1 200 " + b"x" * 200_000,
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "thousands of headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
    "escape codes": ok(b'{"schema": "\\u001b[31mred\\nforged line"}'),
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_daemon_gives_one_line(impostor: Impostor, name: str) -> None:
    feed = RemoteFeed("127.0.0.1", impostor.sends(BAD[name]).port)
    with pytest.raises(UaptraceError) as caught:
        feed.latest()
    feed.close()
    assert caught.value.exit_status == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["negative chunk", "bucket of 10^400", "deep", "many values", "large gzip", "escape codes"])
def test_the_command_says_so_and_ends_with_the_documented_status(impostor: Impostor, name: str) -> None:
    command = [sys.executable, "-m", "uaptrace", "top", "--once", "--connect", f"127.0.0.1:{impostor.sends(BAD[name]).port}"]
    limited = f'ulimit -v {2 << 20}; exec "$@"'
    done = subprocess.run(["bash", "-c", limited, "bash", *command], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nX: ", ok(b"{"), chunked(b"fff\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_byte_now_and_then_does_not_hold_it_for_ever(impostor: Impostor, before: bytes) -> None:
    def drip(client: socket.socket) -> None:
        client.sendall(before)
        for byte in itertools.cycle(before[-25:] or b"HTTP"):
            client.sendall(bytes([byte]))
            time.sleep(0.01)  # The slowness itself, not a wait for something.

    impostor.answer = drip
    feed = RemoteFeed("127.0.0.1", impostor.port, deadline_s=0.3)
    begin = time.monotonic()
    with pytest.raises(RemoteError, match="timed out"):
        feed.latest()
    feed.close()
    assert time.monotonic() - begin < PATIENCE_S / 4


def test_an_answer_without_an_end_is_given_up_at_its_limit(impostor: Impostor) -> None:
    def pour(client: socket.socket) -> None:
        client.sendall(ok(b""))
        while True:
            client.sendall(bytes(1 << 20))

    impostor.answer = pour
    feed = RemoteFeed("127.0.0.1", impostor.port, deadline_s=PATIENCE_S)
    with pytest.raises(RemoteError, match="too large"):
        feed.latest()
    feed.close()


pieces = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 503 No\r\n",
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"\r\n",
            b"\n",
            b"0\r\n\r\n",
        ),
        *(
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 7\r\n",
            b"Content-Encoding: gzip\r\n",
            b"Connection: close\r\n",
            b"-1\r\n",
            b"5\r\n",
        ),
        *(
            b"\x1f\x8b\x08\x00",
            b"Content-Length: -1\r\n",
            b"{",
            b"}",
            b'"schema":',
            b"1",
            b"[",
            b"1e999",
            b"null",
            encode_snapshot(small_snapshot()),
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces | st.binary(max_size=20), max_size=12))
def test_no_bytes_give_anything_but_a_state_or_that_line(impostor: Impostor, parts: list[bytes]) -> None:
    feed = RemoteFeed("127.0.0.1", impostor.sends(b"".join(parts)).port)
    with contextlib.suppress(UaptraceError):
        feed.latest()
    feed.close()
