# SPDX-License-Identifier: Apache-2.0
"""Pictures of the dashboards, from recordings of real runs:

    python -m tests.browser.pictures [RECORDING.uaptrace ...] [--seconds N] [--out docs/pictures]

Each recording is served by ``uaptrace serve --replay`` at the speed at which it was made, one Prometheus scrapes all of
them every second, and what Grafana's libraries draw of that is kept. So figures of time, and uaptrace's own CPU time and
memory, are those of real processes. Without arguments: all recordings in tests/data, for as long as the longest lasts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from tests.browser import harness, judge
from tests.browser.harness import Job
from tests.dashboards import prometheus, queries
from tests.dashboards.queries import ROOT

LARGEST_BYTES = 300_000
START_LIMIT_S = 60.0
SETTLE_S = 5.0
"""Scrapes before the first picture's left edge, so that rates have a past."""


@contextmanager
def _served(recording: Path, directory: Path) -> Iterator[str]:
    """Address of an endpoint that plays a recording."""
    address = f"127.0.0.1:{prometheus.free_port()}"
    ready = directory / f"{recording.stem}.ready"
    command = [sys.executable, "-m", "uaptrace", "serve", "--replay", str(recording), "--speed", "1"]
    process = subprocess.Popen([*command, "--listen", address, "--ready-file", str(ready)])
    try:
        limit = time.monotonic() + START_LIMIT_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"uaptrace serve --replay {recording} did not start")
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def seconds_of(recording: Path) -> float:
    """How long a recording lasts."""
    from uaptrace.sources.replay import ReplaySource

    source = ReplaySource(recording, None)
    try:
        return (source.end_ns - source.start_ns) / 1e9
    finally:
        source.close()


def shrink(picture: Path) -> int:
    """Write a PNG again with a palette of 256 colours, which graphs and text do not miss; its size in bytes."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)
    return picture.stat().st_size


def make(recordings: Sequence[Path], seconds: float, out: Path) -> list[str]:
    """Make all pictures; what was wrong with the dashboards they show."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="uaptrace-pictures-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        hosts = {path.stem: stack.enter_context(_served(path, directory)) for path in recordings}
        begin_s = time.time() + SETTLE_S
        server = stack.enter_context(prometheus.running(directory, hosts))
        time.sleep(SETTLE_S + seconds)
        jobs = []
        for uid, dashboard in queries.load_all().items():
            # One host in all but the fleet: the first recording.
            chosen = dashboard if uid == "uaptrace-fleet" else harness.with_hosts(dashboard, [next(iter(hosts))])
            jobs.append(Job(uid, chosen, out / f"{uid.removeprefix('uaptrace-')}.png"))
        outcomes = harness.render(jobs, server, begin_s, begin_s + seconds, scrape_interval_s=1)
    faults = [f"{uid}: {fault}" for uid, outcome in outcomes.items() for fault in judge.faults(uid, outcome)]
    for job in jobs:
        assert job.picture is not None
        size = shrink(job.picture)
        print(f"{job.picture}: {size} bytes")
        if size > LARGEST_BYTES:
            faults.append(f"{job.picture} has {size} bytes, more than {LARGEST_BYTES}")
    return faults


def main() -> int:
    """Command line; exit status 1 if a dashboard shows a fault."""
    parser = argparse.ArgumentParser(description="make the pictures of the dashboards")
    parser.add_argument(
        "recordings", nargs="*", type=Path, help="default: all of tests/data; the first is the one host that is shown alone"
    )
    parser.add_argument("--seconds", type=float, help="how long to scrape; default: as long as the longest recording")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures")
    options = parser.parse_args()
    recordings = options.recordings or sorted((ROOT / "tests/data").glob("*.uaptrace"))
    if not recordings:
        parser.error("no recording: name one, or put some into tests/data")
    faults = make(recordings, options.seconds or max(map(seconds_of, recordings)), options.out)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
