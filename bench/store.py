# SPDX-License-Identifier: Apache-2.0
"""1,000 hosts, an agent and a long-term store: ``python -m bench.store [--hosts 1000] [--seconds 600] [--interval 30]``.

The hosts are those of bench.fleet. A Prometheus in agent mode scrapes them and writes to VictoriaMetrics; vmalert evaluates the rules
and alerts of this repository there, and Alertmanager sends what fires to this process. Then every panel of the fleet dashboard is asked
for its data from the store, as Grafana would. All of it is Debian's: prometheus, victoria-metrics, prometheus-alertmanager.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bench.fleet import ROOT, Host, resident_mb, workloads
from tests.dashboards import queries
from tests.dashboards.prometheus import Prometheus, free_port, started
from tests.unit.simulated_host import host_updates
from uaptrace.exporter.server import serve

ALERT_LIMIT_S = 300.0
"""For an alert to come through, after the time that is measured."""
DASHBOARD = "uaptrace-fleet"
FAILING = "host-0000"
"""On this one calls of the kernel fail, which an alert says at once."""
ROUNDS = 5
"""How often each panel is asked; the slowest counts."""


@dataclass(frozen=True)
class Server:
    """A program that was started, and where it answers."""

    url: str
    pid: int

    def metric(self, name: str, type_prefix: str = "") -> float:
        """Sum of a metric of its own over all its series, or those whose label ``type`` begins so. KeyError: there is none."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        found = [sample.value for sample in samples if sample.labels.get("type", "").startswith(type_prefix)]
        if not found:
            raise KeyError(f"{name} {type_prefix}")
        return sum(found)


@dataclass(frozen=True)
class Panel:
    """How long the slowest answer to one expression of a dashboard took, and how many series it had."""

    name: str
    seconds: float
    nr_series: int


class Receiver(ThreadingHTTPServer):
    """What Alertmanager calls: keeps each alert that it is told of."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Notified)
        self.alerts: list[dict[str, Any]] = []


class _Notified(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.alerts += told["alerts"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def start(program: str, arguments: Sequence[str], folder: Path, port: int, ready: str, stack: ExitStack) -> Server:
    """A program until the stack is unwound; errors are those of started()."""
    url = f"http://127.0.0.1:{port}"
    return Server(url, stack.enter_context(started(program, arguments, folder, f"{url}{ready}")))


def start_store(folder: Path, stack: ExitStack) -> Server:
    port = free_port()
    arguments = [
        f"-storageDataPath={folder / 'store'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        # What was written a moment ago counts, and no answer is one from before.
        "-search.latencyOffset=1s",
        "-search.disableCache",
    ]
    return start("victoria-metrics", arguments, folder, port, "/health", stack)


def start_agent(folder: Path, targets: dict[str, str], store: Server, interval_s: int, stack: ExitStack) -> Server:
    """The example's scrape configuration, without rules, with remote write."""
    import yaml

    config = yaml.safe_load((ROOT / "grafana/prometheus/prometheus.yml").read_text())
    del config["rule_files"]
    config["global"] = {"scrape_interval": f"{interval_s}s", "scrape_timeout": f"{interval_s}s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [at], "labels": {"instance": name}} for name, at in targets.items()]
    config["remote_write"] = [{"url": f"{store.url}/api/v1/write"}]
    (folder / "agent.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    arguments = [
        "--enable-feature=agent",
        f"--config.file={folder / 'agent.yml'}",
        f"--storage.agent.path={folder / 'agent'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return start("prometheus", arguments, folder, port, "/-/ready", stack)


def start_alerting(folder: Path, store: Server, receiver: Receiver, stack: ExitStack) -> None:
    """vmalert over the rules of this repository, and Alertmanager, which tells ``receiver``."""
    hook = f"http://127.0.0.1:{receiver.server_port}/"
    route = {"receiver": "bench", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "5s"}
    config = {"route": route, "receivers": [{"name": "bench", "webhook_configs": [{"url": hook}]}]}
    # JSON is YAML.
    (folder / "alertmanager.yml").write_text(json.dumps(config))
    port = free_port()
    arguments = [
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    alertmanager = start("prometheus-alertmanager", arguments, folder, port, "/-/ready", stack)
    port = free_port()
    rules = [f"-rule={ROOT / 'grafana/prometheus' / name}" for name in ("uaptrace.rules.yml", "uaptrace.alerts.yml")]
    arguments = [
        *rules,
        f"-datasource.url={store.url}",
        f"-remoteRead.url={store.url}",
        f"-remoteWrite.url={store.url}",
        f"-notifier.url={alertmanager.url}",
        f"-httpListenAddr=127.0.0.1:{port}",
    ]
    start("vmalert", arguments, folder, port, "/health", stack)


def ask_panels(store: Server, begin_s: float, end_s: float, interval_s: int) -> list[Panel]:
    """Every expression of the fleet dashboard, over the time measured, as Grafana sends it. ValueError: the store refuses one."""
    step_s = max(interval_s, int((end_s - begin_s) / 100))
    values = queries.macros(range_s=max(int(end_s - begin_s), 1), step_s=step_s, scrape_interval_s=interval_s)
    dashboard = queries.load_all()[DASHBOARD]
    values["instance"] = queries.all_value(dashboard)
    prometheus = Prometheus(store.url)
    panels = []
    for target in queries.targets(dashboard):
        asked = {"query": queries.substitute(target.expr, values)}
        if target.instant:
            path, asked = "/api/v1/query", asked | {"time": f"{end_s}"}
        else:
            path, asked = "/api/v1/query_range", asked | {"start": f"{begin_s}", "end": f"{end_s}", "step": f"{step_s}"}
        slowest = 0.0
        for _ in range(ROUNDS):
            before = time.monotonic()
            answer = prometheus.get(path, asked)
            slowest = max(slowest, time.monotonic() - before)
            if answer["status"] != "success":
                raise ValueError(f"{target}: {answer.get('error')}")
        panels.append(Panel(str(target), slowest, len(answer["data"]["result"])))
    return panels


@dataclass(frozen=True)
class Measured:
    """What a run came to. Bytes and samples are those that the agent sent."""

    nr_hosts: int
    seconds: float
    nr_samples: float
    sent_bytes: float
    stored_bytes: float
    index_bytes: float
    nr_series: float
    store_mb: float
    agent_mb: float
    failed: float
    """Samples that remote write gave up."""
    panels: list[Panel]
    alerts: list[dict[str, Any]]


def measure(nr_hosts: int, seconds: float, interval_s: int) -> Measured:
    """Run it all for so long, and until an alert has come."""
    lists = workloads(None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uaptrace-store-")))
        targets = {}
        for i in range(nr_hosts):
            name = f"host-{i:04}"
            updates = host_updates(failing=True) if name == FAILING else lists[i % len(lists)]
            server = serve(Host(name, updates, i % 32).feed, "127.0.0.1:0")
            stack.callback(server.stop)
            targets[name] = f"127.0.0.1:{server.port}"
        receiver = stack.enter_context(Receiver())
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        stack.callback(receiver.shutdown)
        store = start_store(folder, stack)
        start_alerting(folder, store, receiver, stack)
        begin_s, begin = time.time(), time.monotonic()
        agent = start_agent(folder, targets, store, interval_s, stack)
        while (passed := time.monotonic() - begin) < seconds or (not receiver.alerts and passed < seconds + ALERT_LIMIT_S):
            if sys.stderr.isatty():
                print(f"\r{passed:4.0f} s of {seconds:.0f} ", end="", file=sys.stderr, flush=True)
            time.sleep(1)
        passed = time.monotonic() - begin
        panels = ask_panels(store, begin_s, time.time(), interval_s)
        return Measured(
            nr_hosts=nr_hosts,
            seconds=passed,
            nr_samples=agent.metric("prometheus_remote_storage_samples_total"),
            sent_bytes=agent.metric("prometheus_remote_storage_bytes_total"),
            stored_bytes=store.metric("vm_data_size_bytes", "storage/"),
            index_bytes=store.metric("vm_data_size_bytes", "indexdb"),
            nr_series=store.metric("vm_cache_entries", "storage/hour_metric_ids"),
            store_mb=resident_mb(store.pid),
            agent_mb=resident_mb(agent.pid),
            failed=agent.metric("prometheus_remote_storage_samples_failed_total"),
            panels=panels,
            alerts=list(receiver.alerts),
        )


def rows(found: Measured, interval_s: int) -> list[tuple[str, str]]:
    """Names and values for docs/fleet.md."""
    day = 86_400 / found.seconds / found.nr_hosts
    slowest = max(found.panels, key=lambda panel: panel.seconds)
    fired = sorted({alert["labels"]["alertname"] for alert in found.alerts})
    return [
        ("hosts, scrape interval", f"{found.nr_hosts}, {interval_s} s"),
        ("time measured", f"{found.seconds:.0f} s"),
        ("samples sent, and given up", f"{found.nr_samples:.0f}, {found.failed:.0f}"),
        ("samples of a host and a day", f"{found.nr_samples * day:.0f}"),
        ("remote write, of a host and a day", f"{found.sent_bytes * day / 1e6:.1f} MB"),
        ("series in the store, rules included", f"{found.nr_series:.0f}"),
        ("store: on disk, bytes of a sample", f"{found.stored_bytes / found.nr_samples:.2f}"),
        ("store: index, bytes of a series", f"{found.index_bytes / found.nr_series:.0f}"),
        ("store: resident", f"{found.store_mb:.0f} MB"),
        ("agent: resident", f"{found.agent_mb:.0f} MB"),
        ("fleet dashboard: slowest of its expressions", f"{slowest.seconds:.2f} s ({slowest.name})"),
        ("alerts that came through Alertmanager", ", ".join(fired) or "none"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the agent scrapes")
    parser.add_argument("--interval", type=int, default=30, help="seconds between two scrapes of a host")
    arguments = parser.parse_args()
    try:
        table = rows(measure(arguments.hosts, arguments.seconds, arguments.interval), arguments.interval)
    except (RuntimeError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    width = max(len(name) for name, _ in table)
    print("\n".join(f"| {name:{width}} | {value} |" for name, value in table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
