# SPDX-License-Identifier: Apache-2.0
"""Metric families to bytes, in the format and encoding that a client accepts."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

import uaptrace
from uaptrace.exporter.metrics import readiness, snapshot_families, walk_families
from uaptrace.exporter.negotiation import compressed, negotiated
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.walks import WalkCounts

DROP_REASONS: Final = ("handshake", "deadline", "limit", "malformed", "unauthorized")


@dataclass(slots=True)
class HttpStatistics:
    """The endpoint's own figures: connections are counted by the server's thread, scrapes by the one that renders."""

    connections: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    scrapes: int = 0
    scrape_seconds: float = 0.0


class ScrapeCollector(Collector):
    """The one collector: all families of one scrape, fresh from one snapshot. Bound to that scrape and then dropped."""

    def __init__(self, snapshot: Snapshot | None, statistics: HttpStatistics, process: Collector, walks: WalkCounts | None = None) -> None:
        self._snapshot = snapshot
        self._walks = walks
        self._statistics = statistics
        self._process = process

    def collect(self) -> Iterable[Metric]:
        if self._snapshot is not None:
            yield from snapshot_families(self._snapshot)
        if self._walks is not None:
            yield from walk_families(self._walks)
        yield from self._own()
        yield from self._process.collect()

    def _own(self) -> Iterable[Metric]:
        statistics = self._statistics
        yield InfoMetricFamily(
            "uaptrace_build",
            "Versions of uaptrace and Python.",
            value={"version": uaptrace.__version__, "python_version": platform.python_version()},
        )
        ready = readiness(self._snapshot) is None
        yield GaugeMetricFamily("uaptrace_ready", "1 while /readyz answers 200.", value=float(ready))
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
    """Renders scrapes of one endpoint and counts how long they take. ``read_walks`` is asked at each."""

    def __init__(
        self,
        statistics: HttpStatistics,
        clock: Callable[[], float] = time.perf_counter,
        read_walks: Callable[[], WalkCounts] | None = None,
    ) -> None:
        self._read_walks = read_walks
        self._statistics = statistics
        self._process = ProcessCollector(registry=None)
        self._clock = clock

    def scrape(self, feed: Callable[[], Snapshot | None], accept: str, accept_encoding: str) -> tuple[bytes, Sequence[tuple[str, str]]]:
        """One answer to /metrics: the body, and the headers that belong to it."""
        begin = self._clock()
        collector = ScrapeCollector(feed(), self._statistics, self._process, self._read_walks() if self._read_walks else None)
        encoder, content_type = negotiated(accept)
        body, encoding = compressed(encoder(collector), accept_encoding)
        self._statistics.scrapes += 1
        self._statistics.scrape_seconds += self._clock() - begin
        return body, [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding"), *encoding]
