# SPDX-License-Identifier: Apache-2.0
"""Recordings of simulated hosts, for tests of the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.unit.simulated_host import SECOND, SimulatedHost
from uaptrace.model.updates import CacheReading, Start, Update
from uaptrace.recording import RecordingWriter


def host_recording(
    path: Path,
    *,
    hostname: str = "simulated",
    kernel_release: str = "6.1.192",
    boot_id: str = "boot-1",
    wall_time_s: float = 1_750_000_000.0,
    series: bool = True,
    seconds: int = 12,
    pause_s: int = 0,
    seed: int = 1,
    part_s: float | None = None,
) -> Path:
    """What a simulated host does in so many seconds, each followed by ``pause_s`` in which nothing happens; with ``part_s``
    in parts of that length."""
    host = SimulatedHost(series=series, seed=seed)

    def readings() -> Iterator[Update]:
        """What a part begins with."""
        host.now_ns += 1000
        yield host.map_reading()
        if host.series:
            free = np.array(sorted(host.free), np.int64)
            row = host.free_row()
            kernel = (*(0,) * 9, host.cached, 0), (*(0,) * 9, host.released, 0)
            yield CacheReading(host.now_ns, host.now_ns + 10, free, np.zeros(len(free), np.uint8), row, *kernel, True)
        yield host.counters()

    told = RecordingWriter(path, clock=lambda: host.now_ns / SECOND, sync=False, max_age_s=part_s, baseline=readings)
    with contextlib.closing(told) as writer:
        for update in host.begin():
            if isinstance(update, Start):
                names = replace(update.host, hostname=hostname, kernel_release=kernel_release, boot_id=boot_id)
                update = replace(update, host=names, wall_time_s=wall_time_s)
            writer.write(update)
        for second in range(seconds):
            end_ns = host.now_ns + SECOND
            host.allocate(150 * (1 + second % 3), 500 if second % 2 else 501)
            if second % 4 == 2:
                host.load_module()
            host.free_some(150 * (3 if second % 5 == 4 else 1))
            writer.write(host.records())
            host.now_ns = max(end_ns, host.now_ns)
            writer.write(host.counters())
            host.now_ns += pause_s * SECOND
    return path
