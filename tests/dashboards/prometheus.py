# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus for tests: started on a free port with a configuration or with a history, and asked over HTTP."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

START_LIMIT_S = 60.0
_PACKAGES: Final = {"promtool": "prometheus", "vmalert": "victoria-metrics"}
"""Debian's, where they are not called as the program."""


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, params: Mapping[str, str | Sequence[str]] | None = None) -> dict[str, Any]:
        """Answer of the API; errors of the query are in it (``status``, ``error``)."""
        query = urllib.parse.urlencode(params or {}, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=60) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        return answer

    def label_values(self, label: str, selector: str, begin_s: float, end_s: float) -> list[str]:
        """Values of a label on the series that match."""
        params = {"match[]": selector, "start": f"{begin_s}", "end": f"{end_s}"}
        values: list[str] = self.get(f"/api/v1/label/{label}/values", params)["data"]
        return values


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def find(program: str) -> str:
    """Path of a program; an error that says which package has it."""
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed: apt-get install {_PACKAGES.get(program, program)}")
    return path


@contextmanager
def running(directory: Path, scrape: Mapping[str, str] | None = None, scrape_interval_s: int = 1) -> Iterator[Prometheus]:
    """A Prometheus over ``directory/data`` that scrapes ``scrape`` (address by instance label), until the block ends."""
    port = free_port()
    config = {
        "global": {"scrape_interval": f"{scrape_interval_s}s", "scrape_timeout": f"{scrape_interval_s}s"},
        "scrape_configs": [
            {
                "job_name": "uaptrace",
                "static_configs": [
                    {"targets": [address], "labels": {"instance": instance}} for instance, address in (scrape or {}).items()
                ],
            }
        ],
    }
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps(config))
    arguments = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        # A recording may be years old.
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with started("prometheus", arguments, directory, f"{url}/-/ready"):
        yield Prometheus(url)


@contextmanager
def started(program: str, arguments: Sequence[str], directory: Path, ready: str) -> Iterator[int]:
    """The PID of a program that runs until the block ends, once the address ``ready`` answers; its log is in the directory.

    RuntimeError where it does not start, FileNotFoundError where it is not installed.
    """
    log = directory / f"{program}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([find(program), *arguments], stdout=out, stderr=subprocess.STDOUT, cwd=directory)
    try:
        _wait_ready(program, ready, process, log)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _wait_ready(program: str, ready: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(ready, timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{program} did not start:\n{log.read_text()[-2000:]}")


class _Collected(Collector):
    """What the text format is made of."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def backfill(directory: Path, scrapes: Iterable[tuple[str, float, Iterable[Metric]]]) -> None:
    """Write a history into ``directory/data``: what a scrape of ``instance`` at ``time_s`` would have got, in the order of time.

    Goes through ``promtool tsdb create-blocks-from openmetrics``.
    """
    history: dict[str, Metric] = {}
    for instance, time_s, families in scrapes:
        for family in families:
            merged = history.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, "instance": instance, "job": "uaptrace"}
                merged.samples.append(sample._replace(labels=labels, timestamp=time_s))
    source = directory / "history.om"
    source.write_bytes(generate_latest(_Collected(history.values())))  # type: ignore[no-untyped-call]
    subprocess.run(
        [find("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", str(source), str(directory / "data")],
        check=True,
        capture_output=True,
    )
    source.unlink()
