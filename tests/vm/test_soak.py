# SPDX-License-Identifier: Apache-2.0
"""Left running on a host that is never quiet, nothing grows and nothing is wrong: ``make soak HOURS=2`` (tests/vm/soak.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
HOURS = float(os.environ.get("UAPTRACE_SOAK_HOURS", "0"))
GROWTH_KIB = 2 << 10
"""Of resident memory after the first part: 2 MiB."""
KERNEL_GROWTH_KIB_A_CYCLE = 40
"""What one start and stop may leave with the kernel: less than a page for each program, map and link would be more."""

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def said() -> Any:
    folder = TOP / "build/vm/soak"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "result.json"
    out.unlink(missing_ok=True)
    seconds = HOURS * 3600
    command = [str(TOP / "kernel/boot"), "--kernel", os.environ.get("KERNEL") or "patched", "--timeout", f"{seconds + 3600:.0f}"]
    command += ["--", sys.executable, "-m", "tests.vm.soak", str(out), "--seconds", f"{seconds:.0f}"]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, (folder / "log").read_text(errors="replace")[-4000:]
    return json.loads(out.read_text())


def settled(said: Any) -> list[Any]:
    """Samples after the first third, ten minutes at the most: caches are filled by then."""
    samples: list[Any] = said["samples"]
    begin = min(samples[-1]["seconds"] / 3, 600)
    return [sample for sample in samples if sample["seconds"] >= begin]


def test_it_never_lied_and_ends_exact(said: Any) -> None:
    assert len(said["verdicts"]) >= 5
    assert [verdict for verdict in said["verdicts"] if not verdict["ok"]] == []
    assert said["at_the_end"]["exact"]
    assert said["at_the_end"]["differing"] == 0


@pytest.mark.parametrize("process", ["serve", "record"])
def test_nothing_grows(said: Any, process: str) -> None:
    samples = [sample[process] for sample in settled(said)]
    assert max(sample["rss_kib"] for sample in samples) - samples[0]["rss_kib"] <= GROWTH_KIB
    assert max(sample["descriptors"] for sample in samples) <= samples[0]["descriptors"] + 2, "a scrape that is being answered"
    assert {sample["threads"] for sample in samples} == {samples[0]["threads"]}


def test_the_recorder_went_on_to_the_end(said: Any) -> None:
    assert said["recorder"]["status"] == 0, said["recorder"]


def test_starting_and_stopping_leaves_nothing(said: Any) -> None:
    cycles = said["cycles"]
    assert (cycles["programs"], cycles["maps"], cycles["links"]) == (0, 0, 0)
    held = cycles["kernel_kib"]
    later = held[len(held) // 2 :]
    assert (later[-1] - later[0]) / len(later) < KERNEL_GROWTH_KIB_A_CYCLE, held


def test_the_kernel_has_no_complaint(said: Any) -> None:
    assert said["complaints"] == []
