# SPDX-License-Identifier: Apache-2.0
"""Metric families to bytes, in the format and encoding that a client accepts."""

from __future__ import annotations

import gzip
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import uaptrace
from uaptrace.exporter.metrics import readiness, snapshot_families
from uaptrace.model.snapshot import Snapshot

DROP_REASONS: Final = ("handshake", "deadline", "limit", "malformed", "unauthorized")
_GZIP_LEVEL: Final = 3
"""Level 9 takes five times as long for a seventh fewer bytes here."""


@dataclass(slots=True)
class HttpStatistics:
    """The endpoint's own figures: connections are counted by the server's thread, scrapes by the one that renders."""

    connections: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    scrapes: int = 0
    scrape_seconds: float = 0.0


class ScrapeCollector(Collector):
    """The one collector: all families of one scrape, fresh from one snapshot. Bound to that scrape and then dropped."""

    def __init__(self, snapshot: Snapshot | None, statistics: HttpStatistics, process: Collector) -> None:
        self._snapshot = snapshot
        self._statistics = statistics
        self._process = process

    def collect(self) -> Iterable[Metric]:
        if self._snapshot is not None:
            yield from snapshot_families(self._snapshot)
        yield from self._own()
        yield from self._process.collect()

    def _own(self) -> Iterable[Metric]:
        statistics = self._statistics
        yield InfoMetricFamily(
            "uaptrace_build",
            "What is running.",
            value={"version": uaptrace.__version__, "python_version": platform.python_version()},
        )
        ready = readiness(self._snapshot) is None
        yield GaugeMetricFamily("uaptrace_ready", "1 when /readyz would say so.", value=float(ready))
        yield SummaryMetricFamily(
            "uaptrace_scrape_duration_seconds",
            "Time it took to answer earlier scrapes.",
            count_value=statistics.scrapes,
            sum_value=statistics.scrape_seconds,
        )
        yield GaugeMetricFamily("uaptrace_http_connections", "Open connections to this endpoint.", value=float(statistics.connections))
        dropped = CounterMetricFamily(
            "uaptrace_http_connections_dropped", "Connections and requests that were turned away.", labels=["reason"]
        )
        for reason in DROP_REASONS:
            dropped.add_metric([reason], float(statistics.dropped[reason]))
        yield dropped


class Renderer:
    """Renders scrapes of one endpoint and counts how long they take."""

    def __init__(self, statistics: HttpStatistics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._statistics = statistics
        self._process = ProcessCollector(registry=None)
        self._clock = clock

    def scrape(self, feed: Callable[[], Snapshot | None], accept: str, accept_encoding: str) -> tuple[bytes, Sequence[tuple[str, str]]]:
        """One answer to /metrics: the body, and the headers that belong to it."""
        begin = self._clock()
        collector = ScrapeCollector(feed(), self._statistics, self._process)
        encoder, content_type = negotiated(accept)
        body, encoding = compressed(encoder(collector), accept_encoding)
        self._statistics.scrapes += 1
        self._statistics.scrape_seconds += self._clock() - begin
        return body, [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding"), *encoding]


def negotiated(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """The format for an Accept header: a function that renders it, and its content type."""
    try:
        encoder, content_type = choose_encoder(accept)
        content_type.encode("ascii")
    except (ValueError, TypeError):
        # A version that is not one (the library says what the client said): the client gets the format that everyone reads.
        encoder, content_type = choose_encoder("")
    if isinstance(encoder, partial) and encoder.keywords.get("escaping") == "underscores":
        # All names here are plain ones, so nothing needs escaping and the answer is the same byte by byte; but
        # prometheus-client looks at them letter by letter for this scheme, which doubles the time of a scrape.
        encoder = partial(encoder, escaping="allow-utf-8")
    return encoder, content_type


def compressed(body: bytes, accept_encoding: str) -> tuple[bytes, Sequence[tuple[str, str]]]:
    """The body as gzip where the client takes it and it is worth it, and the header that says so."""
    if len(body) < 512 or not accepts_gzip(accept_encoding):
        return body, []
    return gzip.compress(body, _GZIP_LEVEL, mtime=0), [("Content-Encoding", "gzip")]


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110, section 12.5.3)."""
    quality = {"gzip": None, "*": None}  # type: dict[str, float | None]
    for item in accept_encoding.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        name = "gzip" if name == "x-gzip" else name
        if name in quality:
            quality[name] = _quality(parameters)
    chosen = quality["gzip"] if quality["gzip"] is not None else quality["*"]
    return chosen is not None and chosen > 0


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
