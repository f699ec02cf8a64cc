# SPDX-License-Identifier: Apache-2.0
"""What needs a traceable kernel: boots virtual machines, runs bench/guest_*.py in them, and makes rows of what they print.

Instructions are exact wherever this runs (``-icount``). Times of the daemon are emulated where the machine has no KVM: the rows say so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.rows import Goal, Row, emit, not_measured, row
from bench.startup import start_s

ROOT = Path(__file__).resolve().parents[1]
FAULT_GOAL = Goal(1, at_least=False)
RSS_GOAL = Goal(60, at_least=False)
IDLE_GOAL = Goal(0.2, at_least=False)
EVENT_GOAL = Goal(1, at_least=False)
BASELINE_GOAL = Goal(2, at_least=False)
TIMEOUT_S = 3600
KERNELS = ("patched", "debian-6.1", "debian-6.12")
CALL_GOAL = Goal(800, at_least=False)
SHARE_GOAL = Goal(15, at_least=False)
AUDIT_GOAL = Goal(1, at_least=False)
ENTRY = "uaptrace_page_alloc_entry"
CALLERS = "uaptrace_page_alloc_callers"
DEFAULT = "uaptrace_page_alloc_auto"
NOTES = {
    DEFAULT: "all of uaptrace's hooks, by default",
    "uaptrace_page_alloc_tracepoint": "where asked for: what a raw tracepoint costs, docs/performance.md",
    CALLERS: "for audit: pages of memfd_secret() where they are handed out",
    ENTRY: "where asked for: what a program there costs that does nothing, and the test for the flag",
    "uaptrace_page_alloc_count": "where asked for: what a program there costs that does nothing, and the count",
}
COUNTED = ("--no-kvm", "--cpus", "1", "--qemu-opts=-icount shift=1,sleep=off")
"""Guest time is a count of instructions."""
SECONDS_PER_INSTRUCTION = 2e-9
"""shift=1: an instruction takes 2**1 ns of guest time."""


def boot(kernel: str, program: list[str], *options: str) -> list[dict[str, Any]]:
    """Lines of JSON that the program printed in the guest; raises RuntimeError with the last line of what went wrong."""
    command = [
        str(ROOT / "kernel/boot"), "--kernel", kernel, "--append", "secretmem.enable=1", "--timeout", str(TIMEOUT_S), *options,
        "--", sys.executable, str(ROOT / "bench" / program[0]), *program[1:],
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return lines


def probe_rows(kernel: str, lines: list[dict[str, Any]]) -> list[Row]:
    """Rows of bench/guest_probe_cost.py. Those of the patched kernel have the plain names."""
    suffix = "" if kernel == "patched" else "." + kernel.replace(".", "_")
    rows = []
    for line in lines:
        if "added_instructions" not in line:
            continue
        base, added = line["base_instructions"], line["added_instructions"]
        anonymous = line["work"] == "anonymous"
        what = line["mechanism"] if anonymous else f"{line['mechanism']}.{line['work']}"
        compared = (
            f"nothing attached: {base:.0f} instructions for each page, {line['kernel']}, off runs within {line['off_spread_percent']}%"
        )
        least, most = line["added_min"], line["added_max"]
        rows.append(Row(f"alloc.added_instructions.{what}{suffix}", added, "instructions", least, added, most, compared))
        if anonymous:
            low, middle, high = (round(100 * figure / base, 2) for figure in (least, added, most))
            name = "page_fault.added_instructions_percent" + ("" if what == DEFAULT else f".{what}") + suffix
            # What else could be hooked is measured for the choice; the goal is for uaptrace.
            goal = FAULT_GOAL if what.startswith("uaptrace_") else None
            note = NOTES.get(what, "")
            rows.append(Row(name, middle, "%", low, middle, high, compared, str(goal or ""), goal.met(middle) if goal else None, note))
        rows += event_rows(line, suffix)
    return rows


def event_rows(line: dict[str, Any], suffix: str) -> list[Row]:
    """What our own events add to the call that they are of: rows with the goals of the project, out of one of guest_probe_cost.py's."""
    added, base = line["added_instructions"], line["base_instructions"]
    percent = round(100 * added / base, 2)
    which = line["mechanism"], line["work"]
    rows = []
    if which == (DEFAULT, "memfd_secret"):
        rows.append(row(f"event.secretmem_fault.added_percent{suffix}", [percent], "%", goal=SHARE_GOAL))
        if not line["series"]:
            rows.append(row(f"event.set_direct_map.instructions{suffix}", [added], "instructions", goal=CALL_GOAL))
    if which == (DEFAULT, "memfd_secret_back") and not line["series"]:
        rows.append(row(f"event.set_direct_map_back.instructions{suffix}", [added], "instructions", goal=CALL_GOAL))
    if which == (CALLERS, "anonymous"):
        rows.append(row(f"audit.page_fault.added_percent{suffix}", [percent], "%", goal=AUDIT_GOAL))
    return rows


def start_rows(lines: list[dict[str, Any]], here_s: float, compiling_s: float) -> list[Row]:
    """Rows of bench/guest_daemon.py --start-up.

    ``here_s``: what this machine takes outside emulation up to where the symbols are read. The same instructions take longer in the
    guest by a factor, by which the other steps are divided. ``compiling_s`` is what compiling takes here: it needs no guest.
    """
    rows = [not_measured(f"{line['part']}.error", "", line["error"]) for line in lines if "error" in line]
    cpu_s = {line["which"]: line["cpu_s"] for line in lines if "cpu_s" in line}
    if cpu_s.keys() < {"shipped", "compile"}:
        return rows
    shipped = cpu_s["shipped"]
    slower = shipped["loader: symbols read"] / here_s
    steps = {name: seconds / slower for name, seconds in shipped.items()}
    attached = steps["loader: attached"]
    # The daemon's modules are imported beside the loader.
    baseline = max(attached, steps["daemon: imported"]) + steps["daemon: baseline read"] - steps["daemon: loaded"]
    how = f"instructions in a guest, at the pace at which this machine runs the first {here_s:.3f} s of the same start"
    said = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in steps.items())
    compiled = f"where the programs have to be compiled: the same, and {compiling_s:.2f} s of compiling, timed here"
    for prefix, more_s, note in (("startup", 0.0, f"{how}: {said}"), ("startup.compile", compiling_s, compiled)):
        rows.append(row(f"{prefix}.first_event_s", [attached + more_s], "s", goal=EVENT_GOAL, note=note))
        rows.append(row(f"{prefix}.baseline_s", [baseline + more_s], "s", goal=BASELINE_GOAL))
    for which, prefix in (("shipped", "startup"), ("compile", "startup.compile")):
        millions = cpu_s[which]["loader: attached"] / SECONDS_PER_INSTRUCTION / 1e6
        rows.append(row(f"{prefix}.first_event.instructions", [millions], "million", note="counted by QEMU (-icount)"))
    return rows


def daemon_rows(lines: list[dict[str, Any]]) -> list[Row]:
    """Rows of bench/guest_daemon.py."""
    rows: list[Row] = []

    def one(name: str, value: float, unit: str, goal: Goal | None = None, note: str = "") -> None:
        rows.append(row(name, [value], unit, goal=goal, note=note))

    for line in lines:
        if "error" in line:
            rows.append(not_measured(f"{line['part']}.error", "", line["error"]))
            continue
        one("idle.cpu_percent", line["cpu_percent"], "% of a core", IDLE_GOAL, f"over {line['seconds']:.0f} s in a guest")
        one("idle.wakeups_per_s", line["wakeups_per_s"], "1/s")
        files = f"uaptrace serve on a live kernel; {line['rss_file_mb']:.0f} MB of it files and the ring"
        one("rss.live_mb", line["rss_mb"], "MB", RSS_GOAL, files)
    return rows


def main() -> int:
    kernels = sys.argv[1:] or list(KERNELS)
    try:
        emit(start_rows(boot("patched", ["guest_daemon.py", "--start-up"], *COUNTED), *start_s()))
    except (RuntimeError, OSError) as error:
        names = {"startup.first_event_s": EVENT_GOAL, "startup.baseline_s": BASELINE_GOAL}
        emit(not_measured(name, "", str(error), goal) for name, goal in names.items())
    try:
        emit(daemon_rows(boot("patched", ["guest_daemon.py"])))
    except (RuntimeError, OSError) as error:
        emit([not_measured("idle.cpu_percent", "", str(error), IDLE_GOAL)])
    for kernel in kernels:
        try:
            lines = boot(kernel, ["guest_probe_cost.py"], *COUNTED)
            emit(probe_rows(kernel, lines))
        except (RuntimeError, OSError) as error:
            emit([not_measured(f"page_fault.added_instructions_percent.{kernel}", "%", str(error), FAULT_GOAL)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
