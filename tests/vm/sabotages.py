# SPDX-License-Identifier: Apache-2.0
"""What is done to a daemon and to the kernel around it. A new sabotage is one row of SABOTAGES."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.guest import probe
from tests.vm.sabotaged_daemon import Daemon, until

KPROBES, FTRACE = Path("/sys/kernel/debug/kprobes/enabled"), Path("/proc/sys/kernel/ftrace_enabled")
CPU1: Final = Path("/sys/devices/system/cpu/cpu1/online")
PLUG_VARIABLE: Final = "UAPTRACE_TEST_PLUG"
"""Names the file that makes the machine outside add a DIMM."""
SILENT: Final = r"^hooks are silent: "
_PERF_ENABLE, _PERF_DISABLE = 0x2400, 0x2401


@dataclass(frozen=True)
class Sabotage:
    """``do`` breaks something, ``undo`` mends it. ``label``: what a reason has to say, by mechanism; where it is empty an exact
    state that is true is as good. ``lasts``: nothing mends it."""

    name: str
    do: Callable[[Daemon], None]
    undo: Callable[[Daemon], None] = lambda daemon: None
    label: str = ""
    mechanisms: tuple[str, ...] = ("fentry", "kprobe")
    lasts: bool = False


def write(path: Path, text: str) -> Callable[[Daemon], None]:
    """The kernel may refuse: then nothing is broken, and the row says so."""

    def do(daemon: Daemon) -> None:
        try:
            path.write_text(text)
        except OSError as error:
            daemon.note = f"{path}: {error.strerror}"

    return do


def blink(path: Path) -> Callable[[Daemon], None]:
    """Off and on again, with work between, before anybody looks."""

    def do(daemon: Daemon) -> None:
        daemon.signal(signal.SIGSTOP)
        path.write_text("0")
        daemon.work.secretmem()
        path.write_text("1")
        daemon.signal(signal.SIGCONT)

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
    for _ in range(6):
        daemon.work.secretmem()
    daemon.signal(signal.SIGCONT)
    daemon.note = f"{daemon.snapshot().loss.events_lost} events lost"


def pause(daemon: Daemon) -> None:
    daemon.signal(signal.SIGSTOP)
    daemon.work.secretmem(7)
    daemon.signal(signal.SIGCONT)


def set_clock(seconds: float) -> Callable[[Daemon], None]:
    return lambda daemon: time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def swap_modules(daemon: Daemon) -> None:
    for name in ("dummy", "veth", "dummy"):
        daemon.work.module(name)


def close_descriptors(daemon: Daemon) -> None:
    daemon.signal(signal.SIGUSR1)


def trace_the_same(on: bool) -> Callable[[Daemon], None]:
    """Somebody else's kprobes on functions that are hooked."""

    events = ("p:others/cpa __change_page_attr_set_clr", "p:others/invalid set_direct_map_invalid_noflush") if on else ()
    return lambda daemon: probe(*events)


def plug(daemon: Daemon) -> None:
    """The machine outside adds a DIMM. It is mapped and not used: the cache of the patched kernel fails with memory that it was not
    made for (kernel/README.md, limits)."""
    Path("/sys/devices/system/memory/auto_online_blocks").write_text("offline")
    before = sum_of_meminfo()
    Path(os.environ[PLUG_VARIABLE]).touch()
    until(lambda: sum_of_meminfo() > before, "the memory is there")
    daemon.note = f"{(sum_of_meminfo() - before) >> 10} MiB"


def sum_of_meminfo() -> int:
    """KiB of the direct map."""
    return sum(int(kib) for kib in re.findall(r"^DirectMap\S+\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))


def sysctl(name: str, on: int, off: int) -> tuple[Callable[[Daemon], None], Callable[[Daemon], None]]:
    path = Path("/proc/sys/kernel") / name
    return write(path, str(on)), write(path, str(off))


def unmounted(kind: str, path: str) -> tuple[Callable[[Daemon], None], Callable[[Daemon], None]]:
    return run("umount", "-l", path), run("mount", "-t", kind, kind, path)


SABOTAGES: Final = (
    Sabotage("kprobes switched off", write(KPROBES, "0"), write(KPROBES, "1"), SILENT + "kprobes are switched off", ("kprobe",)),
    Sabotage("kprobes off for a moment", blink(KPROBES), label=SILENT + ".*that none reported", mechanisms=("kprobe",)),
    Sabotage("kprobes switched off, with fentry", write(KPROBES, "0"), write(KPROBES, "1"), mechanisms=("fentry",)),
    Sabotage("ftrace switched off", write(FTRACE, "0"), write(FTRACE, "1"), SILENT + "ftrace is switched off", ("kprobe",)),
    Sabotage("ftrace switched off, with fentry", write(FTRACE, "0"), write(FTRACE, "1"), mechanisms=("fentry",)),
    # The kernel calls the programs of a kprobe's event all the same.
    Sabotage("perf events disabled", perf_events(_PERF_DISABLE), perf_events(_PERF_ENABLE), mechanisms=("kprobe",)),
    Sabotage("links detached by bpftool", detach_links),
    Sabotage("consumer stopped and continued", pause),
    Sabotage("ring full", overflow),
    Sabotage("CPU offline", write(CPU1, "0")),
    Sabotage("CPU online again", write(CPU1, "1")),
    Sabotage("clock set", set_clock(86400.0), set_clock(-86400.0)),
    Sabotage("module swapped", swap_modules),
    Sabotage("addresses hidden", *sysctl("kptr_restrict", 2, 0)),
    Sabotage("perf forbidden", *sysctl("perf_event_paranoid", 3, 2)),
    Sabotage("traced by somebody else too", trace_the_same(True), trace_the_same(False)),
    Sabotage("debugfs unmounted", *unmounted("debugfs", "/sys/kernel/debug")),
    Sabotage("tracefs unmounted", *unmounted("tracefs", "/sys/kernel/tracing")),
    Sabotage("memory plugged in", plug, mechanisms=("fentry",)),
    # Never allowed again: last, and only once.
    Sabotage("facts of programs hidden", write(Path("/proc/sys/kernel/unprivileged_bpf_disabled"), "1"), mechanisms=("fentry",)),
    # Nothing mends it: what ends the daemon comes next.
    Sabotage("links closed", close_descriptors, label=SILENT + ".*descriptors were closed", lasts=True),
)  # fmt: skip
