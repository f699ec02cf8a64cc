# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: sabotages a daemon in every way of a table, and writes down whether it ever lied.

``python -m tests.vm.lies OUT.json --mechanism fentry|kprobe``

After each sabotage the kernel changes its direct map, and the daemon is asked until its state is labelled as the row wants, or is exact
and equals the kernel's own dump of its page tables. While it says exact and differs, it lies: how long it did is written down.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.children import children
from tests.vm.guest import get, kernel_complaints, programs
from tests.vm.guest_session import TOP, say
from tests.vm.sabotaged_daemon import LIMIT_S, PORT, URL, Daemon, Truth, until
from tests.vm.sabotages import SABOTAGES, Sabotage


def judge(daemon: Daemon, truth: Truth, label: str) -> dict[str, Any]:
    """Ask until the state is labelled as it should be, or exact and true. ``lied_s``: how long it said exact and was not."""
    begin = time.monotonic()
    lied_s = 0.0
    while True:
        asked = time.monotonic() - begin
        snapshot = daemon.snapshot()
        reasons = list(snapshot.exactness.reasons)
        differing = 0
        if snapshot.exactness.exact:
            differing = truth.differing(snapshot)
            lied_s = asked if differing else lied_s
        matched = any(re.search(label, reason) for reason in reasons) if label else bool(reasons) or not differing
        if matched or asked > LIMIT_S:
            return {"seconds": asked, "lied_s": lied_s, "ok": matched, "reasons": reasons, "differing": differing}


def healthy(daemon: Daemon, truth: Truth) -> float:
    """Seconds until it is exact and true, while every kind of call is made."""
    begin = time.monotonic()

    def is_so() -> bool:
        snapshot = daemon.snapshot()
        if snapshot.exactness.exact:
            return truth.differing(snapshot) == 0
        daemon.work.free()
        daemon.work.secretmem()
        daemon.work.module()
        release()
        return False

    until(is_so, f"exact again: {daemon.snapshot().exactness.reasons}")
    return time.monotonic() - begin


def release() -> None:
    """The cache gives back what is free: pages come back to the direct map."""
    for scan in Path("/sys/kernel/debug/shrinker").glob("mm-unmapped-alloc-*/scan"):
        scan.write_text("0 0 100000\n")


def one(sabotage: Sabotage, daemon: Daemon, truth: Truth) -> dict[str, Any]:
    say(f"{daemon.mechanism}: {sabotage.name}")
    daemon.note = ""
    rereads = daemon.snapshot().exactness.nr_rereads
    # The cache is empty, so that the work below cannot go without a change of the map.
    release()
    healthy(daemon, truth)
    try:
        sabotage.do(daemon)
        note = daemon.note
        daemon.work.secretmem()
        daemon.work.module()
        verdict = judge(daemon, truth, sabotage.label)
        verdict["readyz"] = get(f"{URL}/readyz")
        verdict["metrics"] = silence_in(get(f"{URL}/metrics")["body"])
    finally:
        sabotage.undo(daemon)
    verdict["seconds_to_exact"] = None if sabotage.lasts else healthy(daemon, truth)
    verdict["rereads"] = daemon.snapshot().exactness.nr_rereads - rereads
    say(f"  {verdict['seconds']:.1f} s: {verdict['reasons'] or 'exact'} {note}; exact again after {verdict['seconds_to_exact']} s")
    return {"name": sabotage.name, "mechanism": daemon.mechanism, "label": sabotage.label, "note": note, **verdict}


def silence_in(metrics: str) -> dict[str, float]:
    """Reasons for which hooks are silent, with the numbers of silences found."""
    return {name: float(number) for name, number in re.findall(r"^(uaptrace_(?:hooks_silent|silences_total)\S+) (\S+)$", metrics, re.M)}


# ---- those after which nobody can be asked ----


def ends(daemon: Daemon) -> list[dict[str, Any]]:
    """Each ends the daemon: nothing stays attached, nobody is answered, and it says why where it still can."""
    found = []
    for name, number in (("loop broken", signal.SIGUSR2), ("daemon killed", signal.SIGKILL)):
        say(f"{daemon.mechanism}: {name}")
        begin = time.monotonic()
        daemon.signal(number)
        ended = daemon.ended()
        seconds = time.monotonic() - begin
        until(lambda: not programs(), "its programs are gone")
        found.append({"name": name, "seconds": seconds, **ended, "answers": answers()})
        if number is signal.SIGUSR2:
            daemon.start()
    return [*found, loader_killed(daemon)]


def answers() -> bool:
    with contextlib.suppress(OSError):
        return bool(get(f"{URL}/healthz"))
    return False


def loader_killed(daemon: Daemon) -> dict[str, Any]:
    """The child that loads dies in the middle. Without a ready file it is the only one."""
    say(f"{daemon.mechanism}: loader killed")
    with subprocess.Popen(daemon.command(port=PORT + 1), cwd=TOP, stderr=subprocess.PIPE, text=True) as process:
        os.kill(until(lambda: children(process.pid), "the loader has begun")[0], signal.SIGKILL)
        words = process.stderr.read() if process.stderr else ""
        status = process.wait(LIMIT_S)
    until(lambda: not programs(), "its programs are gone")
    return {"name": "loader killed", "status": status, "stderr": words, "answers": False}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--mechanism", action="append", required=True)
    parser.add_argument("--only", help="rows whose name has this in it")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result: dict[str, Any] = {"rows": [], "ends": []}
    for mechanism in args.mechanism:
        daemon = Daemon(mechanism, args.out.parent)
        daemon.start()
        try:
            truth = Truth()
            healthy(daemon, truth)
            for sabotage in SABOTAGES:
                if mechanism in sabotage.mechanisms and (args.only or "") in sabotage.name:
                    result["rows"].append(one(sabotage, daemon, truth))
                    args.out.write_text(json.dumps(result))
            result["ends"] += [{"mechanism": mechanism, **end} for end in ends(daemon)]
        finally:
            daemon.stop()
    result["complaints"] = kernel_complaints()
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
