# SPDX-License-Identifier: Apache-2.0
"""Pictures of the dashboards, from real runs:

    python -m tests.browser.pictures [RECORDING ...] [--host NAME] [--seconds N] [--out docs/pictures]
    python -m tests.browser.pictures --prometheus URL --begin T --end T [--host INSTANCE] [--scrape-interval N]

With recordings, each is served by ``uaptrace serve --replay`` at the speed at which it was made, one Prometheus scrapes
all of them every second, and what Grafana's libraries draw of that is kept. uaptrace's own CPU time, memory and scrape
time are then those of the process that replays, which is larger than the daemon. For those of a daemon, let a Prometheus scrape
it while it traces, and take the second form while that Prometheus still runs (times in seconds since 1970).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import imagequant
from PIL import Image

from tests.browser import harness, judge
from tests.browser.harness import Job
from tests.dashboards import prometheus, queries
from tests.dashboards.prometheus import Prometheus
from tests.dashboards.queries import ROOT

LARGEST_BYTES = 300_000
START_LIMIT_S = 120.0


@contextmanager
def _served(addresses: Mapping[Path, str], directory: Path) -> Iterator[None]:
    """Endpoints that play recordings, all of them from about the moment at which the block begins."""
    processes = {}
    try:
        for recording, address in addresses.items():
            command = [sys.executable, "-m", "uaptrace", "serve", "--replay", str(recording), "--speed", "1"]
            ready = directory / f"{recording.stem}.ready"
            processes[ready] = subprocess.Popen([*command, "--listen", address, "--ready-file", str(ready)])
        limit = time.monotonic() + START_LIMIT_S
        while not all(ready.exists() for ready in processes):
            if time.monotonic() > limit or any(process.poll() is not None for process in processes.values()):
                raise RuntimeError(f"uaptrace serve --replay did not start for all of {[str(path) for path in addresses]}")
            time.sleep(0.05)
        yield
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(30)


def seconds_of(recording: Path) -> float:
    """How long a recording lasts."""
    from uaptrace.session.replay import ReplaySource

    source = ReplaySource(recording, None)
    try:
        return (source.end_ns - source.start_ns) / 1e9
    finally:
        source.close()


def has_series(recording: Path) -> bool:
    """Whether its kernel has the unmapped cache: what is shown of another lacks that dashboard's figures."""
    from uaptrace.session.replay import ReplaySource

    source = ReplaySource(recording, None, budget_s=None)
    try:
        snapshot = source.latest()
        return snapshot is not None and snapshot.host.has_series
    finally:
        source.close()


def shrink(picture: Path) -> int:
    """Write a PNG again with a palette of 256 colours, which graphs and text do not miss; its size in bytes."""
    with Image.open(picture) as image:
        small = imagequant.quantize_pil_image(image.convert("RGBA"), dithering_level=0.0, max_colors=256)
    small.save(picture, optimize=True)
    return picture.stat().st_size


def draw(server: Prometheus, begin_s: float, end_s: float, scrape_interval_s: int, host: str, out: Path) -> list[str]:
    """Pictures of all dashboards in ``out``; what was wrong with them. ``host``: the one that all but the fleet show."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for uid, dashboard in queries.load_all().items():
        chosen = dashboard if uid == "uaptrace-fleet" else harness.with_hosts(dashboard, [host])
        jobs.append(Job(uid, chosen, out / f"dashboard-{uid.removeprefix('uaptrace-')}.png"))
    outcomes = harness.render(jobs, server, begin_s, end_s, scrape_interval_s)
    faults = [f"{uid}: {fault}" for uid, outcome in outcomes.items() for fault in judge.faults(uid, outcome)]
    for job in jobs:
        assert job.picture is not None
        size = shrink(job.picture)
        print(f"{job.picture}: {size} bytes")
        if size > LARGEST_BYTES:
            faults.append(f"{job.picture} has {size} bytes, more than {LARGEST_BYTES}")
    return faults


def replay(recordings: Sequence[Path], seconds: float, host: str, out: Path) -> list[str]:
    """Pictures from recordings, each a host with the name of its file."""
    with tempfile.TemporaryDirectory(prefix="uaptrace-pictures-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        addresses = {path: f"127.0.0.1:{prometheus.free_port()}" for path in recordings}
        # Prometheus is there first, so that it sees the recordings from their beginning.
        scraped = {path.stem: address for path, address in addresses.items()}
        server = stack.enter_context(prometheus.running(directory, scraped))
        stack.enter_context(_served(addresses, directory))
        begin_s = time.time()
        time.sleep(seconds)
        return draw(server, begin_s, time.time(), 1, host, out)


def main() -> int:
    """Command line; exit status 1 if a dashboard shows a fault."""
    parser = argparse.ArgumentParser(description="make the pictures of the dashboards")
    parser.add_argument("recordings", nargs="*", type=Path, help="default: all of tests/data")
    parser.add_argument("--seconds", type=float, help="how long to scrape; default: as long as the longest recording")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures")
    parser.add_argument("--prometheus", metavar="URL", help="take what this Prometheus has instead of recordings")
    parser.add_argument("--begin", type=float, help="with --prometheus: from, in seconds since 1970")
    parser.add_argument("--end", type=float, help="with --prometheus: to")
    parser.add_argument("--scrape-interval", type=int, default=1, metavar="SECONDS", help="with --prometheus: as it scrapes")
    parser.add_argument(
        "--host",
        metavar="INSTANCE",
        help="the one host that is shown alone; default: the first recording of a kernel with the series, without its suffix",
    )
    options = parser.parse_args()
    if options.prometheus:
        if options.begin is None or options.end is None or not options.host:
            parser.error("--prometheus needs --begin, --end and --host")
        server = Prometheus(options.prometheus.rstrip("/"))
        faults = draw(server, options.begin, options.end, options.scrape_interval, options.host, options.out)
    else:
        recordings = options.recordings or queries.RECORDINGS
        if not recordings:
            parser.error("no recording: name one, or put some into tests/data")
        host = options.host or next(filter(has_series, recordings), recordings[0]).stem
        faults = replay(recordings, options.seconds or max(map(seconds_of, recordings)), host, options.out)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
