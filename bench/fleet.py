# SPDX-License-Identifier: Apache-2.0
"""200 hosts and one Prometheus: ``python -m bench.fleet [--hosts 200] [--seconds 180] [--recording FILE]``.

Every host is a model of its own behind an endpoint of its own (the exporter's own code, a port each, all in one process),
and each scrape finds the state a few updates further on. With --recording all of them replay that recording, each from
another place; without it, simulated hosts of different sizes. One Debian Prometheus scrapes all of them every 15 seconds.
What is printed is measured by Prometheus itself; docs/fleet.md reckons with these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.dashboards.prometheus import Prometheus, free_port, started
from tests.unit.simulated_host import host_updates
from uaptrace.exporter.server import Server, serve
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Start, Update

ROOT = Path(__file__).resolve().parents[1]
INTERVAL_S = 15
NR_WORKLOADS = 8
UPDATES_PER_SCRAPE = 2


class Host:
    """One host: each call of feed() is ``UPDATES_PER_SCRAPE`` updates later; after the last it begins anew, as after a reboot."""

    def __init__(self, name: str, updates: Sequence[Update], at: int) -> None:
        self._name = name
        self._updates = updates
        self._next = 0
        self._state = KernelState()
        # Start, symbols, readings of the map and of the counters are taken in before the first scrape.
        self._take(max(at, sum(1 for update in updates[:16] if not hasattr(update, "batch"))))

    def feed(self) -> Snapshot:
        """The state now; called by the host's own endpoint only."""
        self._take(UPDATES_PER_SCRAPE)
        snapshot = self._state.snapshot(time.monotonic_ns(), time.time())
        return replace(snapshot, host=replace(snapshot.host, hostname=self._name))

    def _take(self, number: int) -> None:
        for _ in range(number):
            self._state.update(self._updates[self._next])
            self._next = (self._next + 1) % len(self._updates)


def workloads(recording: Path | None) -> list[Sequence[Update]]:
    """Lists of updates for the hosts to take turns with."""
    if recording is None:
        return [host_updates(series=i % 4 != 0, seconds=40, seed=i, rate=60 + 20 * i) for i in range(NR_WORKLOADS)]
    from uaptrace.session.replay import ReplaySource

    source = ReplaySource(recording, None, budget_s=None)
    try:
        updates = list(source.updates())
    finally:
        source.close()
    if not updates or not isinstance(updates[0], Start):
        raise SystemExit(f"{recording} does not begin at the start of tracing")
    return [updates]


def start_prometheus(folder: Path, servers: dict[str, Server], stack: ExitStack) -> Prometheus:
    """The example configuration of the project, with these targets and with Prometheus' own metrics."""
    import yaml

    config = yaml.safe_load((ROOT / "grafana" / "prometheus" / "prometheus.yml").read_text())
    config["rule_files"] = [str(ROOT / "grafana" / "prometheus" / name) for name in config["rule_files"]]
    (uaptrace,) = config["scrape_configs"]
    uaptrace["static_configs"] = [
        {"targets": [f"127.0.0.1:{server.port}"], "labels": {"instance": name}} for name, server in servers.items()
    ]
    port = free_port()
    config["scrape_configs"].append({"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]})
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-admin-api",
    ]
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    stack.enter_context(started("prometheus", arguments, folder, f"{prometheus.url}/-/ready"))
    return prometheus


def number(prometheus: Prometheus, query: str) -> float:
    """The one value of a query."""
    result = prometheus.get("/api/v1/query", {"query": query})["data"]["result"]
    if len(result) != 1:
        raise SystemExit(f"{query} has {len(result)} results")
    return float(result[0]["value"][1])


def stored_bytes(prometheus: Prometheus, folder: Path) -> dict[str, float]:
    """What the samples take on disk: Prometheus writes its head as a block, whose parts are measured."""
    request = urllib.request.Request(f"{prometheus.url}/api/v1/admin/tsdb/snapshot", method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        name = json.load(answer)["data"]["name"]
    sizes = {"samples": 0.0, "series": 0.0, "chunk bytes": 0.0, "index bytes": 0.0}
    for block in (folder / "data" / "snapshots" / name).iterdir():
        statistics: dict[str, Any] = json.loads((block / "meta.json").read_text())["stats"]
        sizes["samples"] += statistics["numSamples"]
        sizes["series"] += statistics["numSeries"]
        sizes["chunk bytes"] += sum(file.stat().st_size for file in (block / "chunks").iterdir())
        sizes["index bytes"] += (block / "index").stat().st_size
    return sizes


def resident_mb(pid: int | str = "self") -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(nr_hosts: int, seconds: float, recording: Path | None) -> tuple[list[tuple[str, str]], bool]:
    """Rows of name and value, and whether no scrape failed."""
    lists = workloads(recording)
    before_mb = resident_mb()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uaptrace-fleet-")))
        servers: dict[str, Server] = {}
        for i in range(nr_hosts):
            host = Host(f"host-{i:03}", lists[i % len(lists)], i % 32)
            servers[f"host-{i:03}"] = server = serve(host.feed, "127.0.0.1:0")
            stack.callback(server.stop)
        hosts_mb = resident_mb() - before_mb
        prometheus = start_prometheus(folder, servers, stack)
        begin = time.monotonic()
        while (left := seconds - (time.monotonic() - begin)) > 0:
            print(f"\r{left:4.0f} s left ", end="", file=sys.stderr, flush=True)
            time.sleep(min(left, 5))
        print("\r", end="", file=sys.stderr)
        window = f"[{int(seconds) + 60}s]"
        scrapes = number(prometheus, f'sum(count_over_time(up{{job="uaptrace"}}{window}))')
        failed = scrapes - number(prometheus, f'sum(sum_over_time(up{{job="uaptrace"}}{window}))')
        series = number(prometheus, 'sum(scrape_samples_scraped{job="uaptrace"})')
        recorded = number(prometheus, 'count({__name__=~".+:uaptrace_.+"})')
        resident = number(prometheus, 'process_resident_memory_bytes{job="prometheus"}')
        busy = number(prometheus, 'rate(process_cpu_seconds_total{job="prometheus"}[2m])')
        compressed = []
        for server in list(servers.values())[: len(lists)]:
            request = urllib.request.Request(server.url + "/metrics", headers={"Accept-Encoding": "gzip"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                compressed.append(len(answer.read()))
        size = stored_bytes(prometheus, folder)
        percentile = 'quantile({}, max_over_time(scrape_duration_seconds{{job="uaptrace"}}{}))'
        rows = [
            ("hosts, scrape interval", f"{nr_hosts}, {INTERVAL_S} s"),
            ("time measured", f"{seconds:.0f} s"),
            ("scrapes", f"{scrapes:.0f}"),
            ("scrapes that failed", f"{failed:.0f}"),
            ("series of all hosts", f"{series:.0f} ({series / nr_hosts:.0f} a host)"),
            ("series of the recording rules", f"{recorded:.0f}"),
            ("bytes of a scrape, gzip", f"{min(compressed)} to {max(compressed)}"),
            ("slowest scrape of a host: median host", f"{number(prometheus, percentile.format(0.5, window)) * 1e3:.0f} ms"),
            ("slowest scrape of a host: worst host", f"{number(prometheus, percentile.format(1, window)) * 1e3:.0f} ms"),
            ("Prometheus: resident", f"{resident / 1e6:.0f} MB"),
            ("Prometheus: CPU", f"{busy * 100:.1f}% of one core"),
            ("Prometheus: series in memory", f"{number(prometheus, 'prometheus_tsdb_head_series'):.0f}"),
            ("Prometheus: bytes of a sample on disk", f"{size['chunk bytes'] / size['samples']:.2f}"),
            ("Prometheus: index bytes of a series", f"{size['index bytes'] / size['series']:.0f}"),
            (
                "rules: slowest evaluation of a group",
                f"{number(prometheus, 'max(prometheus_rule_group_last_duration_seconds)') * 1e3:.0f} ms",
            ),
            ("this process: resident for the hosts", f"{hosts_mb:.0f} MB ({hosts_mb / nr_hosts:.2f} MB a host)"),
            ("this process: threads", f"{threading.active_count()}"),
        ]
        return rows, failed == 0 and scrapes >= nr_hosts * (seconds // INTERVAL_S - 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long Prometheus scrapes")
    parser.add_argument("--recording", type=Path, help="replay this instead of simulated hosts")
    arguments = parser.parse_args()
    try:
        rows, good = measure(arguments.hosts, arguments.seconds, arguments.recording)
    except (RuntimeError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"| {name:{width}} | {value} |" for name, value in rows))
    if not good:
        print("some scrapes failed or did not take place", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
