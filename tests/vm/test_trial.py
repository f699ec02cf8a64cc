# SPDX-License-Identifier: Apache-2.0
"""``uaptrace trial`` for real: a kernel that is right, one with a fault, and one that crashes in the middle of its work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from uaptrace.trial.answer_texts import COLUMNS
from uaptrace.trial.status import TrialStatus

TOP = Path(__file__).parents[2]
UAPTRACE = str(Path(sys.executable).with_name("uaptrace"))
GOOD, FAULTY, CRASHING = "patched", "patched+unmapped_alloc_fault=0x2", "patched+crash_in_the_middle"
PAGES = 61
WORK = (
    "echo the work began; if grep -q crash_in_the_middle /proc/cmdline; then echo c > /proc/sysrq-trigger; fi; "
    f"exec {TOP}/kernel/workload secretmem --pages {PAGES}"
)

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder() -> Path:
    return TOP / "build/vm/trial"


@pytest.fixture(scope="module")
def trial(folder: Path) -> subprocess.CompletedProcess[str]:
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    command = [UAPTRACE, "trial", GOOD, FAULTY, CRASHING, "-o", str(folder), "--timeout", GUEST_LIMIT_S, "--fail-if", "events.lost > 0"]
    return subprocess.run([*command, "--", "sh", "-c", WORK], cwd=TOP, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def said(folder: Path, trial: subprocess.CompletedProcess[str]) -> Any:
    assert trial.stdout, trial.stderr
    return json.loads((folder / "trial.json").read_text())


def problems(kernel: Any) -> list[str]:
    return [check["problem"] for check in kernel["checks"] if not check["ok"]]


def test_the_right_kernel_passes_and_its_figures_are_the_work_s(folder: Path, said: Any) -> None:
    good = said["kernels"][0]
    assert good["label"] == GOOD
    assert problems(good) == []
    result = json.loads((folder / "runs/1-patched/result.json").read_text())
    assert result["work"][0]["pages"] == PAGES
    assert (
        result["figures"]["calls.set_direct_map"]
        == result["snapshot"]["counters"]["set_invalid"] + result["snapshot"]["counters"]["set_default"]
    )
    assert result["figures"]["cache.hits"] + result["figures"]["cache.refills"] >= PAGES
    counters = result["snapshot"]["counters"]
    splits = sum(counters[f"split_{which}"] for which in ("2m", "1g", "other"))
    assert result["figures"]["flushes.all"] >= splits, "each split flushes everything once"
    assert result["figures"]["flushes.range"] >= result["figures"]["cache.refills"], "and each refill its range"
    assert {verdict["oracle"] for verdict in result["verify"]} == {"kcore", "ptdump"}
    assert result["complaints"] == []


def test_a_fault_gives_status_3_and_the_invariant_is_named(trial: subprocess.CompletedProcess[str], said: Any) -> None:
    assert trial.returncode == TrialStatus.INVARIANT_BROKEN, trial.stderr
    assert any("invariant 8 (" in problem for problem in problems(said["kernels"][1]))
    assert "invariant 8 (" in " ".join(trial.stdout.split())


def test_a_kernel_that_crashes_has_its_line_and_the_others_keep_theirs(folder: Path, said: Any) -> None:
    (problem,) = problems(said["kernels"][2])[:1]
    assert "crashed before the command ended: panic: sysrq triggered crash" in problem
    assert "the work began" in (folder / "runs" / "3-patched_crash_in_the_middle/output").read_text()
    assert "sysrq" in (folder / "runs" / "3-patched_crash_in_the_middle/console").read_text(errors="replace")
    assert said["kernels"][1]["figures"]["calls.set_direct_map"]["candidate"]["median"] > 0


def test_the_mail_fits_and_the_page_has_both_maps(folder: Path, trial: subprocess.CompletedProcess[str]) -> None:
    assert max(map(len, trial.stdout.splitlines())) <= COLUMNS
    assert trial.stdout == (folder / "trial.txt").read_text()
    assert "<html" in (folder / "trial.html").read_text()


def test_resuming_keeps_what_ended(folder: Path, trial: subprocess.CompletedProcess[str]) -> None:
    """The plan is another one: refused before anything boots, and nothing is lost."""
    command = [UAPTRACE, "trial", GOOD, FAULTY, "-o", str(folder), "--resume"]
    done = subprocess.run([*command, "--", "sh", "-c", WORK], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "had other arguments" in done.stderr
    assert (folder / "runs/1-patched/result.json").exists()
