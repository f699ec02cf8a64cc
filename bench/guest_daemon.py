# SPDX-License-Identifier: Apache-2.0
"""The daemon itself on a live kernel, measured inside a virtual machine: start-up, idle cost, resident size, and the recorded mix.

    kernel/boot -- .venv/bin/python bench/guest_daemon.py
    kernel/boot -- .venv/bin/python bench/guest_daemon.py --mix bench/data/mix.uap

Prints one line of JSON for each part. Times are as slow as the machine is emulated; shares of a core are emulated by emulated.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

UAPTRACE = [sys.executable, "-m", "uaptrace"]
SYS_MEMFD_SECRET = 447


def say(part: str, **figures: Any) -> None:
    print(json.dumps({"part": part, "kernel": platform.release(), **figures}), flush=True)


def python_work_s() -> float:
    """CPU time of a fixed piece of work: tells how much slower an emulated machine is than the one that emulates it."""
    times = []
    for _ in range(3):
        begin = time.process_time()
        table: dict[int, str] = {}
        for i in range(200_000):
            table[i * 7919 % 65536] = str(i)
        times.append(time.process_time() - begin)
    return min(times)


def touch_secret_page() -> None:
    """One page of memfd_secret(), faulted in and freed: one or more events."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_MEMFD_SECRET, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_secret")
    os.ftruncate(fd, mmap.PAGESIZE)
    area = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)
    area[0] = 1
    area.close()


def start_up(folder: Path, which: str) -> None:
    """From the start of the process to the first event and to the baseline, by the kernel's own clock, which records carry.

    ``which``: first (of this boot: it compiles) or again.
    """
    from uaptrace.model.updates import MapReading, Records, Start
    from uaptrace.recording import read_updates

    path = folder / f"{which}.uap"
    done = threading.Event()

    def touch() -> None:
        while not done.wait(0.02):
            touch_secret_page()

    thread = threading.Thread(target=touch)
    thread.start()
    begin_ns = time.monotonic_ns()
    environment = {**os.environ, "UAPTRACE_LOADER_LOG": "1"}
    recorder = subprocess.run(
        [*UAPTRACE, "record", "-o", str(path), "--duration", "3"], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    done.set()
    thread.join()
    if recorder.returncode:
        say("startup", which=which, error=recorder.stderr[-500:])
        return
    found: dict[str, float] = {}
    for update in read_updates(path):
        if isinstance(update, Start):
            found.setdefault("attached_s", (update.time_ns - begin_ns) / 1e9)
        elif isinstance(update, Records) and len(update.batch):
            found.setdefault("first_event_s", (int(update.batch["time_ns"][0]) - begin_ns) / 1e9)
        elif isinstance(update, MapReading) and update.complete:
            found.setdefault("baseline_s", (update.end_ns - begin_ns) / 1e9)
    steps = [line for line in recorder.stderr.splitlines() if line.startswith("loader +")]
    say("startup", which=which, **found, loader=steps)


def process_figures(pid: int) -> tuple[float, int]:
    """CPU time in seconds of the process, to the nanosecond, and how often its threads went to sleep by themselves."""
    # The scheduler's clock of another process: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of include/linux/posix-timers.h.
    seconds = time.clock_gettime((~pid << 3) | 2)
    sleeps = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        sleeps += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return seconds, sleeps


def idle(folder: Path, seconds: float) -> None:
    """``uaptrace serve`` while nothing happens and nobody scrapes."""
    ready = folder / "ready"
    # A ready file in a folder of root's: the daemon stays root there, so it is made in one that nobody owns.
    os.chown(folder, 65534, 65534)
    spawned = time.monotonic()
    server = subprocess.Popen(
        [*UAPTRACE, "serve", "--listen", "127.0.0.1:9970", "--ready-file", str(ready)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        while not ready.exists():
            if server.poll() is not None:
                assert server.stderr is not None
                say("idle", error=server.stderr.read()[-500:])
                return
            time.sleep(0.1)
        ready_s = time.monotonic() - spawned
        time.sleep(10)
        status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        rss_kib = {line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmRSS", "RssFile", "RssAnon"))}
        cpu, sleeps = process_figures(server.pid)
        begin = time.monotonic()
        time.sleep(seconds)
        span = time.monotonic() - begin
        cpu_after, sleeps_after = process_figures(server.pid)
        say(
            "idle",
            ready_s=ready_s,
            cpu_percent=100 * (cpu_after - cpu) / span,
            wakeups_per_s=(sleeps_after - sleeps) / span,
            seconds=span,
            rss_mb=rss_kib["VmRSS"] * 1024 / 1e6,
            rss_file_mb=rss_kib["RssFile"] * 1024 / 1e6,
        )
    finally:
        server.terminate()
        server.wait()


def record_mix(path: Path, seconds: int, nr_pages: int) -> None:
    """The mix that the other benchmarks use: the test kernel's workload, and pages of memfd_secret() in and out."""
    recorder = subprocess.Popen(
        [*UAPTRACE, "record", "-o", str(path), "--overwrite", "--ring-size", "64M"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert recorder.stderr is not None
    said = recorder.stderr.readline()
    if "recording to" not in said:
        say("mix", error=said + recorder.stderr.read()[-500:])
        return
    workload = str(ROOT / "kernel/workload")
    subprocess.run([workload, "mix", "--seconds", str(seconds), "--no-pressure"], check=True, stdout=subprocess.DEVNULL)
    while nr_pages > 0:
        part = min(nr_pages, 10007)
        subprocess.run(
            ["sh", "-c", f"ulimit -l unlimited; exec {workload} secretmem --pages {part}"], check=True, stdout=subprocess.DEVNULL
        )
        nr_pages -= part
    recorder.terminate()
    say("mix", said=recorder.communicate()[1].strip(), size_bytes=path.stat().st_size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mix", type=Path, help="record the mix into this file, and nothing else")
    parser.add_argument("--mix-seconds", type=int, default=40)
    parser.add_argument("--mix-pages", type=int, default=70049)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.mix:
        record_mix(arguments.mix.resolve(), arguments.mix_seconds, arguments.mix_pages)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        say("speed", python_work_s=python_work_s())
        start_up(Path(folder), "first")
        start_up(Path(folder), "again")
        idle(Path(folder), arguments.idle_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
