# SPDX-License-Identifier: Apache-2.0
"""A scrape of the largest state over HTTP: 1 TiB with every region split, as many groups of splits and processes as are kept.

Before each scrape 4096 events change the state, so nothing is answered from what was made before.
"""

from __future__ import annotations

import http.client
import statistics
import sys
import threading
import time

import numpy as np

from bench import worst
from bench.rows import Goal, Row, emit, row
from uaptrace.exporter.server import serve
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Records

SCRAPES = 300
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
    change = worst.splits(4096, seed=2)
    lock = threading.Lock()
    snapshot_s: list[float] = []
    clock = 10**9

    def feed() -> Snapshot:
        with lock:
            begin = time.thread_time()
            snapshot = state.snapshot(clock, 0.0)
            snapshot_s.append(time.thread_time() - begin)
            return snapshot

    wall_ms, cpu_ms, size = [], [], 0
    with serve(feed, "127.0.0.1:0") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(SCRAPES + 5):
            clock += 10**6
            change["time_ns"] = clock
            state.update(Records(change))
            begin, cpu = time.perf_counter(), time.process_time()
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            body = response.read()
            wall_ms.append((time.perf_counter() - begin) * 1e3)
            cpu_ms.append((time.process_time() - cpu) * 1e3)
            assert response.status == 200
            size = len(body)
        connection.close()
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
            f"{SCRAPES} scrapes on one connection, client and server in one process",
            str(GOAL),
            GOAL.met(p99),
            "wall time of a shared machine: its load is in it; the next rows are CPU time",
        ),
        row("scrape.cpu_ms", cpu_ms, "ms", note="CPU time of client and server together"),
        row("scrape.snapshot_cpu_ms", [s * 1e3 for s in snapshot_s], "ms", note="the only part that the consumer waits for"),
        row("scrape.bytes", [size], "bytes"),
    ]


def main() -> int:
    emit(measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
