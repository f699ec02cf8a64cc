#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a kernel split its direct map for many reasons, in a guest: uaptrace trial debian-6.12 debian-7.3 -- tests/data/split_causes.py

The stacks are then in runs/*/result.json, snapshot.splits.rows; ``--stacks DIR`` prints those of a trial as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
WORKLOAD = TOP / "kernel/workload"
TRACING = Path("/sys/kernel/tracing")
SYS_KEXEC_FILE_LOAD = 320
KEXEC_FILE_UNLOAD = 1
KEXEC_FILE_NO_INITRAMFS = 4


def say(what: str, why: object = "") -> None:
    print(f"{what}: {why or 'done'}", flush=True)


def workload(*words: str) -> None:
    done = subprocess.run([str(WORKLOAD), *words], capture_output=True, text=True, check=False)
    say(words[0], done.stderr.strip())


def kprobe() -> None:
    """Many probes: their copied instructions fill pages."""
    names = [line.split()[0] for line in (TRACING / "available_filter_functions").read_text().splitlines() if line.startswith("vfs_")]
    with (TRACING / "kprobe_events").open("w") as events:
        for name in names[:40]:
            with contextlib.suppress(OSError):
                events.write(f"p:{name} {name}+0\n")
                events.flush()
    enable = TRACING / "events/kprobes/enable"
    enable.write_text("1")
    time.sleep(1)  # optimized by a worker, later
    enable.write_text("0")
    (TRACING / "kprobe_events").write_text("")
    say("kprobe")


def ftrace() -> None:
    """One function only: an emulated 7.3 dies where all are patched at once (Oops: int3)."""
    (TRACING / "set_ftrace_filter").write_text("vfs_read")
    for tracer in ("function", "nop"):
        (TRACING / "current_tracer").write_text(tracer)
    say("ftrace")


def kexec(image: str, flags: int) -> None:
    """Load the kernel that runs as the one to boot next, and let it go."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(image, os.O_RDONLY)
    except OSError as error:
        say("kexec", error)
        return
    line = b"console=ttyS0\0"
    if libc.syscall(SYS_KEXEC_FILE_LOAD, descriptor, -1, len(line), line, KEXEC_FILE_NO_INITRAMFS | flags):
        say("kexec", os.strerror(ctypes.get_errno()))
    else:
        libc.syscall(SYS_KEXEC_FILE_LOAD, -1, -1, 0, None, KEXEC_FILE_UNLOAD | flags)
        say("kexec")


def stacks(trial: Path) -> None:
    """Each stack that split a mapping, with the kernel and the cause that was told."""
    found = []
    for result in sorted(trial.glob("runs/*/result.json")):
        document = json.loads(result.read_text())
        for row in document["snapshot"]["splits"]["rows"]:
            found.append({"kernel": document["kernel_release"], "comm": row["comm"], "cause": row["cause"], "stack": row["stack"]})
    print(json.dumps(found, indent=1))


def main() -> None:
    if sys.argv[1:2] == ["--stacks"]:
        stacks(Path(sys.argv[2]))
        return
    workload("modules", "--times", "3")
    workload("bpf", "--times", "200", "--instructions", "1009", "--keep")
    workload("secretmem", "--pages", "509")
    kprobe()
    ftrace()
    if len(sys.argv) > 1:
        kexec(sys.argv[1], 0)


if __name__ == "__main__":
    main()
