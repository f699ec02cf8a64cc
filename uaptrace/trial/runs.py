# SPDX-License-Identifier: Apache-2.0
"""Makes a trial's runs one after the other, each in a folder of its own, and reads what they left.

A run is a virtual machine, or (``--here``) the kernel that this host runs now.

DIR/plan.json               what the trial is (``Plan.to_json()``)
DIR/runs/2-patched/         second run: order.json, result.json, patched.uaptrace, console, log
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import UsageError
from uaptrace.testhost.host import CHECKOUT
from uaptrace.trial.console import why_it_died
from uaptrace.trial.guest import ORDER, RESULT, Order
from uaptrace.trial.status import TrialStatus
from uaptrace.trial.trial_plan import Kernel, Plan

BOOT: Final = CHECKOUT / "kernel/boot"
WORKLOAD: Final = CHECKOUT / "kernel/workload"
PLAN: Final = "plan.json"
COUNTED: Final = ("--no-kvm", "--qemu-opts=-icount shift=1,sleep=off")
"""Each instruction takes 2 ns of the guest's clock; it needs one processor."""
_BOOT_STATUS: Final = {70: TrialStatus.KERNEL_FAILED, 71: TrialStatus.KERNEL_FAILED, 124: TrialStatus.TIMEOUT}
"""kernel/boot's own exit status."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run that ended. ``result`` is what the guest left; None where it left nothing, and then ``error`` says why."""

    kernel: int
    number: int
    folder: Path
    result: dict[str, Any] | None
    error: str
    status: TrialStatus


def need_checkout() -> None:
    """UsageError where the scripts that boot a kernel are not there: an installed uaptrace has none."""
    if not BOOT.is_file():
        raise UsageError("trial boots kernels with the scripts of the source tree: run it from a clone of the project, after make setup")


def check_workload(command: tuple[str, ...], label: str) -> None:
    """UsageError where kernel/workload does not take these arguments."""
    done = subprocess.run([sys.executable, *command, "--check"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("workload: ")
        raise UsageError(f"workload {label}: {why}")


def begin(plan: Plan, folder: Path, *, resume: bool) -> None:
    """Make the trial's folder, or take one that has the same plan. UsageError where it has another, or is in use."""
    kept = folder / PLAN
    if resume:
        try:
            earlier = json.loads(kept.read_text())
        except (OSError, ValueError):
            raise UsageError(f"{folder} has no trial to resume: leave out --resume") from None
        if earlier != plan.to_json():
            raise UsageError(f"the trial in {folder} had other arguments: give the same ones, or another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: --resume goes on with the trial that is in it, -o names another folder")
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(plan.to_json(), indent=1) + "\n")


def run_all(plan: Plan, folder: Path, say: Callable[[str], None]) -> Iterator[Run]:
    """Run what has no result yet, in the plan's order; yields each run that ended, also those of before."""
    runs = plan.runs()
    seconds: list[float] = []
    for place, (kernel, number) in enumerate(runs):
        run_folder = folder_of(folder, place, plan.kernels[kernel])
        if earlier := _earlier(run_folder, kernel, number):
            say(f"run {place + 1} of {len(runs)}: {plan.kernels[kernel].label}: kept")
            yield earlier
            continue
        left = f", about {_minutes(sum(seconds) / len(seconds) * (len(runs) - place))} left" if seconds else ""
        say(f"run {place + 1} of {len(runs)}: {plan.kernels[kernel].label}{left}")
        begin_s = time.monotonic()
        run = _run(plan, plan.kernels[kernel], run_folder, kernel, number)
        seconds.append(time.monotonic() - begin_s)
        if run.error:
            say(f"  {run.error}")
        yield run


def folder_of(folder: Path, place: int, kernel: Kernel) -> Path:
    """Of the run that is made as number ``place`` (from 0) of the trial in ``folder``."""
    return folder / "runs" / f"{place + 1}-{file_name(kernel.label)}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def recording_name(kernel: Kernel) -> str:
    """What the recording of a run is called, in the run's folder."""
    return f"{file_name(kernel.label)}.uaptrace"


def file_name(label: str) -> str:
    """A label as the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("_")[-60:] or "kernel"


def _earlier(folder: Path, kernel: int, number: int) -> Run | None:
    """A run that is done. One that failed is run again."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return None if "error" in result else Run(kernel, number, folder, result, "", TrialStatus.OK)


def _run(plan: Plan, kernel: Kernel, folder: Path, number: int, repetition: int) -> Run:
    shutil.rmtree(folder, ignore_errors=True)  # what is left of a run that failed
    folder.mkdir(parents=True)
    order = Order([list(work.command) for work in plan.workloads], plan.count_instructions, recording_name(kernel))
    (folder / ORDER).write_text(json.dumps(asdict(order)))
    command = [sys.executable, "-m", "uaptrace.trial.guest", str(folder)]
    if not kernel.is_here:
        command = [*_booted(plan, kernel, folder), "--", *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=None if kernel.is_here else CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            # kernel/boot ends its guest in time by itself, and says so.
            status = process.wait(plan.timeout_s if kernel.is_here else None)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return Run(number, repetition, folder, None, f"{kernel.label}: timed out after {plan.timeout_s:g} s", TrialStatus.TIMEOUT)
        except BaseException:
            process.terminate()  # and it takes its virtual machine with it
            process.wait()
            raise
    return read_run(kernel, folder, number, repetition, status)


def _booted(plan: Plan, kernel: Kernel, folder: Path) -> list[str]:
    command = [str(BOOT), *kernel.boot_options(), "--memory", plan.memory, "--cpus", str(plan.cpus), "--timeout", f"{plan.timeout_s:g}"]
    return [*command, "--rwdir", str(folder), "--console", str(folder / "console"), *(COUNTED if plan.count_instructions else ())]


def read_run(kernel: Kernel, folder: Path, number: int, repetition: int, status: int = 0) -> Run:
    """What a run left in its folder. ``status``: with which it ended."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        log, console = folder / "log", folder / "console"
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        why = said[-1].removeprefix("boot: ") if said else "it printed no message"
        if console.exists():
            died = why_it_died(console.read_text(errors="replace"))
            why += (f": {died}" if died else "") + f" ({console} has the kernel's messages)"
        return Run(number, repetition, folder, None, f"{kernel.label}: {why}", _BOOT_STATUS.get(status, TrialStatus.CANNOT_TRACE))
    if "error" in result:
        return Run(number, repetition, folder, None, f"{kernel.label}: {result['error']}", TrialStatus(result["status"]))
    return Run(number, repetition, folder, result, "", TrialStatus.OK)
