# SPDX-License-Identifier: Apache-2.0
"""Resident size of what the daemon is made of, without its privileged parts: reader, model, session, endpoint, in a process of its own.

The ring is a real one that another process fills, as the loader's programs would; that process has bcc, the daemon has not.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

from bench import bpf_run, worst
from bench.rows import Goal, Row, emit, not_measured, row

RING_BYTES = 16 << 20
START_GOAL = Goal(60, at_least=False)
FLAT = 1.1
"""Flat: not more than a tenth above the start, whatever the number of events."""
PERCENTS = (1, 10, 100)
TEN_MILLION = 10_000_000


def rss_mb(field: str = "VmRSS") -> float:
    """Resident size of this process in MB (10**6 bytes); ``VmHWM``: the most it ever was."""
    with open("/proc/self/status") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith(field + ":"))
    return kib * 1024 / 1e6


class Daemon:
    """Everything that ``uaptrace serve`` keeps in memory, with a state fed from the given ring."""

    def __init__(self, ring_fd: int | None, nr_regions: int, nr_split: int) -> None:
        import uaptrace.commands.serve
        import uaptrace.session  # noqa: F401
        from uaptrace.exporter.server import serve
        from uaptrace.model.state import KernelState
        from uaptrace.sources.ring import MappedRing

        self.ring: Any = MappedRing(ring_fd, RING_BYTES) if ring_fd is not None else None
        self.state = KernelState()
        self.state.update(worst.start())
        self.state.update(worst.reading(nr_regions, nr_split))
        gc.collect()
        self.server = serve(lambda: self.state.snapshot(1, 0.0), "127.0.0.1:0")

    def drain(self) -> int:
        from uaptrace.model.updates import Records

        taken = 0
        while len(batch := self.ring.drain(1 << 20)):
            taken += len(batch)
            self.state.update(Records(batch))
        self.state.snapshot(1, 0.0)
        return taken


def child(case: str, argument: str) -> None:
    """One case; prints figures, one line for each step."""
    if case == "events":
        # 64 GiB, 64 regions of it split: what the events below change.
        daemon = Daemon(int(argument), 32768, 32768 // 512)
        print(0, rss_mb(), rss_mb("VmHWM"), flush=True)
        for _ in sys.stdin:
            print(daemon.drain(), rss_mb(), rss_mb("VmHWM"), flush=True)
    elif case == "layout":
        nr_split = worst.REGIONS_PER_TIB * int(argument) // 100
        daemon = Daemon(None, worst.REGIONS_PER_TIB, nr_split)
        daemon.state.snapshot(1, 0.0)
        print(nr_split, rss_mb(), rss_mb("VmHWM"), flush=True)
    else:
        raise SystemExit(f"no such case: {case}")
    os._exit(0)


def _run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench.memory", *arguments], stdout=subprocess.PIPE, text=True, **options)


def measure_events() -> list[Row]:
    from bench.ring_fill import RecordRing

    ring = RecordRing(RING_BYTES)
    process = _run("events", str(ring.fd), stdin=subprocess.PIPE, pass_fds=[ring.fd])
    assert process.stdin is not None
    assert process.stdout is not None
    start = float(process.stdout.readline().split()[1])
    records = worst.churn(ring.capacity // 2 * 2)
    taken, sizes = 0, []
    while taken < TEN_MILLION:
        ring.put(records)
        process.stdin.write("drain\n")
        process.stdin.flush()
        count, size, _ = process.stdout.readline().split()
        assert int(count) == len(records)
        taken += int(count)
        sizes.append(float(size))
    process.communicate()
    ring_mb = RING_BYTES / 1e6
    return [
        row("rss.start_mb", [start], "MB", goal=START_GOAL, note=f"of which {ring_mb:.0f} MB are the ring, shared with the kernel"),
        row(
            "rss.after_10m_events_mb",
            [sizes[-1]],
            "MB",
            goal=Goal(round(FLAT * start, 1), at_least=False),
            note=f"{taken} events; after the first {len(records)}: {sizes[0]:.1f} MB, half way: {sizes[len(sizes) // 2]:.1f} MB",
        ),
    ]


def measure_layouts() -> list[Row]:
    rows = []
    sizes = {}
    for percent in PERCENTS:
        process = _run("layout", str(percent))
        nr_split, size, most = (float(word) for word in process.communicate()[0].split())
        sizes[int(nr_split)] = size
        rows.append(
            row(f"rss.1tib.{percent}_percent_mb", [size], "MB", note=f"{nr_split:.0f} regions split; most while it was read: {most:.0f} MB")
        )
    points = sorted(sizes.items())
    for (fewer, small), (more, large) in pairwise(points):
        rows.append(row(f"linear.regions.{fewer}_to_{more}.bytes_per_region", [(large - small) * 1e6 / (more - fewer)], "bytes"))
    return rows


def main() -> int:
    if len(sys.argv) == 3:
        child(sys.argv[1], sys.argv[2])
    if why := bpf_run.why_not():
        emit([not_measured("rss.start_mb", "MB", why, START_GOAL), not_measured("rss.after_10m_events_mb", "MB", why)])
    else:
        emit(measure_events())
    emit(measure_layouts())
    return 0


if __name__ == "__main__":
    sys.exit(main())
