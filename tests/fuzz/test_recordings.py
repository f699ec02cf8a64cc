# SPDX-License-Identifier: Apache-2.0
"""200,000 recordings with values and bytes that no kernel would write, on a build whose compiled loops check every index."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.worker import CHECKED, ROOT

pytestmark = pytest.mark.slow

INPUTS: Final = 200_000
WORKERS: Final = 2
STALLED_S: Final = 60
"""On one input; a worker by itself tells of those above five seconds."""
LIMIT_MIB: Final = 2048
SOURCES: Final = (
    "setup.py",
    "uaptrace/model/loops.py",
    "uaptrace/model/loops.pxd",
    "uaptrace/policies/engine.pxd",
    *(f"uaptrace/policies/{name}.py" for name in ("engine_state", "page_allocator", "mappings", "caches", "engine")),
)


@pytest.fixture(scope="module")
def checked_build() -> None:
    """The compiled modules with checks of bounds, in build/checked; made anew where a source is newer."""
    built = list(CHECKED.glob("uaptrace/*/*.so"))
    newest = max((ROOT / name).stat().st_mtime for name in SOURCES)
    if len(built) >= 2 and all(path.stat().st_mtime > newest for path in built):
        return
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force", "--build-lib", str(CHECKED), "--build-temp", f"{CHECKED}-temp"]
    made = subprocess.run(command, cwd=ROOT, env={**os.environ, "UAPTRACE_BOUNDSCHECK": "1"}, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_mutated_recordings_are_read_or_refused(checked_build: None, tmp_path: Path) -> None:
    first = int(os.environ.get("UAPTRACE_FUZZ_FIRST", "0"))
    begin_s = time.monotonic()
    workers = [worker(tmp_path, first + i, first + INPUTS) for i in range(WORKERS)]
    try:
        watch(workers, tmp_path, first)
    finally:
        for process in workers:
            process.kill()
    said = [json.loads((process.stdout or sys.stdin).read()) if process.returncode in (0, 1) else {} for process in workers]
    print(f"\n{time.monotonic() - begin_s:.0f} s: {said}")
    for number, process in enumerate(workers):
        seed = seed_of(tmp_path, first + number)
        assert process.returncode in (0, 1), (
            f"seed {seed} ended the process: status {process.returncode}, {kept(tmp_path, first + number, seed)}"
        )
    failed = sorted(tmp_path.glob("failed-*.txt"))
    assert not failed, f"{len(failed)} failures, such as {failed[0]}: {failed[0].read_text()}"
    assert sum(each["inputs"] for each in said) == INPUTS
    assert max(each["peak_mib"] for each in said) < LIMIT_MIB
    assert 0.2 < sum(each["refused"] for each in said) / INPUTS < 0.8  # neither are all refused at the door, nor are all sound


def worker(folder: Path, first: int, end: int) -> subprocess.Popen[str]:
    """A process that takes every WORKERS-th seed."""
    arguments = [sys.executable, "-m", "tests.fuzz.worker", str(folder), str(first), str(end), str(WORKERS)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def watch(workers: list[subprocess.Popen[str]], folder: Path, first: int) -> None:
    """Wait for all; one that is too long at one seed is ended."""
    since = {number: (-1, time.monotonic()) for number in range(len(workers))}
    while any(process.poll() is None for process in workers):
        for number, process in enumerate(workers):
            seed = seed_of(folder, first + number)
            before, since_s = since[number]
            if seed != before:
                since[number] = seed, time.monotonic()
            elif process.poll() is None and time.monotonic() - since_s > STALLED_S:
                process.send_signal(signal.SIGABRT)  # faulthandler then says where it was
        for process in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)


def seed_of(folder: Path, first: int) -> int:
    """The seed that a worker is at, -1 before its first."""
    path = folder / f"seed-{first}"
    return int(path.read_text().strip() or -1) if path.exists() else -1


def kept(folder: Path, first: int, seed: int) -> Path:
    """The input of a seed, kept under its name."""
    path = folder / f"input-{first}.rec"
    return path.replace(folder / f"failed-{seed}.rec") if path.exists() else path
