# SPDX-License-Identifier: Apache-2.0
"""A scrape of the largest state over HTTP: 1 TiB with every region split, as many groups of splits and processes as are kept.

Before each scrape 4096 events change the state, so nothing is answered from what was made before. The client is a process of its
own, as Prometheus is.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time

import numpy as np

from bench import worst
from bench.rows import Goal, Row, emit, row
from uaptrace.commands.tracing import settle_memory
from uaptrace.exporter.server import serve
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Records

SCRAPES = 300
CLIENT = """
import http.client, sys, time
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for _ in sys.stdin:
    begin = time.perf_counter()
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    body = response.read()
    print(response.status, time.perf_counter() - begin, len(body), flush=True)
"""
GOAL = Goal(10, at_least=False)


def largest_state() -> KernelState:
    state = KernelState()
    state.update(worst.start())
    state.update(worst.reading(worst.REGIONS_PER_TIB, 0))
    records = worst.splits(1 << 19)
    records["tid"] = records["tgid"] = 1000 + np.arange(len(records)) // 2 % 5000
    state.update(Records(records))
    state.update(worst.reading(worst.REGIONS_PER_TIB, worst.REGIONS_PER_TIB))
    return state


def measure() -> list[Row]:
    state = largest_state()
    settle_memory()
    change = worst.splits(4096, seed=2)
    lock = threading.Lock()
    snapshot_s: list[float] = []
    clock = 10**9

    def feed() -> Snapshot:
        with lock:
            begin = time.thread_time()
            snapshot = state.snapshot(clock, 0.0, rows=False)  # as Session.fresh() does for a scrape
            snapshot_s.append(time.thread_time() - begin)
            return snapshot

    wall_ms, cpu_ms, size = [], [], 0
    with serve(feed, "127.0.0.1:0") as server:
        command = [sys.executable, "-c", CLIENT, str(server.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            for _ in range(SCRAPES + 5):
                clock += 10**6
                change["time_ns"] = clock
                state.update(Records(change))
                cpu = time.process_time()
                client.stdin.write("now\n")
                client.stdin.flush()
                status, seconds, nr_bytes = client.stdout.readline().split()
                cpu_ms.append((time.process_time() - cpu) * 1e3)
                wall_ms.append(float(seconds) * 1e3)
                assert status == "200"
                size = int(nr_bytes)
            client.stdin.close()
    wall_ms, cpu_ms, snapshot_s = wall_ms[5:], cpu_ms[5:], snapshot_s[5:]
    p99 = float(np.quantile(wall_ms, 0.99))
    return [
        Row(
            "scrape.p99_ms",
            round(p99, 2),
            "ms",
            round(min(wall_ms), 2),
            round(statistics.median(wall_ms), 2),
            round(max(wall_ms), 2),
            f"{SCRAPES} scrapes on one connection, from another process",
            str(GOAL),
            GOAL.met(p99),
            "wall time of a shared machine: its load is in it; the next rows are CPU time",
        ),
        row("scrape.cpu_ms", cpu_ms, "ms", note="CPU time of the daemon, all of it"),
        row("scrape.snapshot_cpu_ms", [s * 1e3 for s in snapshot_s], "ms", note="the only part that the consumer waits for"),
        row("scrape.bytes", [size], "bytes"),
    ]


def main() -> int:
    emit(measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
