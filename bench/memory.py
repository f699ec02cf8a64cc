# SPDX-License-Identifier: Apache-2.0
"""Resident size of what the daemon is made of, without its privileged parts: reader, model, session, endpoint, in a process of its own.

The ring is a real one that another process fills, as the loader's programs would; that process has bcc, the daemon has not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

from bench import bpf_run, worst
from bench.rows import Goal, Row, emit, not_measured, row
from uaptrace.loader.parent import DEFAULT_RING_BYTES

START_GOAL = Goal(60, at_least=False)
FLAT = 1.1
"""Flat: not more than a tenth above the start, whatever the number of events."""
PERCENTS = (1, 10, 100)
TEN_MILLION = 10_000_000


def _run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A child without what this machine's Python imports at its start by itself (.pth files, an editable installation's finder)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-S", "-m", "bench.memory_child", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def bare_mb(*options: str) -> float:
    """Resident size of a Python that does nothing."""
    code = "print(next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS:')) * 1024 / 1e6)"
    return float(subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure_events() -> list[Row]:
    from bench.ring_fill import RecordRing

    ring = RecordRing(DEFAULT_RING_BYTES)
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
    ring_mb = DEFAULT_RING_BYTES / 1e6
    hooks_mb = bare_mb() - bare_mb("-S")
    note = f"of which {ring_mb:.0f} MB are the ring, shared with the kernel; without what this machine's Python imports at its start by "
    note += f"itself ({hooks_mb:.1f} MB)"
    return [
        row(
            "rss.start_mb",
            [start],
            "MB",
            goal=START_GOAL,
            note=note,
        ),
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
    if why := bpf_run.why_not():
        emit([not_measured("rss.start_mb", "MB", why, START_GOAL), not_measured("rss.after_10m_events_mb", "MB", why)])
    else:
        emit(measure_events())
    emit(measure_layouts())
    return 0


if __name__ == "__main__":
    sys.exit(main())
