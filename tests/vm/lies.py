# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: sabotages a daemon in every way of a table, and writes down whether it ever lied.

``python -m tests.vm.lies OUT.json --mechanism fentry|kprobe [--plug FILE]``

After each sabotage the kernel changes its direct map, and the daemon is asked until its state is labelled as the row wants, or is exact
and equals the kernel's own dump of its page tables. While it says exact and differs, it lies: how long it did is written down.
A new sabotage is one row of SABOTAGES.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.vm.guest import TOP, get, kernel_complaints, programs, say
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.snapshot_json import decode_snapshot
from uaptrace.sources.ptdump import parse_ptdump
from uaptrace.units import PAGES_PER_2M, Level

PORT: Final = 9973
URL: Final = f"http://127.0.0.1:{PORT}"
LIMIT_S: Final = 120.0
"""How long anything is waited for: emulation on a busy machine is slow. What the label took is in the result."""
NR_PAGES: Final = 521
"""More than a chunk of the cache: each row makes the kernel unmap something."""
RING: Final = "32K"
KPROBES, FTRACE = Path("/sys/kernel/debug/kprobes/enabled"), Path("/proc/sys/kernel/ftrace_enabled")
PTDUMP: Final = Path("/sys/kernel/debug/page_tables/kernel")
_PIDFD_OPEN, _PIDFD_GETFD, _MEMFD_SECRET = 434, 438, 447
_PERF_ENABLE, _PERF_DISABLE = 0x2400, 0x2401
libc = ctypes.CDLL(None, use_errno=True)


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition says, once it says something."""
    end = time.monotonic() + LIMIT_S
    while not (said := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"never: {what}")
        time.sleep(0.05)
    return said


class Work:
    """Secret memory that is kept, so that more of the map changes each time, and a module that comes and goes."""

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []

    def secretmem(self, nr_pages: int = NR_PAGES) -> None:
        fd = libc.syscall(_MEMFD_SECRET, 0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        os.ftruncate(fd, nr_pages * mmap.PAGESIZE)
        memory = mmap.mmap(fd, nr_pages * mmap.PAGESIZE)
        os.close(fd)
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        self._kept.append(memory)

    def module(self, name: str = "dummy") -> None:
        for command in (("modprobe", name), ("rmmod", name)):
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def free(self) -> None:
        for memory in self._kept:
            memory.close()
        self._kept = []


class Daemon:
    """``uaptrace serve`` as a user runs it; ``work`` is what the host does meanwhile."""

    def __init__(self, mechanism: str, folder: Path) -> None:
        self.mechanism = mechanism
        self.work = Work()
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.note = ""
        """What a row has to say of itself."""

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def command(self, ready: Path, port: int = PORT) -> list[str]:
        given = ["--listen", f"127.0.0.1:{port}", "--mechanism", self.mechanism, "--ring-size", RING, "--ready-file", str(ready)]
        return [sys.executable, "-m", "tests.vm.sabotaged", "serve", *given]

    def start(self) -> None:
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(self.command(ready), cwd=TOP, stderr=subprocess.PIPE, text=True)
        until(lambda: ready.exists() or self.process.poll() is not None, "the daemon is ready")
        if self.process.poll() is not None:
            raise SystemExit(f"the daemon ended: {self.ended()}")

    def ended(self) -> dict[str, Any]:
        """Waits for it: how, and its last words."""
        words = self.process.stderr.read() if self.process.stderr else ""
        return {"status": self.process.wait(LIMIT_S), "stderr": words}

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self.ended()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def snapshot(self) -> Snapshot:
        return decode_snapshot(get(f"{URL}/snapshot?regions=1")["body"].encode())

    def descriptors(self, target: str) -> Iterator[int]:
        """Copies of the daemon's descriptors of that kind; closed again afterwards."""
        pidfd = libc.syscall(_PIDFD_OPEN, self.process.pid, 0)
        for name in os.listdir(f"/proc/{self.process.pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{self.process.pid}/fd/{name}") == target:
                    fd = libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
                    yield fd
                    os.close(fd)
        os.close(pidfd)


class Truth:
    """The direct map as the kernel's own dump has it. The file is opened once: a row takes debugfs away."""

    def __init__(self) -> None:
        self._fd = os.open(PTDUMP, os.O_RDONLY)
        self._holes: np.ndarray | None = None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Levels and present pages by region."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        text = b"".join(iter(lambda: os.read(self._fd, 1 << 20), b"")).decode()
        section = text.split("---[ Low Kernel Mapping ]---")[1].split("---[")[0]
        first = re.search(r"0x([0-9a-f]{16})-", section)
        assert first is not None
        reading = parse_ptdump(section, int(first[1], 16), 1 << 46, 0, 0)
        present = np.where(reading.levels > 0, PAGES_PER_2M, 0)
        present[reading.split_regions] = (reading.pages == 1).sum(axis=1)
        return np.where(present > 0, reading.levels, 0), present

    def differing(self, snapshot: Snapshot) -> int:
        """Regions of which the snapshot says something else. Pages where there is no memory are taken from the first comparison."""
        assert snapshot.regions is not None
        levels, present = self.read()
        n = max(len(levels), len(snapshot.regions.level))
        theirs_level, theirs = _padded(levels, n), _padded(present, n)
        level, absent = _padded(snapshot.regions.level, n), _padded(snapshot.regions.nr_absent, n)
        ours = np.where(level > 0, PAGES_PER_2M - absent, 0)
        if self._holes is None:
            self._holes = np.where((level == Level.K4) & (theirs > 0), ours - theirs, 0)
        ours = ours - _padded(self._holes, n)
        return int(np.count_nonzero((ours != theirs) | (np.where(ours > 0, level, 0) != theirs_level)))


def _padded(values: np.ndarray, n: int) -> np.ndarray:
    out = np.zeros(max(n, len(values)), np.int64)
    out[: len(values)] = values
    return out[:n]


# ---- the sabotages ----


@dataclass(frozen=True)
class Sabotage:
    """``do`` breaks something, ``undo`` mends it. ``label``: what a reason has to say, by mechanism; where it is empty an exact
    state that is true is as good. ``restart``: nothing mends it."""

    name: str
    do: Callable[[Daemon], None]
    undo: Callable[[Daemon], None] = lambda daemon: None
    label: str = ""
    mechanisms: tuple[str, ...] = ("fentry", "kprobe")
    restart: bool = False


def write(path: Path, text: str) -> Callable[[Daemon], None]:
    """The kernel may refuse: then nothing is broken, and the row says so."""

    def do(daemon: Daemon) -> None:
        try:
            path.write_text(text)
        except OSError as error:
            daemon.note = f"{path}: {error.strerror}"

    return do


def run(*command: str) -> Callable[[Daemon], None]:
    def do(daemon: Daemon) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            daemon.note = (done.stderr or done.stdout).strip()[-200:]

    return do


def each(*steps: Callable[[Daemon], None]) -> Callable[[Daemon], None]:
    def do(daemon: Daemon) -> None:
        for step in steps:
            step(daemon)

    return do


def send(number: signal.Signals) -> Callable[[Daemon], None]:
    return lambda daemon: daemon.signal(number)


def perf_events(request: int) -> Callable[[Daemon], None]:
    def do(daemon: Daemon) -> None:
        events = [fcntl.ioctl(fd, request, 0) for fd in daemon.descriptors("anon_inode:[perf_event]")]
        daemon.note = f"{len(events)} perf events"
        assert events

    return do


def detach_links(daemon: Daemon) -> None:
    links = json.loads(subprocess.run(["bpftool", "link", "show", "-j"], capture_output=True, text=True, check=True).stdout)
    for link in links:
        done = subprocess.run(["bpftool", "link", "detach", "id", str(link["id"])], capture_output=True, text=True, check=False)
        daemon.note = f"{len(links)} links: {(done.stderr or done.stdout).strip() or 'detached'}"


def overflow(daemon: Daemon) -> None:
    """Nobody takes records out while more come than there is room for."""
    daemon.signal(signal.SIGSTOP)
    for _ in range(3):
        daemon.work.secretmem()
    daemon.signal(signal.SIGCONT)


def pause(daemon: Daemon) -> None:
    daemon.signal(signal.SIGSTOP)
    daemon.work.secretmem(7)
    daemon.signal(signal.SIGCONT)


def set_clock(seconds: float) -> Callable[[Daemon], None]:
    return lambda daemon: time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def swap_modules(daemon: Daemon) -> None:
    for name in ("dummy", "nlmon", "dummy"):
        daemon.work.module(name)


def close_descriptors(daemon: Daemon) -> None:
    daemon.signal(signal.SIGUSR1)


def trace_the_same(on: bool) -> Callable[[Daemon], None]:
    """Somebody else's tracer on the functions that are hooked."""
    tracing = Path("/sys/kernel/tracing")

    def do(daemon: Daemon) -> None:
        (tracing / "set_ftrace_filter").write_text("__change_page_attr_set_clr\nset_direct_map_invalid_noflush\n" if on else "\n")
        (tracing / "current_tracer").write_text("function\n" if on else "nop\n")

    return do


PLUG: Path | None = None


def plug(daemon: Daemon) -> None:
    """The machine outside adds a DIMM."""
    assert PLUG is not None
    before = sum_of_meminfo()
    PLUG.touch()
    until(lambda: sum_of_meminfo() > before, "the memory is there")
    daemon.note = f"{(sum_of_meminfo() - before) >> 10} MiB"


def sum_of_meminfo() -> int:
    """KiB of the direct map."""
    return sum(int(kib) for kib in re.findall(r"^DirectMap\S+\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))


def no_privilege(name: str, on: int, off: int) -> tuple[Callable[[Daemon], None], Callable[[Daemon], None]]:
    path = Path("/proc/sys/kernel") / name
    return write(path, str(on)), write(path, str(off))


CPU1 = Path("/sys/devices/system/cpu/cpu1/online")
POISON = Path("/sys/devices/system/memory/soft_offline_page")
SILENT = r"^hooks are silent: "

SABOTAGES: Final = (
    Sabotage("kprobes switched off", write(KPROBES, "0"), write(KPROBES, "1"), SILENT + "kprobes are switched off", ("kprobe",)),
    Sabotage("kprobes switched off, with fentry", write(KPROBES, "0"), write(KPROBES, "1"), mechanisms=("fentry",)),
    Sabotage("ftrace switched off", write(FTRACE, "0"), write(FTRACE, "1"), SILENT + "ftrace is switched off", ("kprobe",)),
    Sabotage("ftrace switched off, with fentry", write(FTRACE, "0"), write(FTRACE, "1"), mechanisms=("fentry",)),
    Sabotage("perf events disabled", perf_events(_PERF_DISABLE), perf_events(_PERF_ENABLE), SILENT, ("kprobe",)),
    Sabotage("links detached by bpftool", detach_links, restart=True),
    Sabotage("links closed", close_descriptors, label=SILENT + ".*descriptors were closed", restart=True),
    Sabotage("consumer stopped and continued", pause),
    Sabotage("ring full", overflow),
    Sabotage("CPU offline", write(CPU1, "0")),
    Sabotage("CPU online again", write(CPU1, "1")),
    Sabotage("clock set", set_clock(86400.0), set_clock(-86400.0)),
    Sabotage("module swapped", swap_modules),
    Sabotage("addresses hidden", *no_privilege("kptr_restrict", 2, 0)),
    Sabotage("perf forbidden", *no_privilege("perf_event_paranoid", 3, 2)),
    Sabotage("traced by somebody else too", trace_the_same(True), trace_the_same(False)),
    Sabotage("debugfs unmounted", run("umount", "-l", "/sys/kernel/debug"), run("mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug")),
    Sabotage("tracefs unmounted", run("umount", "-l", "/sys/kernel/tracing"), run("mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing")),
    Sabotage("memory plugged in", plug, mechanisms=("fentry",)),
    # Last: what this forbids is never allowed again.
    Sabotage("facts of programs hidden", write(Path("/proc/sys/kernel/unprivileged_bpf_disabled"), "1")),
)  # fmt: skip


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
        Path("/sys/kernel/debug/unmapped_alloc_release").exists()
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
    if sabotage.restart and not daemon.snapshot().exactness.exact:
        daemon.stop()
        daemon.start()
    verdict["seconds_to_exact"] = healthy(daemon, truth)
    verdict["rereads"] = daemon.snapshot().exactness.nr_rereads - rereads
    say(f"  {verdict['seconds']:.1f} s: {verdict['reasons'] or 'exact'} {note}; exact again after {verdict['seconds_to_exact']:.1f} s")
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
        daemon.start()
    daemon.stop()
    return [*found, loader_killed(daemon)]


def answers() -> bool:
    with contextlib.suppress(OSError):
        return bool(get(f"{URL}/healthz"))
    return False


def loader_killed(daemon: Daemon) -> dict[str, Any]:
    """The child that loads dies in the middle."""
    say(f"{daemon.mechanism}: loader killed")
    with subprocess.Popen(daemon.command(Path("/tmp/never"), PORT + 1), cwd=TOP, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = until(lambda: children.read_text().split(), "the loader has begun")[0]
        os.kill(int(child), signal.SIGKILL)
        words = process.stderr.read() if process.stderr else ""
        status = process.wait(LIMIT_S)
    until(lambda: not programs(), "its programs are gone")
    return {"name": "loader killed", "status": status, "stderr": words, "answers": False}


def main() -> None:
    global PLUG
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--mechanism", action="append", required=True)
    parser.add_argument("--plug", type=Path)
    parser.add_argument("--only", help="rows whose name has this in it")
    args = parser.parse_args()
    PLUG = args.plug
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
