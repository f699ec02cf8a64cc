# SPDX-License-Identifier: Apache-2.0
"""An archive of 10,000 host-days: bytes of a row, and what a report of all of them takes.

The rows are those of the recordings in tests/data, with other hosts, days, kernels and counts: 100 hosts, 100 days, 40 stacks and 25
samples each. The report is the command, in a process of its own, on the processors of this machine.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.rows import Goal, Row, emit, row
from uaptrace.archive.answer import HOUR_S
from uaptrace.archive.days import HostDay, day_rows
from uaptrace.archive.store import Archive

DATA = Path(__file__).parents[1] / "tests/data"
HOSTS, DAYS, STACKS, SAMPLES = 100, 100, 40, 25
ROUNDS = 3
CAUSES = ("secretmem", "module", "bpf", "ftrace", "kprobe", "execmem")
GOALS = {"archive.report_s": Goal(10, at_least=False), "archive.report_rss_mb": Goal(500, at_least=False)}


def synthetic(base: HostDay, host: int, day: int, chance: random.Random) -> HostDay:
    """A day of a host of ours, in the columns of a recorded one."""
    when = date(2026, 1, 1) + timedelta(day)
    begin = int(datetime(when.year, when.month, when.day, tzinfo=UTC).timestamp()) * 1_000_000
    columns: dict[str, Any] = dict(base.columns)
    size, large = 256 << 30, (256 << 30) - (day << 25)
    stack, sample = columns["stacks"][0], columns["samples"][-1]
    columns |= {
        "id": f"{host:x}-{day:x}",
        "hostname": f"host{host:04}",
        "kernel_release": "6.1.0-56-amd64" if day < DAYS * (0.3 + 0.4 * host / HOSTS) else "6.12.9-amd64",
        "begin_time": begin,
        "end_time": begin + 24 * HOUR_S * 1_000_000,
        "watched_s": 24.0 * HOUR_S,
        "direct_map_bytes": size,
        "large_begin_bytes": large,
        "large_end_bytes": large - (chance.randrange(200) << 21),
        "causes": [{"level": "2m", "cause": cause, "splits": chance.randrange(1, 200)} for cause in CAUSES],
        "stacks": [
            stack
            | {
                "cause": CAUSES[i % len(CAUSES)],
                "comm": f"process{i % 17}",
                "stack": f"{stack['stack']};function_{i}",
                "splits": chance.randrange(1, 30),
            }
            for i in range(STACKS)
        ],
        "samples": [sample | {"time": begin + i * HOUR_S * 1_000_000} for i in range(SAMPLES)],
    }
    return HostDay(when, columns["hostname"], columns["id"], columns)


def report(place: Path) -> tuple[float, float]:
    """Seconds, and resident MB at the most, of a report as text."""
    begin_s = time.perf_counter()
    command = [sys.executable, "-m", "uaptrace", "archive", "report", str(place)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - begin_s, usage.ru_maxrss * 1024 / 1e6


def measure() -> list[Row]:
    bases = [day_rows(DATA / f"{name}.uaptrace")[-1] for name in ("debian-6.1", "patched-6.1")]
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(folder)
        sizes = [archive.add(synthetic(bases[host % len(bases)], host, day, chance)) for host in range(HOSTS) for day in range(DAYS)]
        taken = [report(Path(folder)) for _ in range(ROUNDS)]
    note = f"{HOSTS * DAYS:,} host-days"
    return [
        row("archive.bytes_per_row", [sum(sizes) / len(sizes)], "bytes", note=note),
        row("archive.report_s", [seconds for seconds, _ in taken], "s", goal=GOALS["archive.report_s"], note=note),
        row("archive.report_rss_mb", [rss for _, rss in taken], "MB", goal=GOALS["archive.report_rss_mb"], note=note),
    ]


if __name__ == "__main__":
    emit(measure())
