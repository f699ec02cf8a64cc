# SPDX-License-Identifier: Apache-2.0
"""An hour of the made-up hosts, written into a Prometheus: what the browser tests look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector

from tests.dashboards import prometheus, timeline
from tests.dashboards.prometheus import Prometheus
from uaptrace.exporter.rendering import HttpStatistics, ScrapeCollector

BEGIN_S = 1_700_000_000.0
LENGTH_S = 3600.0
STEP_S = 30
HOST = "web-1:9970"
"""The host that the dashboards of one host show: it boots another kernel on the way."""


def _scrapes() -> Iterator[tuple[str, float, Iterable[Metric]]]:
    process = ProcessCollector(registry=None)
    for instance, host in timeline.fleet(BEGIN_S).items():
        statistics = HttpStatistics(connections=1)
        for snapshot in host.run(LENGTH_S, STEP_S):
            statistics.scrapes += 1
            statistics.scrape_seconds += 0.003
            walks = host.walks() if host.profile.counts_walks else None
            yield instance, snapshot.wall_time_s, ScrapeCollector(snapshot, statistics, process, walks).collect()


@contextmanager
def prometheus_with_history(directory: Path) -> Iterator[Prometheus]:
    """A Prometheus that has scraped all hosts for an hour from ``BEGIN_S``, as far as it knows."""
    prometheus.backfill(directory, _scrapes())
    with prometheus.running(directory) as server:
        yield server
