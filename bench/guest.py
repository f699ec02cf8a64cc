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

from bench.guest_daemon import python_work_s
from bench.rows import Goal, Row, emit, not_measured

ROOT = Path(__file__).resolve().parents[1]
FAULT_GOAL = Goal(1, at_least=False)
RSS_GOAL = Goal(60, at_least=False)
IDLE_GOAL = Goal(0.2, at_least=False)
EVENT_GOAL = Goal(1, at_least=False)
BASELINE_GOAL = Goal(2, at_least=False)
TIMEOUT_S = 3600
KERNELS = ("patched", "debian-6.1")


def boot(kernel: str, program: str, *options: str) -> list[dict[str, Any]]:
    """Lines of JSON that the program printed in the guest; raises RuntimeError with the last line of what went wrong."""
    command = [
        str(ROOT / "kernel/boot"), "--kernel", kernel, "--append", "secretmem.enable=1", "--timeout", str(TIMEOUT_S), *options,
        "--", sys.executable, str(ROOT / "bench" / program),
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
            is_default = line["mechanism"] == "uaptrace_page_alloc_auto"
            name = "page_fault.added_instructions_percent" + ("" if is_default else f".{line['mechanism']}") + suffix
            rows.append(
                Row(name, middle, "%", low, middle, high, compared, str(FAULT_GOAL), FAULT_GOAL.met(middle),
                    "all of uaptrace's hooks, by default" if is_default else "")
            )  # fmt: skip
    return rows


def daemon_rows(lines: list[dict[str, Any]]) -> list[Row]:
    """Rows of bench/guest_daemon.py."""
    guest_s = next((line["python_work_s"] for line in lines if line["part"] == "speed"), 0.0)
    slower = guest_s / python_work_s()
    emulated = f"in a guest that is {slower:.1f} times as slow as its host (a loop of Python)" if slower > 1.5 else ""
    rows: list[Row] = []

    def one(name: str, value: float, unit: str, goal: Goal | None = None, note: str = "") -> None:
        short = float(f"{value:.4g}")
        rows.append(
            Row(name, short, unit, short, short, short, goal=str(goal) if goal else "", met=goal.met(value) if goal else None, note=note)
        )

    for line in lines:
        if "error" in line:
            rows.append(not_measured(f"{line['part']}.error", "", line["error"]))
        elif line["part"] == "startup":
            steps = "; ".join(line.get("loader", ()))
            # The first start of a boot compiles, which emulation makes a minute of; the others find the programs compiled.
            prefix, what = ("startup", "first start of the boot") if line["which"] == "first" else ("startup.again", "any later start")
            note = "; ".join(part for part in (what, emulated, steps) if part)
            if emulated:
                note += f"; divided by that, {line['first_event_s'] / slower:.2f} s and {line['baseline_s'] / slower:.2f} s"
            one(f"{prefix}.first_event_s", line["first_event_s"], "s", EVENT_GOAL, note)
            one(f"{prefix}.baseline_s", line["baseline_s"], "s", BASELINE_GOAL, note)
        elif line["part"] == "idle":
            if "ready_s" in line:
                one(
                    "startup.serve_ready_s",
                    line["ready_s"],
                    "s",
                    note=f"uaptrace serve: exact baseline, and the endpoint answers; {emulated}",
                )
            one("idle.cpu_percent", line["cpu_percent"], "% of a core", IDLE_GOAL, f"over {line['seconds']:.0f} s {emulated}".strip())
            one("idle.wakeups_per_s", line["wakeups_per_s"], "1/s")
            one(
                "rss.live_mb",
                line["rss_mb"],
                "MB",
                RSS_GOAL,
                f"uaptrace serve on a live kernel; {line['rss_file_mb']:.0f} MB of it files and the ring",
            )
    return rows


def main() -> int:
    kernels = sys.argv[1:] or list(KERNELS)
    try:
        emit(daemon_rows(boot("patched", "guest_daemon.py")))
    except (RuntimeError, OSError) as error:
        names = {"startup.first_event_s": EVENT_GOAL, "startup.baseline_s": BASELINE_GOAL, "idle.cpu_percent": IDLE_GOAL}
        emit(not_measured(name, "", str(error), goal) for name, goal in names.items())
    for kernel in kernels:
        try:
            lines = boot(kernel, "guest_probe_cost.py", "--no-kvm", "--cpus", "1", "--qemu-opts=-icount shift=1,sleep=off")
            emit(probe_rows(kernel, lines))
        except (RuntimeError, OSError) as error:
            emit([not_measured(f"page_fault.added_instructions_percent.{kernel}", "%", str(error), FAULT_GOAL)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
