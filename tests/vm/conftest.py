# SPDX-License-Identifier: Apache-2.0
"""Boots each row of the matrix once; all tests of the row read what its guest wrote down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from uaptrace.testhost import kernel_sources

TOP = Path(__file__).parents[2]
WHOLE_MATRIX = "UAPTRACE_MATRIX" in os.environ
"""``make matrix``: also what CI has no time for."""
SOAKS = "UAPTRACE_SOAK_HOURS" in os.environ
"""``make soak``: for as long as it says."""
collect_ignore = [
    *([] if WHOLE_MATRIX else ["test_bisect.py", "test_here.py", "test_trial_failures.py"]),
    *([] if SOAKS else ["test_soak.py"]),
]
GUEST_LIMIT_S = "1500"
"""For a guest, from its start to its end, as an argument. The longest took 820 s, beside another one on two slow processors."""
OTHER = "patched-other"
"""The series on the source that this machine's release does not have."""


@dataclass(frozen=True)
class Row:
    """One boot: a kernel, paging levels, and what is tried in it besides the phases that every row has."""

    name: str
    kernel: str
    levels: int
    memory: str = "2G"
    mix_seconds: int = 30
    extra: tuple[str, ...] = field(default=())
    append: tuple[str, ...] = ()
    """Arguments of the kernel."""

    @property
    def series(self) -> bool:
        return self.kernel.startswith("patched")

    @property
    def whole_chunks(self) -> bool:
        """The series changes chunks of 2M by one call."""
        return "unmapped_alloc.whole_pmd=1" in self.append

    def kernel_name(self) -> str:
        """As kernel/boot knows it."""
        if self.kernel != OTHER:
            return self.kernel
        default = kernel_sources.default_base()
        return next(f"patched-{base}" for base in kernel_sources.BASES if base != default)


ROWS = (
    Row(
        "patched-5-level",
        "patched",
        5,
        mix_seconds=60,
        extra=("--page-alloc", "entry", "--pressure", "--faults", "--small-ring", "--commands"),
    ),
    Row("patched-4-level", "patched", 4, extra=("--then-tracepoint",)),
    Row("debian-6.1-4-level", "debian-6.1", 4, extra=("--mechanism", "kprobe", "--page-alloc", "count")),
    # 1G mappings appear in a guest of 6 GB or more. Booting splits those that the kernel lies in: its address is not left to chance.
    Row("debian-6.12-5-level", "debian-6.12", 5, memory="6G", extra=("--page-tables", "bpf"), append=("nokaslr",)),
)
MORE_ROWS = (
    Row("debian-6.1-5-level", "debian-6.1", 5),
    Row("debian-6.12-4-level", "debian-6.12", 4, memory="6G", append=("nokaslr",)),
    Row("debian-7.3-5-level", "debian-7.3", 5, memory="6G", append=("nokaslr",)),
    Row("patched-other-5-level", OTHER, 5, extra=("--page-alloc", "entry", "--faults")),
    Row("patched-7.3-5-level", "patched-7.3", 5, extra=("--page-alloc", "entry", "--pressure", "--faults")),
    Row("patched-7.3-whole-4-level", "patched-7.3", 4, extra=("--pressure",), append=("unmapped_alloc.whole_pmd=1",)),
)
"""``make matrix`` boots these too."""
FULL = next(row for row in ROWS if "--commands" in row.extra)
"""In which everything is tried: the faults, the small ring, the commands."""
TRACEPOINT = next(row for row in ROWS if "--then-tracepoint" in row.extra)
"""Traces once more with the tracepoint of the page allocator."""


@dataclass(frozen=True)
class Run:
    row: Row
    result: dict[str, Any]
    folder: Path

    @property
    def last(self) -> dict[str, Any]:
        """The last phase: its figures are those of the whole run."""
        phase: dict[str, Any] = self.result["phases"][-1]
        return phase

    def phase(self, name: str) -> dict[str, Any]:
        return next(phase for phase in self.result["phases"] if phase["name"] == name)


BOOTED = (*ROWS, *MORE_ROWS) if WHOLE_MATRIX else ROWS


def only(row: Row) -> pytest.MarkDecorator:
    """For a test of what one row alone has."""
    return pytest.mark.parametrize("run", [row], ids=[row.name], indirect=True)


@pytest.fixture(scope="session", params=BOOTED, ids=lambda row: row.name)
def run(request: pytest.FixtureRequest) -> Run:
    """What the guest of one row saw. A boot that fails shows the end of its log."""
    return boot_row(request.param)


@cache
def boot_row(row: Row) -> Run:
    """Boot once, however many ask."""
    # Below the checkout: the guest may write there.
    folder = TOP / "build" / "vm" / row.name
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    out = folder / "result.json"
    for old in folder.iterdir():
        old.unlink()
    command = [str(TOP / "kernel/boot"), "--kernel", row.kernel_name(), "--memory", row.memory, "--cpus", "2", "--timeout", GUEST_LIMIT_S]
    command += ["--starts", str(folder / "starts")]
    if row.levels == 4:
        command += ["--append", "no5lvl"]
    for argument in row.append:
        command += ["--append", argument]
    command += ["--", sys.executable, "-m", "tests.vm.guest", str(out), "--recording", str(folder / "run.uaptrace")]
    command += ["--mix-seconds", str(row.mix_seconds), *row.extra]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    if (starts := int((folder / "starts").read_text())) > 1:
        warnings.warn(f"the guest of {row.name} died before the command started, and was started {starts} times", stacklevel=2)
    tail = (folder / "log").read_text(errors="replace")[-4000:]
    assert done.returncode == 0, f"the guest of {row.name} ended with status {done.returncode}:\n{tail}"
    return Run(row, json.loads(out.read_text()), folder)
