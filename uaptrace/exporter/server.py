# SPDX-License-Identifier: Apache-2.0
"""The endpoint as the daemon starts it: what is answered under which path, and to whom."""

from __future__ import annotations

import asyncio
import html
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

import uaptrace
from uaptrace.exporter import auth
from uaptrace.exporter.http import HttpServer, Limits
from uaptrace.exporter.http_messages import Request, Response
from uaptrace.exporter.listening import bind
from uaptrace.exporter.metrics import readiness
from uaptrace.exporter.negotiation import compressed
from uaptrace.exporter.password_checks import PasswordChecks
from uaptrace.exporter.rendering import HttpStatistics, Renderer
from uaptrace.exporter.web_config import ConfigWatch, WebConfig
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.snapshot_json import encode_snapshot
from uaptrace.model.walks import WalkCounts

DEFAULT_LISTEN: Final = "127.0.0.1:9970"

T = TypeVar("T")
Feed = Callable[[], Snapshot | None]
"""Gives the newest state, or None where there is none yet. Called in a thread of the endpoint, one call at a time."""

_log: Final = logging.getLogger(__name__)
_PATHS: Final = {
    "/metrics": "all figures for Prometheus (docs/metrics.md)",
    "/healthz": "200 while this process answers",
    "/readyz": "200 while hooks are attached and the state is exact, else 503 and why",
    "/snapshot": "the state as JSON, as <code>uaptrace top --connect</code> reads it; with <code>?regions=1</code> region by region",
}


def serve(
    feed: Feed,
    listen: str | socket.socket = DEFAULT_LISTEN,
    web_config: ConfigWatch | WebConfig | None = None,
    *,
    region_feed: Feed | None = None,
    figures_feed: Feed | None = None,
    read_walks: Callable[[], WalkCounts] | None = None,
    limits: Limits | None = None,
    feed_timeout_s: float = 5.0,
) -> Server:
    """Start the endpoint in threads of its own and return at once; raises UsageError where it cannot listen.

    ``listen``: an address, or what bind() made of it.
    ``feed`` gives the newest snapshot; ``region_feed`` the same with Snapshot.regions, for ``/snapshot?regions=1``
    (without it, ``feed`` is asked), ``figures_feed`` the same without rows of splits and processes, which /metrics does
    not show. All are called outside the server's own thread, so they may wait for the tracing loop; after
    ``feed_timeout_s`` the client is told so. ``read_walks`` gives what has been counted, for /metrics.
    ``web_config``: ConfigWatch(path) to follow a file.
    """
    return Server(feed, listen, web_config, region_feed or feed, figures_feed or feed, read_walks, limits or Limits(), feed_timeout_s)


class Server:
    """A running endpoint."""

    def __init__(
        self,
        feed: Feed,
        listen: str | socket.socket,
        web_config: ConfigWatch | WebConfig | None,
        region_feed: Feed,
        figures_feed: Feed,
        read_walks: Callable[[], WalkCounts] | None,
        limits: Limits,
        feed_timeout_s: float,
    ) -> None:
        self._feed = feed
        self._region_feed = region_feed
        self._figures_feed = figures_feed
        self._feed_timeout_s = feed_timeout_s
        self._config: Callable[[], WebConfig]
        if isinstance(web_config, ConfigWatch):
            self._config = web_config.current
        else:
            fixed = web_config or WebConfig()
            self._config = lambda: fixed
        self._has_tls = self._config().tls is not None
        self.statistics = HttpStatistics()
        self._renderer = Renderer(self.statistics, read_walks=read_walks)
        self._passwords = PasswordChecks()
        self._bucket: tuple[WebConfig, auth.TokenBucket] | None = None
        # The state has a thread of its own, as passwords have: neither waits for the other, nor for a client.
        self._state_thread = ThreadPoolExecutor(1, "uaptrace-scrape")
        listener = bind(listen) if isinstance(listen, str) else listen
        self.address: str
        self.port: int
        self.address, self.port = listener.getsockname()[:2]
        self._http = HttpServer(listener, self._refusal, self._handle, self._config, self.statistics, limits)
        self._http.start()

    @property
    def url(self) -> str:
        """Where a browser on this host finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.address, self.address)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"{'https' if self._has_tls else 'http'}://{host}:{self.port}"

    def stop(self) -> None:
        """Close the socket and all connections. May be called again."""
        self._http.stop()
        self._state_thread.shutdown(wait=False, cancel_futures=True)
        self._passwords.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _refusal(self, request: Request, waits: Callable[[], None]) -> Response | None:
        config = self._config()
        return self._too_fast(config) or await self._unauthorized(request, config, waits)

    async def _handle(self, request: Request) -> Response:
        routes = {
            "/": self._landing,
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/snapshot": self._snapshot,
        }
        route = routes.get(request.path)
        if route is None:
            return Response.text(HTTPStatus.NOT_FOUND, f"not found; there is {', '.join(_PATHS)}")
        if request.method not in ("GET", "HEAD"):
            return Response.text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are supported", [("Allow", "GET, HEAD")])
        try:
            return await route(request)
        except TimeoutError:
            return Response.text(
                HTTPStatus.SERVICE_UNAVAILABLE, f"no state within {self._feed_timeout_s:g} s: the tracing loop does not answer"
            )

    def _too_fast(self, config: WebConfig) -> Response | None:
        if not config.rate_limit_interval_s:
            return None
        now_s = time.monotonic()
        if self._bucket is None or self._bucket[0] is not config:
            self._bucket = config, auth.TokenBucket(config.rate_limit_interval_s, config.rate_limit_burst, now_s)
        if self._bucket[1].take(now_s):
            return None
        return Response.text(HTTPStatus.TOO_MANY_REQUESTS, "too many requests: see rate_limit in the web configuration")

    async def _unauthorized(self, request: Request, config: WebConfig, waits: Callable[[], None]) -> Response | None:
        if not config.users:
            return None
        given = auth.credentials(request.headers.get("authorization", ""))
        if given is None:
            return _unauthorized("user name and password required")
        answer = await self._passwords.check(*given, config.users, waits)
        return None if answer else _unauthorized("wrong user name or password")

    async def _in_state_thread(self, function: Callable[[], T]) -> T:
        """Run what needs the state, with the feed's deadline. Raises TimeoutError."""
        future = asyncio.get_running_loop().run_in_executor(self._state_thread, function)
        return await asyncio.wait_for(future, self._feed_timeout_s)

    async def _metrics(self, request: Request) -> Response:
        accept, encoding = request.headers.get("accept", ""), request.headers.get("accept-encoding", "")
        body, headers = await self._in_state_thread(partial(self._renderer.scrape, self._figures_feed, accept, encoding))
        return Response(HTTPStatus.OK, body, headers)

    async def _snapshot(self, request: Request) -> Response:
        feed = self._region_feed if request.query.get("regions") == ["1"] else self._feed

        def encode() -> Response:
            snapshot = feed()
            if snapshot is None:
                return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, str(readiness(None)))
            body, headers = compressed(encode_snapshot(snapshot), request.headers.get("accept-encoding", ""))
            return Response(HTTPStatus.OK, body, [("Content-Type", "application/json"), ("Vary", "Accept-Encoding"), *headers])

        return await self._in_state_thread(encode)

    async def _health(self, request: Request) -> Response:
        return Response.text(HTTPStatus.OK, "ok")

    async def _ready(self, request: Request) -> Response:
        why_not = await self._in_state_thread(lambda: readiness(self._figures_feed()))
        if why_not is None:
            return Response.text(HTTPStatus.OK, "ok")
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, why_not)

    async def _landing(self, request: Request) -> Response:
        snapshot = await self._in_state_thread(self._feed)
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            *(
                ()
                if "Content-Security-Policy" in self._config().headers
                else (("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),)
            ),
        ]
        return Response(HTTPStatus.OK, _landing_page(snapshot).encode(), headers)


def _unauthorized(why: str) -> Response:
    return Response.text(HTTPStatus.UNAUTHORIZED, why, [("WWW-Authenticate", 'Basic realm="uaptrace", charset="UTF-8"')])


def _landing_page(snapshot: Snapshot | None) -> str:
    why_not = readiness(snapshot)
    state = '<b class="good">ready</b>: the state is exact' if why_not is None else f'<b class="bad">not ready</b>: {html.escape(why_not)}'
    where = ""
    if snapshot is not None:
        host = snapshot.host
        where = f"<p>{html.escape(host.name or 'unnamed host')}, kernel {html.escape(host.kernel_release or 'unknown')}"
        where += "" if host.has_series else ", which has no unmapped cache"
        where += "</p>"
    rows = "".join(f'<tr><td><a href="{path[1:]}">{path}</a></td><td>{text}</td></tr>' for path, text in _PATHS.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>uaptrace</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}
td {{ padding: .2rem 1.5rem .2rem 0; vertical-align: top }}
a, code {{ font-family: ui-monospace, monospace; white-space: nowrap }}
.good {{ color: light-dark(#17692e, #6fcf87) }} .bad {{ color: light-dark(#a3261c, #ff8a80) }}
</style></head><body>
<h1>uaptrace {html.escape(uaptrace.__version__)}</h1>
<p>What the kernel does to its direct map and to the unmapped cache.</p>
{where}<p>{state}</p>
<table>{rows}</table>
</body></html>
"""
