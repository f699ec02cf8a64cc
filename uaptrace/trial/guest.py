# SPDX-License-Identifier: Apache-2.0
"""One tracing session from before the work to after it, and what it saw as one JSON document. Runs in the virtual machine, or on the
host itself (``trial --here``).

``python -m uaptrace.trial.guest FOLDER``: FOLDER/order.json says what to do (``Order``), FOLDER/result.json is the answer, and
the recording and what the work said (``output``) are beside it. What goes wrong is in the answer too: ``error`` and ``status``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import CannotTraceError, UaptraceError
from uaptrace.abi.events import Counter
from uaptrace.abi.hooks import PageAllocHook, counted_alone
from uaptrace.loader.parent import LoaderOptions, load
from uaptrace.model.hook_status import attached_labels
from uaptrace.model.snapshot import Snapshot
from uaptrace.reports.documents import audit_to_json, snapshot_to_json
from uaptrace.session.live import LiveSource
from uaptrace.session.loop import Session
from uaptrace.session.verification import map_verdict
from uaptrace.trial.measures import Seen, figures_of
from uaptrace.trial.status import TrialStatus
from uaptrace.trial.trial_plan import FAULT_ARGUMENT

RESULT: Final = "result.json"
ORDER: Final = "order.json"
OUTPUT: Final = "output"
"""What the commands said, standard error included."""
LOOK_S: Final = 2.5
"""The pageblock bits are looked at between two readings, once a heartbeat: the loop runs for that long after the cache was emptied."""
NS_PER_INSTRUCTION: Final = 2
"""Of the guest's clock where the virtual machine counts instructions (-icount shift=1)."""
_DEBUGFS: Final = Path("/sys/kernel/debug")
_PTDUMP: Final = _DEBUGFS / "page_tables/kernel"
_SHRINKERS: Final = _DEBUGFS / "shrinker"
_FLUSHES: Final = (Counter.FLUSH_ALL, Counter.FLUSH_RANGE)
_ALL_PAGES: Final = 1 << 30
_COMPLAINTS: Final = ("WARNING", "BUG:", "Oops", "bad page", "Bad page", "general protection")


@dataclass(frozen=True, slots=True)
class Order:
    """What to do in this guest."""

    workloads: list[list[str]]
    """Commands, one after the other."""
    counts_instructions: bool
    recording: str
    """File name of the recording: a report shows it."""


class WorkloadFailedError(UaptraceError):
    """The work ended with an exit status that is not 0."""


@dataclass(frozen=True, slots=True)
class Worked:
    """What the commands said and took. ``said`` has their last line where it is a JSON object, else None."""

    said: tuple[dict[str, Any] | None, ...]
    seconds: float
    cpu_seconds: float


def run(folder: Path) -> int:
    """The whole of it. Returns the status for the guest: 0 where there is a result, whatever the result says."""
    order = Order(**json.loads((folder / ORDER).read_text()))
    answer: dict[str, Any]
    try:
        answer = _traced(order, folder)
    except WorkloadFailedError as error:
        answer = {"error": str(error), "status": TrialStatus.WORKLOAD_FAILED}
    except CannotTraceError as error:
        answer = {"error": f"cannot be traced: {error}", "status": TrialStatus.CANNOT_TRACE}
    except UaptraceError as error:
        answer = {"error": str(error), "status": TrialStatus.CANNOT_TRACE}
    except Exception as error:
        traceback.print_exception(error)  # into the run's log
        answer = {"error": f"the run failed: {type(error).__name__}: {error}", "status": TrialStatus.CANNOT_TRACE}
    (folder / RESULT).write_text(json.dumps(answer))
    return 0


def _traced(order: Order, folder: Path) -> dict[str, Any]:
    from uaptrace.recording import RecordingWriter

    _unlock_memory()
    _set_fault(Path("/proc/cmdline").read_text())
    source = LiveSource(load(LoaderOptions(page_alloc=PageAllocHook.ENTRY, count_flushes=True)))
    try:
        writer = RecordingWriter(folder / order.recording, overwrite=True)
        session = Session(source, writer)
        session.start()
        worked = _work(session, order.workloads, folder / OUTPUT)
        at_work = session.finish()
        _empty_the_cache()
        _look(session)
        verdicts = [map_verdict(session, oracle).to_json() for oracle in ("kcore", *(["ptdump"] if _PTDUMP.exists() else []))]
        snapshot = session.finish()
        writer.close()
        counted = counted_alone(attached_labels(snapshot.hooks))
        flushes = {counter: source.count([counter]) if counter in counted else None for counter in _FLUSHES}
        return _answer(worked, at_work, snapshot, verdicts, flushes, order.counts_instructions)
    finally:
        source.close()


def _answer(
    worked: Worked,
    at_work: Snapshot,
    snapshot: Snapshot,
    verdicts: list[dict[str, Any]],
    flushes: dict[Counter, int | None],
    counts_instructions: bool,
) -> dict[str, Any]:
    complaints = _complaints()
    instructions = round(worked.cpu_seconds * 1e9 / NS_PER_INSTRUCTION) if counts_instructions else None
    seen = Seen(at_work, snapshot, verdicts, complaints, worked.seconds, worked.cpu_seconds, flushes, instructions)
    return {
        "kernel_release": os.uname().release,
        "figures": figures_of(seen),
        "doubts": sorted({doubt for verdict in verdicts for doubt in verdict["doubts"]}),
        "complaints": complaints,
        "work": [*worked.said],
        "verify": verdicts,
        "audit": audit_to_json(snapshot),
        "snapshot": snapshot_to_json(snapshot),
        "hooks": [asdict(hook) for hook in snapshot.hooks],
    }


def _unlock_memory() -> None:
    """Secret memory counts as locked. Where the limit may not be raised, as much as is allowed."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _set_fault(command_line: str) -> None:
    """Switch on what the kernel's command line asks for. CannotTraceError where the kernel has no such switch."""
    for word in command_line.split():
        name, _, mask = word.partition("=")
        if name == FAULT_ARGUMENT:
            try:
                (_DEBUGFS / FAULT_ARGUMENT).write_text(mask)
            except OSError as error:
                raise UaptraceError(f"{FAULT_ARGUMENT}={mask}: {error.strerror} (the project's own kernels have the switches)") from None


def _work(session: Session[LiveSource], commands: list[list[str]], output: Path) -> Worked:
    """Run the commands. What they say is in ``output``, also where one of them takes the kernel down."""
    said = []
    seconds, cpu_before = 0.0, _cpu_seconds()
    output.touch()
    for command in commands:
        before = output.stat().st_size
        begin = time.monotonic()
        with output.open("ab") as sink:
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
            except OSError as error:
                raise WorkloadFailedError(f"cannot run {command[0]}: {error.strerror}") from None
        with _Awaited(process) as awaited:
            session.run(0.5, until=lambda awaited=awaited: awaited.is_over)  # type: ignore[misc]
        last = (output.read_bytes()[before:].decode(errors="replace").strip().splitlines() or ["it printed no message"])[-1]
        if process.returncode:
            raise WorkloadFailedError(f"{Path(command[0]).name} ended with status {process.returncode}: {last}")
        seconds += awaited.ended_s - begin
        said.append(_object(last))
    return Worked(tuple(said), seconds, _cpu_seconds() - cpu_before)


class _Awaited:
    """Knows when a process ended to the moment; the loop looks twice a second only. Leaving kills one that still runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        import threading

        self._process = process
        self.ended_s = float("inf")
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        self._process.wait()
        self.ended_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> _Awaited:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_over:
            self._process.kill()
        self._thread.join()


def _object(line: str) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _cpu_seconds() -> float:
    """Of all children that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _empty_the_cache() -> None:
    """Ask for all pages: what is released wrongly shows only then. A kernel without the cache has no such shrinker."""
    for scan in _SHRINKERS.glob("mm-unmapped-alloc-*/scan"):
        scan.write_text(f"0 0 {_ALL_PAGES}\n")


def _look(session: Session[LiveSource]) -> None:
    end = time.monotonic() + LOOK_S
    session.run(0.5, until=lambda: time.monotonic() >= end)


def _complaints() -> list[str]:
    done = subprocess.run(["dmesg", "--level=emerg,alert,crit,err,warn"], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if any(word in line for word in _COMPLAINTS)]


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
