# SPDX-License-Identifier: Apache-2.0
"""The daemon itself on a live kernel, measured inside a virtual machine: start-up, idle cost, resident size, and the recorded mix.

    kernel/boot -- .venv/bin/python bench/guest_daemon.py
    kernel/boot --no-kvm --cpus 1 "--qemu-opts=-icount shift=1,sleep=off" -- .venv/bin/python bench/guest_daemon.py --start-up
    kernel/boot -- .venv/bin/python bench/guest_daemon.py --mix bench/data/mix.uap

Prints one line of JSON for each part. Times are as slow as the machine is emulated; shares of a core are emulated by emulated.
The start is measured in CPU time, which with -icount is a count of instructions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

UAPTRACE = [sys.executable, "-m", "uaptrace"]
STEP = re.compile(r"(loader|daemon) \+[\d.]+ s, CPU ([\d.]+) s: (.*)")


def say(part: str, **figures: Any) -> None:
    print(json.dumps({"part": part, "kernel": platform.release(), **figures}), flush=True)


def start_up(which: str) -> None:
    """CPU time up to each step of a start, of the loader with what came before it, and of the daemon.

    ``which``: shipped, or compile: with the programs that come with uaptrace, or with this host's compiler.
    """
    environment = {**os.environ, "UAPTRACE_LOADER_LOG": "1"}
    server = subprocess.Popen(
        [*UAPTRACE, "serve", "--listen", "127.0.0.1:9970", *(["--compile"] if which == "compile" else [])],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if line.startswith("serving on"):
            server.terminate()
    if server.wait() != 0:
        say("startup", which=which, error="".join(said)[-500:])
        return
    steps = (STEP.match(line) for line in said)
    say("startup", which=which, cpu_s={f"{step[1]}: {step[3]}": float(step[2]) for step in steps if step})


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
    parser.add_argument("--start-up", action="store_true", help="measure the start, and nothing else")
    parser.add_argument("--mix", type=Path, help="record the mix into this file, and nothing else")
    parser.add_argument("--mix-seconds", type=int, default=40)
    parser.add_argument("--mix-pages", type=int, default=70049)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.mix:
        record_mix(arguments.mix.resolve(), arguments.mix_seconds, arguments.mix_pages)
        return 0
    if arguments.start_up:
        start_up("shipped")
        start_up("compile")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        idle(Path(folder), arguments.idle_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
