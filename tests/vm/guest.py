# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: one load, many phases, everything seen written down as JSON for the tests outside.

``python -m tests.vm.guest OUT.json [--recording FILE] [--mix-seconds N] [--faults] [--small-ring] [--commands]``

After each phase the workload has ended and nothing moves, so the state can be held against what this project did not
write: the kernel's debugfs rows, vmstat, meminfo, its own page table dump, a fresh reading of the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.vm.guest_session import DEBUGFS_ROWS, UAPTRACE, WORKLOAD, Guest, say
from uaptrace.abi.hooks import PageAllocHook
from uaptrace.kernel.debugfs import parse_unmapped_alloc
from uaptrace.loader.parent import LoaderOptions, load
from uaptrace.process.privileges import drop_privileges
from uaptrace.reports.documents import splits_to_json
from uaptrace.session.live import LiveSource
from uaptrace.session.loop import Session
from uaptrace.session.verification import map_verdict

TRACING: Final = Path("/sys/kernel/tracing")
BY_CALLERS_PAGES = 61
FAULT_MASK = Path("/sys/kernel/debug/unmapped_alloc_fault")


@dataclass(frozen=True)
class Fault:
    """A fault of kernel/README.md, and the invariants that the auditor must say are broken by it."""

    bit: int
    name: str
    numbers: frozenset[int]
    release: bool = False
    """Only a release shows it, or leaves something behind."""
    nr_pages: int = 1021
    """What the workload takes. An odd number leaves pages that nobody had."""


# The first four are those that the auditor must know; the others are more of the published defects, and one that is none:
# an error that is handled. Captured pages are last: the kernel counts them as released and never counted them as cached, so its
# rows are wrong from there on.
FAULTS = (
    Fault(0x01, "refill unmaps only the requested pages", frozenset({2, 3})),
    Fault(0x02, "release does not remap", frozenset({8}), release=True),
    Fault(0x04, "pageblock bit left set", frozenset({6}), release=True),
    Fault(0x08, "set_direct_map error ignored", frozenset({4})),
    Fault(0x10, "set_direct_map error, handled", frozenset()),
    # Whole chunks: a block in which some pages were nobody's is not judged, and whether two chunks become one block is chance.
    Fault(0x20, "pages are not zeroed", frozenset({9}), release=True, nr_pages=1024),
    Fault(0x40, "the flag is stripped", frozenset({1})),
    Fault(0x84, "ordinary pages of a marked block are captured", frozenset({7}), release=True),
)


def processes_state() -> dict[str, str]:
    """Of this process: what the daemon would be after giving up its privileges."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: line.split(":", 1)[1].strip() for line in lines if line.startswith(("Uid", "CapEff", "VmRSS"))}


def in_daemon_child(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a fork that has given up every privilege, as the daemon has: its answer."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            drop_privileges()
            answer = function()
        except BaseException as error:
            answer = {"error": repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said: dict[str, Any] = json.loads(stream.read())
    os.waitpid(pid, 0)
    return said


def free_pages_and_owned() -> tuple[int, int]:
    """Pages on the cache's lists, and those that ever came in and did not leave, as the kernel says."""
    rows = parse_unmapped_alloc(DEBUGFS_ROWS.read_text())
    free, cached, released = (sum(nr << order for order, nr in enumerate(row)) for row in (rows.free, rows.cached, rows.released))
    return free, cached - released


def until_captured(guest: Guest) -> None:
    """Ordinary work, more of it each time, until the kernel itself says that the cache has pages that never came in."""
    for nr_pages in (8191, 16381, 32749, 65521):
        guest.workload("pipes", "--pages", str(nr_pages))
        free, owned = free_pages_and_owned()
        say(f"  {nr_pages} ordinary pages: {free} free in the cache, {owned} came in")
        if free > owned:
            return


@contextlib.contextmanager
def traced(options: LoaderOptions) -> Iterator[Guest]:
    """Once more, in a session of its own."""
    with contextlib.closing(LiveSource(load(options))) as source:
        session = Session(source)
        session.start()
        yield Guest(session)


def by_callers() -> dict[str, Any]:
    """Invariant 1 by the pages that memfd_secret() hands out: with the flag, and with the flag stripped."""
    found = {}
    with traced(LoaderOptions(page_alloc=PageAllocHook.CALLERS)) as guest:
        for name, mask in (("sound", "0"), ("stripped", "0x40")):
            before = next(row for row in guest.session.finish().audit if row.number == 1)
            FAULT_MASK.write_text(mask)
            guest.workload("secretmem", "--pages", str(BY_CALLERS_PAGES))
            FAULT_MASK.write_text("0")
            after = next(row for row in guest.session.finish().audit if row.number == 1)
            found[name] = {"checked": after.checked - before.checked, "violated": after.violated - before.violated}
    return found


def broken_since(before: dict[int, int], session: Session[LiveSource], expected: frozenset[int]) -> dict[int, int]:
    """How often each invariant was broken more than before: once all that are expected are, at the latest after ten seconds."""
    end = time.monotonic() + (10 if expected else 2)
    while True:
        rows = session.finish().audit
        broken = {row.number: row.violated - before.get(row.number, 0) for row in rows if row.violated > before.get(row.number, 0)}
        if (expected and expected <= broken.keys()) or time.monotonic() >= end:
            return broken
        # The pageblock bit is looked at between two readings: let the loop run as it would.
        pause_end = time.monotonic() + 1
        session.run(0.5, until=lambda limit=pause_end: time.monotonic() >= limit)  # type: ignore[misc]


def faults(guest: Guest) -> list[dict[str, Any]]:
    """Switch on each fault, make the kernel meet it, and see which invariants the auditor says are broken."""
    found = []
    for fault in FAULTS:
        guest.workload("shrink", "--pages", "1000000")
        guest.session.finish()
        before = {row.number: row.violated for row in guest.session.finish().audit}
        FAULT_MASK.write_text(f"{fault.bit:#x}")
        begin = time.monotonic()
        report = guest.workload("secretmem", "--pages", str(fault.nr_pages))
        if fault.release:
            report = guest.workload("shrink", "--pages", "1000000")
        if 7 in fault.numbers:
            until_captured(guest)
        worked = time.monotonic()
        broken = broken_since(before, guest.session, fault.numbers)
        seconds = time.monotonic() - worked
        FAULT_MASK.write_text("0")
        first = [
            {"number": row.number, "pfn": v.pfn, "expected": v.expected, "seen": v.seen, "comm": v.comm, "time_ns": v.time_ns}
            for row in guest.session.finish().audit
            for v in row.first
            if row.number in broken and v.time_ns >= begin * 1e9
        ]
        say(f"fault {fault.bit:#x}: {fault.name}: broken {broken} after {seconds:.1f} s")
        found.append(
            {
                "bit": fault.bit,
                "name": fault.name,
                "broken": {str(n): c for n, c in broken.items()},
                "first": first,
                "seconds": seconds,
                "workload": report,
            }
        )
    guest.workload("shrink", "--pages", "1000000")
    return found


def small_ring() -> dict[str, Any]:
    """A ring that surely overflows: the loss is counted, said, and mended."""
    say("small ring")
    loaded = load(LoaderOptions(ring_bytes=4096))
    source = LiveSource(loaded)
    try:
        session = Session(source)
        session.start()
        first = session.finish()
        # Nothing is taken in while it works: everything past 64 records is lost.
        subprocess.run([sys.executable, WORKLOAD, "secretmem", "--pages", "2003"], check=True, stdout=subprocess.PIPE)
        session.take_records()
        during = session.state.snapshot(time.monotonic_ns(), time.time())
        counted = source.read_counters()
        session.state.update(counted)
        noticed = session.state.snapshot(time.monotonic_ns(), time.time())
        begin = time.monotonic()
        after = session.finish()
        while not after.exactness.exact and time.monotonic() < begin + 60:
            after = session.finish()
        seconds = time.monotonic() - begin
        verdict = map_verdict(session, "kcore")
        from uaptrace.abi.events import Counter

        emitted = counted.words[Counter.EMITTED : Counter.EMITTED + 16]
        lost = counted.words[Counter.LOST : Counter.LOST + 16]
        return {
            "exact_at_first": first.exactness.exact,
            "taken": after.loss.events_taken,
            "taken_during": during.loss.events_taken,
            "emitted": int(emitted.sum()),
            "lost_in_kernel": int(lost.sum()),
            "lost": after.loss.events_lost,
            "exact_when_lost": noticed.exactness.exact,
            "reasons_when_lost": list(noticed.exactness.reasons),
            "exact_after": after.exactness.exact,
            "reasons_after": list(after.exactness.reasons),
            "seconds_to_exact": seconds,
            "kcore": verdict.to_json(),
        }
    finally:
        source.close()


def with_tracepoint() -> list[dict[str, Any]]:
    """Once more, with kmem:mm_page_alloc."""
    with traced(LoaderOptions(page_alloc=PageAllocHook.TRACEPOINT)) as guest:
        guest.phase("baseline, with the tracepoint")
        guest.phase("secretmem", "secretmem", "--pages", "1021")
        guest.phase("modules", "modules", "--times", "7")
        guest.phase("release", "shrink", "--pages", "1000000")
        return guest.phases


def commands(work: Path) -> dict[str, Any]:
    """The daemon and the recorder as a user runs them, and what they leave behind."""
    say("commands")
    out: dict[str, Any] = {}
    ready, recording = work / "ready", work / "commands.uaptrace"
    with subprocess.Popen(
        [UAPTRACE, "serve", "--listen", "127.0.0.1:9970", "--ready-file", str(ready)], stderr=subprocess.PIPE, text=True
    ) as daemon:
        wait_for(ready, daemon)
        say("  serve is ready")
        status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        out["daemon"] = {
            line.split(":")[0]: line.split(":", 1)[1].strip() for line in status if line.startswith(("CapEff", "VmRSS", "Uid"))
        }
        subprocess.run([sys.executable, WORKLOAD, "secretmem", "--pages", "61"], check=True, stdout=subprocess.PIPE)
        for name, arguments in {
            "top": ["top", "--once", "--json", "--interval", "0.5", "--connect", "127.0.0.1:9970"],
            "splits": ["splits", "--json", "--connect", "127.0.0.1:9970"],
            "map": ["map", "--json", "--connect", "127.0.0.1:9970"],
            "audit": ["audit", "--json", "--connect", "127.0.0.1:9970"],
        }.items():
            done = subprocess.run([UAPTRACE, *arguments], capture_output=True, text=True, check=False)
            say(f"  {name}")
            out[name] = {"status": done.returncode, "json": json.loads(done.stdout) if done.stdout else None, "stderr": done.stderr}
        with hostile_clients(9970) as attackers:
            subprocess.run([sys.executable, WORKLOAD, "secretmem", "--pages", "1009"], check=True, stdout=subprocess.PIPE)
            arguments = ["top", "--once", "--json", "--interval", "0.5", "--connect", "127.0.0.1:9970"]
            done = subprocess.run([UAPTRACE, *arguments], capture_output=True, text=True, check=False)
            out["attacked"] = {"status": done.returncode, "json": json.loads(done.stdout) if done.stdout else None, "stderr": done.stderr}
        out["attacked"]["attacks"] = attackers.nr
        say(f"  {attackers.nr} attacks")
        done = subprocess.run([UAPTRACE, "cost", "--json", "--rounds", "10"], capture_output=True, text=True, check=False)
        say("  cost")
        out["cost"] = {"status": done.returncode, "json": json.loads(done.stdout) if done.stdout else None, "stderr": done.stderr}
        for path in ("metrics", "readyz", "healthz", "nowhere"):
            out[f"http_{path}"] = get(f"http://127.0.0.1:9970/{path}")
        daemon.terminate()
        out["daemon"]["status_after_sigterm"] = daemon.wait(120)
        say("  serve has ended")
    out["programs_after_serve"] = programs()
    ready.unlink()
    with subprocess.Popen(
        [UAPTRACE, "record", "-o", str(recording), "--ready-file", str(ready)], stderr=subprocess.PIPE, text=True
    ) as recorder:
        wait_for(ready, recorder)
        subprocess.run([sys.executable, WORKLOAD, "secretmem", "--pages", "127"], check=True, stdout=subprocess.PIPE)
        recorder.send_signal(2)
        out["record"] = {"status": recorder.wait(120), "stderr": recorder.stderr.read() if recorder.stderr else ""}
    done = subprocess.run([UAPTRACE, "top", "--once", "--json", "--replay", str(recording)], capture_output=True, text=True, check=False)
    out["replay"] = {"status": done.returncode, "json": json.loads(done.stdout) if done.stdout else None, "stderr": done.stderr}
    out["programs_after_record"] = programs()
    return out


class HostileClients:
    """Connections that say nothing, and threads that send requests which never end."""

    def __init__(self, port: int) -> None:
        self.nr = 0
        self._port = port
        self._stop = threading.Event()
        self._silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        self._threads = [threading.Thread(target=self._send_endlessly) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _send_endlessly(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5) as client:
                self.nr += 1
                while not self._stop.is_set():
                    client.sendall(b"GET /" + b"x" * 65536)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._silent:
            client.close()


@contextlib.contextmanager
def hostile_clients(port: int) -> Iterator[HostileClients]:
    clients = HostileClients(port)
    try:
        yield clients
    finally:
        clients.close()


def get(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return {"status": response.status, "body": response.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}


def wait_for(ready: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there; fails when the process ended instead."""
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.05)


def programs() -> list[dict[str, Any]]:
    """Tracing programs that the kernel has, by bpftool."""
    said = subprocess.run(["bpftool", "prog", "show", "-j"], capture_output=True, text=True, check=True).stdout
    return [p for p in json.loads(said) if p["type"] in ("tracing", "kprobe", "raw_tracepoint")]


@contextlib.contextmanager
def return_probe(symbol: str) -> Iterator[dict[str, int]]:
    """Somebody else's kretprobe: the function returns to the kernel's code for it. ``hits``, once it is gone: how often it was called."""
    seen = {"hits": 0}
    probe(f"r:others/returns {symbol}")
    try:
        yield seen
    finally:
        seen["hits"] = int((TRACING / "kprobe_profile").read_text().split()[1])
        probe()


def probe(*events: str) -> None:
    """Somebody else's probes, of the group ``others``; without any, those that were made go."""
    enable = TRACING / "events/others/enable"
    if not events:
        enable.write_text("0")
    (TRACING / "kprobe_events").write_text("\n".join(events) + "\n")
    if events:
        enable.write_text("1")


def kernel_complaints() -> list[str]:
    said = subprocess.run(["dmesg", "--level=emerg,alert,crit,err,warn"], capture_output=True, text=True, check=False).stdout
    return [line for line in said.splitlines() if any(word in line for word in ("WARNING", "BUG:", "Oops", "bad page", "Bad page"))]


def tlb_of_the_kernel() -> str:
    """What the kernel itself read of the TLB when it booted."""
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return next((line for line in said.splitlines() if "Last level dTLB entries" in line), "")


def modules_and_programs(guest: Guest) -> None:
    guest.phase("modules", "modules", "--times", "7")
    guest.phase("bpf", "bpf", "--times", "11")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--mix-seconds", type=int, default=60)
    parser.add_argument("--pressure", action="store_true", help="memory pressure too, which takes long where the disk is slow")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--small-ring", action="store_true")
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--then-tracepoint", action="store_true", help="trace once more, with --page-alloc-hook tracepoint")
    parser.add_argument("--mechanism")
    parser.add_argument("--page-alloc", default="auto")
    parser.add_argument("--page-tables", default="auto")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result: dict[str, Any] = {"kernel": os.uname().release, "programs_before": programs()}
    check = subprocess.run([UAPTRACE, "check", "--json"], capture_output=True, text=True, check=False)
    result["check"] = {"status": check.returncode, "json": json.loads(check.stdout)}
    # The cache is in use before tracing begins: its free blocks must be found in struct page.
    subprocess.run([sys.executable, WORKLOAD, "secretmem", "--pages", "509"], check=True, stdout=subprocess.PIPE)
    say("loading")
    begin = time.monotonic()
    options = LoaderOptions(page_alloc=PageAllocHook(args.page_alloc), mechanism=args.mechanism, page_tables=args.page_tables)
    loaded = load(options)
    result["load_seconds"] = time.monotonic() - begin
    result["hooks"] = [{"name": h.name, "symbol": h.symbol, "mechanism": h.mechanism, "reason": h.reason} for h in loaded.hooks]
    source = LiveSource(loaded)
    writer = None
    if args.recording:
        from uaptrace.recording import RecordingWriter

        writer = RecordingWriter(args.recording, overwrite=True)
    session = Session(source, writer)
    begin = time.monotonic()
    session.start()
    result["baseline_seconds"] = time.monotonic() - begin
    say(f"loaded in {result['load_seconds']:.1f} s, baseline in {result['baseline_seconds']:.1f} s")
    # Reading through what was handed over needs no privilege: tried in a child that has none.
    result["unprivileged"] = in_daemon_child(lambda: {**processes_state(), "tables": len(source.read_map()[0].levels)})
    guest = Guest(session)
    guest.phase("baseline")
    if DEBUGFS_ROWS.exists():
        # In what order blocks stand on their lists cannot be read: the simulation begins where there are none.
        guest.phase("emptied", "shrink", "--pages", "1000000")
    guest.phase("secretmem", "secretmem", "--pages", "1021")
    mix = ("mix", "--seconds", str(args.mix_seconds), "--seed", "7", *([] if args.pressure else ["--no-pressure"]))
    if DEBUGFS_ROWS.exists():
        modules_and_programs(guest)
        guest.phase("shrink", "shrink", "--pages", "127")
        guest.phase("mix", *mix)
        guest.phase("release", "shrink", "--pages", "1000000")
    else:
        with return_probe("__change_page_attr_set_clr") as result["return_probe"]:
            guest.phase("hidden", "secretmem", "--pages", "61")
        modules_and_programs(guest)
        guest.phase("mix", *mix)
    result["splits"] = splits_to_json(session.finish(), "row")
    if writer is not None:
        writer.close()
    result["phases"] = guest.phases
    args.out.write_text(json.dumps(result))
    source.close()
    if args.then_tracepoint:
        result["with_tracepoint"] = with_tracepoint()
    result["programs_after"] = programs()
    args.out.write_text(json.dumps(result))
    if args.small_ring:
        result["small_ring"] = small_ring()
        args.out.write_text(json.dumps(result))
    if args.commands:
        result["commands"] = commands(args.out.parent)
    if args.faults:
        with traced(options) as once_more:
            result["faults"] = faults(once_more)
        result["by_callers"] = by_callers()
    result["complaints"] = kernel_complaints()
    result["tlb"] = {"kernel": tlb_of_the_kernel(), "host": result["splits"]["host"]["tlb"]}
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
