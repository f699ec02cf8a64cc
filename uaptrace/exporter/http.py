# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for few, known and possibly broken clients: asyncio carries the connections and TLS, h11 reads and writes HTTP.

What is written here is only the policy that no server library has as a whole (docs/serving.md has the comparison):

    accept ──> TLS handshake ──> request ──> answer ──> keep ──┐
       limit      handshake_s      request_s   answer_s  idle_s │
         ▲                            ▲─────────────────────────┘
         └ when all places are taken, the connection that has been silent for longest goes

No step waits for a client anywhere but in that client's own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import h11

from uaptrace.exporter.framing import has_chunks, problem_of_head, problem_of_headers
from uaptrace.exporter.http_messages import Request, Response, read_request
from uaptrace.exporter.rendering import HttpStatistics
from uaptrace.exporter.web_config import WebConfig

_log: Final = logging.getLogger(__name__)
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds and bounds. The defaults suit scrapes from once a second to once in two minutes."""

    connections: int = 128
    handshake_s: float = 5.0
    """From accept to the end of the TLS handshake."""
    request_s: float = 5.0
    """From the start of a connection, or from the first byte of a later request, to the end of the request."""
    idle_s: float = 150.0
    """Between two requests of one connection."""
    answer_s: float = 30.0
    """From the end of the request until the client has taken all of the answer."""
    linger_s: float = 2.0
    """How long what a refused client still sends is thrown away, so that it can read why it was refused."""
    grace_s: float = 0.1
    """A connection younger than this is not given up: its request is on the way."""
    request_bytes: int = 16 * 1024
    """Request line and headers."""
    body_bytes: int = 64 * 1024
    """Nothing here needs a body; a small one is read and ignored."""


Handler = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Request, Callable[[], None]], Awaitable[Response | None]]
"""The answer to those who may not ask, or None. Calls the function when that takes long to find out."""


class HttpServer:
    """Serves one listening socket from one thread of its own, until stop()."""

    def __init__(
        self,
        listener: socket.socket,
        guard: Guard,
        handler: Handler,
        config: Callable[[], WebConfig],
        statistics: HttpStatistics,
        limits: Limits,
    ) -> None:
        self.guard = guard
        self.handler = handler
        self.config = config
        self.statistics = statistics
        self.limits = limits
        self._listener = listener
        self._connections: set[_Connection] = set()
        # Each in the order in which they are given up: those that never asked for anything, those kept for another request, and those
        # whose password is being looked at.
        self._silent: dict[_Connection, None] = {}
        self._kept: dict[_Connection, None] = {}
        self._unproven: dict[_Connection, None] = {}
        self._room: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uaptrace-http", daemon=True)

    def start(self) -> None:
        """Returns when connections are being taken."""
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        """Close the socket and all connections, and wait for the thread. May be called again."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # The loop may have ended by itself in between.
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            _log.exception("the scrape endpoint ended")
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_complain)
        self._stop, self._room = asyncio.Event(), asyncio.Event()
        accepting = self._loop.create_task(self._accept())
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            accepting.cancel()
            connections = list(self._connections)
            for connection in connections:
                connection.drop(None)
            await asyncio.gather(accepting, *(c.task for c in connections if c.task), return_exceptions=True)
            # The transports close their sockets in a callback of their own.
            await asyncio.sleep(0)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._room is not None
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._evict()
                    await asyncio.sleep(0.05)
                continue
            while len(self._connections) >= self.limits.connections and not self._evict():
                # Every connection is having a request answered, which has a deadline, or is about to send one.
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), self.limits.grace_s)
            connection = _Connection(self)
            self._connections.add(connection)
            self._silent[connection] = None
            self.statistics.connections = len(self._connections)
            connection.begin(client, self.config().tls)

    def _evict(self) -> bool:
        """Give up the connection that has been silent for longest. False where all are at work or have just come."""
        reason: str | None = "limit"
        victim = next(iter(self._silent), None)
        has_silent = victim is not None
        if victim is not None and victim.age_s() < self.limits.grace_s:
            victim = None
        if not has_silent and self._kept:
            # It has had its answer and can connect again: nobody was turned away.
            victim, reason = next(iter(self._kept)), None
        victim = victim or next(iter(self._unproven), None)
        if victim is None:
            return False
        victim.drop(reason)
        self.forget(victim)
        return True

    def unproven(self, connection: _Connection) -> None:
        """The connection has a complete request, of which it is not known yet, and not soon, whether it may be asked."""
        self.at_work(connection)
        self._unproven[connection] = None

    def at_work(self, connection: _Connection) -> None:
        """The connection has a request that may be asked: it is not given up before it is answered."""
        for given_up in (self._silent, self._kept, self._unproven):
            given_up.pop(connection, None)

    def keep(self, connection: _Connection) -> None:
        """The connection has been answered and may ask again."""
        if connection in self._connections:
            self._kept[connection] = None

    def forget(self, connection: _Connection) -> None:
        """The connection is closed, or about to be."""
        self.at_work(connection)
        self._connections.discard(connection)
        self.statistics.connections = len(self._connections)
        if self._room is not None:
            self._room.set()


class _Connection(asyncio.Protocol):
    """One connection, from accept to close."""

    def __init__(self, server: HttpServer) -> None:
        self.task: asyncio.Task[None] | None = None
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.request_bytes)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request: h11.Request | None = None
        self._body_bytes = 0
        self._at_work = False
        self._kept = False
        self._lingering = False
        self._has_ended = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._begin_s = self._loop.time()

    def age_s(self) -> float:
        """Seconds since it was accepted."""
        return self._loop.time() - self._begin_s

    def begin(self, client: socket.socket, context: ssl.SSLContext | None) -> None:
        """Take over an accepted socket."""
        self.task = self._loop.create_task(self._connect(client, context))
        # Also where the task was cancelled before its first step.
        self.task.add_done_callback(lambda _: client.close() if self._transport is None else None)

    async def _connect(self, client: socket.socket, context: ssl.SSLContext | None) -> None:
        timeouts: dict[str, Any] = {}
        if context is not None:
            timeouts = {"ssl_handshake_timeout": self._limits.handshake_s, "ssl_shutdown_timeout": self._limits.linger_s}
        try:
            await self._loop.connect_accepted_socket(lambda: self, client, ssl=context, **timeouts)
        except OSError:  # TLS errors and the handshake's deadline are OSErrors too
            self._end("handshake")
        except asyncio.CancelledError:
            self._end(None)
            raise

    def drop(self, reason: str | None) -> None:
        """Close at once; ``reason`` is counted."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def _end(self, reason: str | None) -> None:
        if reason is not None and not self._has_ended:
            self._server.statistics.dropped[reason] += 1
        self._has_ended = True
        self._server.forget(self)

    def _set_deadline(self, seconds: float | None, reason: str | None = "deadline") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self.drop, reason)

    # What asyncio calls:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Told of what the client has not taken: the answer's deadline needs to know. Not high=0, with which asyncio's TLS
        # transport says "paused" for an empty buffer too, and may never take it back.
        transport.set_write_buffer_limits(high=1, low=0)
        if self._has_ended:
            transport.abort()
            return
        allowed = self._server.config().client_allowed_sans
        if allowed and not _subject_names(transport.get_extra_info("peercert")) & allowed:
            self.drop("handshake")
            return
        self._set_deadline(self._limits.request_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._drained.set()
        if self.task is not None and self.task is not asyncio.current_task(self._loop):
            self.task.cancel()
        self._end(None)

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._has_ended:
            return
        if self._kept:
            self._kept = False
            self._set_deadline(self._limits.request_s)
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        if self._lingering or self._has_ended:
            return False
        self._http.receive_data(b"")
        self._advance()
        # A client may end its side and still wait for the answer; TLS has no such half.
        assert self._transport is not None
        return self._at_work and self._transport.get_extra_info("sslcontext") is None

    # From request to answer:

    def _advance(self) -> None:
        while not self._at_work and not self._lingering and not self._has_ended:
            if self._http.their_state is h11.IDLE and (problem := problem_of_head(self._http.trailing_data[0], self._limits.request_bytes)):
                self._refuse(*problem)
                return
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(HTTPStatus(error.error_status_hint), str(error))
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                self._ask_for_body()
                return
            if not self._take(event):
                return

    def _take(self, event: object) -> bool:
        """Part of a request, or its end. False: nothing more is read from this client."""
        if isinstance(event, h11.Request):
            if problem := problem_of_headers(event, self._limits.body_bytes):
                self._refuse(*problem)
                return False
            self._request = event
            self._body_bytes = 0
        elif isinstance(event, h11.Data):
            self._body_bytes += len(event.data)
            if self._body_bytes > self._limits.body_bytes:
                self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request body is too large")
                return False
        elif isinstance(event, h11.EndOfMessage):
            self._work()
        elif isinstance(event, h11.ConnectionClosed):
            self._close()
            return False
        return True

    def _ask_for_body(self) -> None:
        """A client that wants to know first whether its body is wanted is told to go on; it is read and ignored."""
        if self._transport is not None and self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[], reason=HTTPStatus.CONTINUE.phrase.encode())
            self._transport.write(self._http.send(go_on) or b"")

    def _work(self) -> None:
        assert self._transport is not None
        assert self._request is not None
        self._at_work = True
        self._server.at_work(self)
        # Nothing more is read until the answer is gone, so that a client cannot make requests pile up here.
        self._transport.pause_reading()
        self._set_deadline(self._limits.answer_s)
        self.task = self._loop.create_task(self._answer(read_request(self._request)))

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._server.guard(request, partial(self._server.unproven, self))
            self._server.at_work(self)
            if response is None:
                response = await self._server.handler(request)
        except Exception as error:
            _log.error("%s %s: %s: %s", request.method, request.path, type(error).__name__, error)
            response = Response.text(HTTPStatus.INTERNAL_SERVER_ERROR, f"error in uaptrace: {type(error).__name__}")
        if response.status is HTTPStatus.UNAUTHORIZED:
            self._server.statistics.dropped["unauthorized"] += 1
        try:
            self._send(response, request.method == "HEAD")
        except h11.LocalProtocolError as error:
            _log.error("%s %s: an answer that is not HTTP: %s", request.method, request.path, error)
            self.drop(None)
            return
        await self._drained.wait()
        if self._has_ended or self._transport is None:
            return
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._close()
            return
        self._http.start_next_cycle()
        self._at_work = False
        self._kept = True
        self._server.keep(self)
        self._set_deadline(self._limits.idle_s, None)
        self._transport.resume_reading()
        self._advance()

    def _send(self, response: Response, head_only: bool = False) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        headers = [
            *response.headers,
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            *self._server.config().headers.items(),
            *((("Connection", "close"),) if self._request is not None and has_chunks(self._request) else ()),
        ]
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase.encode())]
        if response.body and not head_only:
            events.append(h11.Data(data=response.body))
        events.append(h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Say why, then throw away for a moment what the client still sends: closing at once would take the answer from it."""
        if self._has_ended:
            return
        self._server.statistics.dropped["malformed"] += 1
        self._lingering = True
        self._request = None
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(Response.text(status, why, [("Connection", "close")]))
        assert self._transport is not None
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_deadline(self._limits.linger_s, None)

    def _close(self) -> None:
        # What is still in the buffer is sent, within the answer's deadline.
        if self._transport is not None:
            self._transport.close()


def _subject_names(certificate: dict[str, Any] | None) -> frozenset[str]:
    """The subject alternative names of a client's certificate, as ssl gives it: pairs of kind and name."""
    return frozenset(name for _, name in (certificate or {}).get("subjectAltName", ()))


def _complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A connection that breaks is everyday life for a server and is counted; all else is told."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        _log.error("scrape endpoint: %s: %r", context.get("message"), error)
