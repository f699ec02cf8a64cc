# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus scrapes the endpoint over a real model's state, and gives back every figure exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bcrypt
import pytest

from tests.dashboards.prometheus import Prometheus, running
from uaptrace.exporter.metrics import snapshot_families
from uaptrace.exporter.server import serve
from uaptrace.exporter.web_config import WebConfig
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Update

pytestmark = pytest.mark.prometheus

PATIENCE_S = 60.0
Series = dict[tuple[tuple[str, str], ...], float]


def expected(snapshot: Snapshot) -> Series:
    """Every series of a snapshot, by its labels and its name."""
    return {
        tuple(sorted({"__name__": sample.name, **sample.labels}.items())): sample.value
        for family in snapshot_families(snapshot)
        for sample in family.samples
    }


def stored(prometheus: Prometheus, wanted: Series) -> Series:
    """The same series as Prometheus has them now, without the labels that a scrape adds. An empty label is the same as none."""
    names = {dict(labels)["__name__"] for labels in wanted}
    answer = prometheus.get("/api/v1/query", {"query": '{job="uaptrace",__name__=~"uaptrace_.+"}'})
    return {
        tuple(sorted((k, v) for k, v in found["metric"].items() if k not in ("instance", "job"))): float(found["value"][1])
        for found in answer["data"]["result"]
        if found["metric"]["__name__"] in names
    }


def without_empty(series: Series) -> Series:
    return {tuple((k, v) for k, v in labels if v): value for labels, value in series.items()}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.1)


def test_every_figure_comes_back_exactly_and_follows_the_state(updates: Sequence[Update], tmp_path: Path) -> None:
    state = KernelState()
    half = len(updates) // 2
    for update in updates[:half]:
        state.update(update)
    shown = [state.snapshot(10**12, 1_750_000_000.5)]
    with serve(lambda: shown[-1], "127.0.0.1:0") as server, running(tmp_path, {"host-1": f"127.0.0.1:{server.port}"}) as prometheus:
        first = without_empty(expected(shown[-1]))
        assert len(first) > 100
        wait_for(lambda: stored(prometheus, first) == first)

        for update in updates[half:]:
            state.update(update)
        shown.append(state.snapshot(2 * 10**12, 1_750_001_000.5))
        second = without_empty(expected(shown[-1]))
        assert second != first, "the second half of the updates must change something"
        wait_for(lambda: stored(prometheus, second) == second)

        up = prometheus.get("/api/v1/query", {"query": 'min_over_time(up{job="uaptrace"}[1h])'})["data"]["result"]
        assert [found["value"][1] for found in up] == ["1"]
        grown = sum(shown[1].splits.by_cause.values()) - sum(shown[0].splits.by_cause.values())
        query = "sum(max_over_time(uaptrace_direct_map_splits_total[1h]) - min_over_time(uaptrace_direct_map_splits_total[1h]))"
        assert float(prometheus.get("/api/v1/query", {"query": query})["data"]["result"][0]["value"][1]) == grown
        total = f"sum(uaptrace_direct_map_bytes) + sum(uaptrace_direct_map_absent_bytes) - {shown[1].direct_map.total_bytes}"
        assert float(prometheus.get("/api/v1/query", {"query": total})["data"]["result"][0]["value"][1]) == 0


def test_the_kind_and_the_help_of_each_metric_reach_prometheus(updates: Sequence[Update], tmp_path: Path) -> None:
    state = KernelState()
    for update in updates:
        state.update(update)
    snapshot = state.snapshot(10**12, 1_750_000_000.5)
    with serve(lambda: snapshot, "127.0.0.1:0") as server, running(tmp_path, {"host-1": f"127.0.0.1:{server.port}"}) as prometheus:
        # A scrape that is over: while it is taken in, some of the metadata are not there yet.
        wait_for(lambda: bool(prometheus.get("/api/v1/query", {"query": "up == 1"})["data"]["result"]))
        metadata = prometheus.get("/api/v1/metadata")["data"]
    for family in snapshot_families(snapshot):
        # Prometheus asks for OpenMetrics, whose names of families have no suffix.
        (found,) = metadata[family.name]
        assert (found["type"], found["help"]) == (family.type, family.documentation)


def test_a_prometheus_without_the_password_sees_the_host_as_down(tmp_path: Path) -> None:
    users = {"prometheus": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}
    with (
        serve(lambda: None, "127.0.0.1:0", WebConfig(users=users)) as server,
        running(tmp_path, {"host-1": f"127.0.0.1:{server.port}"}) as prometheus,
    ):
        wait_for(lambda: server.statistics.dropped["unauthorized"] > 0)
        wait_for(lambda: bool(prometheus.get("/api/v1/query", {"query": "up == 0"})["data"]["result"]))
        (target,) = prometheus.get("/api/v1/targets")["data"]["activeTargets"]
        assert "401" in target["lastError"]
