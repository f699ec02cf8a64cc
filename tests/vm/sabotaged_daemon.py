# SPDX-License-Identifier: Apache-2.0
"""Inside the virtual machine: a daemon to sabotage, what the host does meanwhile, and what is true."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.vm.guest import get
from tests.vm.guest_session import TOP, direct_map_section
from uaptrace.abi.units import PAGES_PER_2M, Level
from uaptrace.kernel.ptdump import parse_ptdump
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.snapshot_json import decode_snapshot

PORT: Final = 9973
URL: Final = f"http://127.0.0.1:{PORT}"
LIMIT_S: Final = 120.0
"""How long anything is waited for: emulation on a busy machine is slow. What the label took is in the result."""
NR_PAGES: Final = 521
"""More than a chunk of the cache: each row makes the kernel unmap something."""
RING: Final = "256K"
"""Room for 4,096 records: enough for one row's work, and not for six."""
PTDUMP: Final = Path("/sys/kernel/debug/page_tables/kernel")
_PIDFD_OPEN, _PIDFD_GETFD, _MEMFD_SECRET = 434, 438, 447
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

    def command(self, ready: Path | None = None, port: int = PORT) -> list[str]:
        given = ["--listen", f"127.0.0.1:{port}", "--mechanism", self.mechanism, "--ring-size", RING]
        given += [] if ready is None else ["--ready-file", str(ready)]
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
        section = direct_map_section(text)
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
