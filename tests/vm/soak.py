# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: daemon, recorder and clients for as long as is asked, on a host that is never quiet.

``python -m tests.vm.soak OUT.json --seconds N [--cycles N] [--seed N]``

First so many processes do something that all tables of names are full: what is bounded may grow until then, and no more. Then work
and disturbances come in an order of chance. After each the daemon must be exact and equal to the kernel's own dump of its page
tables, or say why not; what it and the recorder take (memory, descriptors, threads) is written down. At the end the daemon is started
and stopped again and again, and what the kernel then holds is compared with what it held before.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.vm.guest import get, kernel_complaints, programs
from tests.vm.guest_session import UAPTRACE, WORKLOAD, say
from tests.vm.lies import healthy, judge, release
from tests.vm.sabotaged_daemon import PORT, URL, Daemon, Truth, until
from tests.vm.sabotages import SABOTAGES
from uaptrace.kernel.procfs import parse_meminfo
from uaptrace.model.names import MAX_NAMES

DISTURBANCES: Final = (
    "consumer stopped and continued",
    "ring full",
    "CPU offline",
    "CPU online again",
    "clock set",
    "module swapped",
    "traced by somebody else too",
)
"""Rows of SABOTAGES after which all goes on."""
VERBS: Final = (("secretmem", "--pages", "1021"), ("modules",), ("bpf", "--times", "31"), ("storm", "--times", "200"))
SAMPLE_S: Final = 30.0
PART_BYTES: Final = 512 << 10
MEMINFO: Final = ("Slab", "VmallocUsed", "Percpu", "KernelStack")


def workload(*arguments: str) -> None:
    subprocess.run([sys.executable, WORKLOAD, *arguments], check=True, stdout=subprocess.DEVNULL)


def process_figures(pid: int) -> dict[str, int]:
    """Resident memory in KiB, descriptors, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def kernel_kib() -> int:
    """What the kernel holds for itself."""
    meminfo = parse_meminfo(Path("/proc/meminfo").read_text())
    return sum(meminfo[name] for name in MEMINFO) >> 10


def connected() -> None:
    command = [UAPTRACE, "top", "--once", "--json", "--interval", "0.5", "--connect", f"127.0.0.1:{PORT}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def scrape() -> None:
    assert get(f"{URL}/metrics")["status"] == 200


class Recorder:
    """``uaptrace record`` with parts that are small, so that it begins many."""

    def __init__(self, folder: Path) -> None:
        ready = folder / "recorder-ready"
        ready.unlink(missing_ok=True)
        command = [UAPTRACE, "record", "-o", str(folder / "soak.uaptrace"), "--overwrite", "--ready-file", str(ready)]
        command += ["--max-size", str(PART_BYTES), "--max-parts", "3"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until(lambda: ready.exists() or self.process.poll() is not None, "the recorder is ready")

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGINT)
        words = self.process.stderr.read() if self.process.stderr else ""
        return {"status": self.process.wait(120), "stderr": words}


def figures(daemon: Daemon, recorder: Recorder) -> dict[str, dict[str, int]]:
    return {"serve": process_figures(daemon.process.pid), "record": process_figures(recorder.process.pid)}


def soak(daemon: Daemon, recorder: Recorder, truth: Truth, chance: random.Random, seconds: float) -> dict[str, Any]:
    """Disturb, work and look until the time is over."""
    rows = {row.name: row for row in SABOTAGES if row.name in DISTURBANCES}
    works: list[Callable[[], object]] = [functools.partial(workload, *verb) for verb in VERBS]
    works += [daemon.work.secretmem, daemon.work.free, daemon.work.module, release, connected, scrape, scrape]
    end, sample_at = time.monotonic() + seconds, 0.0
    samples, verdicts = [], []
    while time.monotonic() < end:
        row = rows[chance.choice(DISTURBANCES)]
        for work in chance.choices(works, k=4):
            work()
        row.do(daemon)
        chance.choice(works)()
        verdict = judge(daemon, truth, "")
        row.undo(daemon)
        verdicts.append({"name": row.name, **{key: verdict[key] for key in ("seconds", "lied_s", "ok", "differing", "reasons")}})
        if time.monotonic() >= sample_at:
            sample_at = time.monotonic() + SAMPLE_S
            daemon.work.free()
            samples.append({"seconds": seconds - (end - time.monotonic()), **figures(daemon, recorder)})
            say(f"  {len(verdicts)} disturbances, {samples[-1]}")
    rows["CPU online again"].do(daemon)
    return {"verdicts": verdicts, "samples": samples}


def cycle(daemon: Daemon, times: int) -> dict[str, Any]:
    """Start and stop. The first ones make the kernel keep what it keeps for the next."""
    held = []
    for number in range(times):
        daemon.start()
        daemon.stop()
        until(lambda: not programs(), "its programs are gone")
        held.append(kernel_kib())
        say(f"  cycle {number + 1}: the kernel holds {held[-1]} KiB")
    return {"kernel_kib": held, **objects()}


def objects() -> dict[str, int]:
    """How many tracing programs, maps and links of BPF the kernel has."""
    return {"programs": len(programs()), "maps": len(listed("map")), "links": len(listed("link"))}


def listed(kind: str) -> list[Any]:
    said: list[Any] = json.loads(subprocess.run(["bpftool", kind, "show", "-j"], capture_output=True, text=True, check=True).stdout)
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    chance = random.Random(args.seed)
    daemon, truth = Daemon("auto", args.out.parent), Truth()
    say("soak")
    daemon.start()
    recorder = Recorder(args.out.parent)
    try:
        healthy(daemon, truth)
        workload("processes", "--times", str(MAX_NAMES))
        say(f"  {MAX_NAMES} processes, {figures(daemon, recorder)}")
        healthy(daemon, truth)
        result = soak(daemon, recorder, truth, chance, args.seconds)
        daemon.work.free()
        result["seconds_to_exact"] = healthy(daemon, truth)
        snapshot = daemon.snapshot()
        result["at_the_end"] = {
            "exact": snapshot.exactness.exact,
            "differing": truth.differing(snapshot),
            "attribute_changes": snapshot.counters.get("cpa"),
            "lost": snapshot.loss.total,
        }
        result["recorder"] = recorder.stop()
    finally:
        daemon.stop()
        recorder.process.kill()
    until(lambda: not programs(), "the programs are gone")
    result["cycles"] = cycle(daemon, args.cycles)
    result["complaints"] = kernel_complaints()
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
