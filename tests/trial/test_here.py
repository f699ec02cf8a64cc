# SPDX-License-Identifier: Apache-2.0
"""Kernels that one host boots itself: their runs become one trial, whatever the order of the reboots."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trial.runs import FOLDER, LABELS, RUNS
from uaptrace.abi.errors import UsageError
from uaptrace.trial.answer_texts import COLUMNS, to_text
from uaptrace.trial.here import folder_here, join, plan_here
from uaptrace.trial.outcome import Ended, judge
from uaptrace.trial.runs import begin, folder_of
from uaptrace.trial.status import TrialStatus
from uaptrace.trial.trial_plan import Workload

UAPTRACE = str(Path(sys.executable).with_name("uaptrace"))
WORK = (Workload("secretmem:pages=4096", ("kernel/workload", "secretmem")),)


def made(folder: Path, label: str, begun_s: int, *, work: tuple[Workload, ...] = WORK, repeat: int = 2) -> None:
    """What ``trial --here`` leaves of a kernel: the documents are those of real runs in guests."""
    plan = plan_here(label, work, repeat, 1, 900.0)
    begin(plan, folder_here(folder, label), resume=False)
    os.utime(folder_here(folder, label) / "plan.json", (begun_s, begun_s))
    for place, name in enumerate(name for name in RUNS if name.partition("-")[2] == label):
        run = folder_of(folder_here(folder, label), place, plan.kernels[0])
        run.mkdir(parents=True)
        (run / "result.json").write_bytes((FOLDER / f"{name}.json").read_bytes())


def test_the_kernel_that_ran_first_is_the_baseline_unless_names_say_otherwise(tmp_path: Path) -> None:
    made(tmp_path, LABELS[1], 1000)
    made(tmp_path, LABELS[0], 2000)
    plan, runs = join(tmp_path, ())
    assert [kernel.label for kernel in plan.kernels] == [LABELS[1], LABELS[0]]
    assert [(run.kernel, run.number, run.status) for run in runs] == [(k, n, TrialStatus.OK) for k in (0, 1) for n in (0, 1)]
    plan, runs = join(tmp_path, LABELS)
    assert [kernel.label for kernel in plan.kernels] == list(LABELS)
    text = to_text(judge(plan, [Ended(run.kernel, run.result, run.error, run.status) for run in runs], ()))
    assert "this host" in text
    assert "QEMU" not in text
    assert max(map(len, text.splitlines())) <= COLUMNS


def test_a_run_that_left_nothing_is_told(tmp_path: Path) -> None:
    made(tmp_path, LABELS[0], 1000)
    made(tmp_path, LABELS[1], 2000)
    plan, _ = join(tmp_path, ())
    last = folder_of(folder_here(tmp_path, LABELS[1]), 1, plan.kernels[1])
    (last / "result.json").unlink()
    (last / "log").write_text("uaptrace: run it as root\n")
    run = join(tmp_path, ())[1][-1]
    assert run.result is None
    assert run.error == f"{LABELS[1]}: uaptrace: run it as root"


def test_other_work_is_not_compared(tmp_path: Path) -> None:
    made(tmp_path, LABELS[0], 1000)
    made(tmp_path, LABELS[1], 2000, work=(Workload("storm", ("kernel/workload", "storm")),))
    with pytest.raises(UsageError, match=r"other workloads than debian-6\.1"):
        join(tmp_path, ())


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"kernels": ["a", "b"]}', '{"kernels": 3}'])
def test_a_folder_that_is_no_trial_gets_one_line(tmp_path: Path, kept: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/plan.json").write_text(kept)
    with pytest.raises(UsageError, match="is not a plan of runs on a host"):
        join(tmp_path, ())


def test_one_kernel_is_no_comparison(tmp_path: Path) -> None:
    made(tmp_path, LABELS[0], 1000)
    with pytest.raises(UsageError, match="boot another one"):
        join(tmp_path, ())
    with pytest.raises(UsageError, match="no runs of patched"):
        join(tmp_path, LABELS)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UAPTRACE, "trial", *arguments], capture_output=True, text=True, check=False)


def test_the_command_joins_and_writes_all_forms(tmp_path: Path) -> None:
    made(tmp_path, LABELS[0], 1000)
    made(tmp_path, LABELS[1], 2000)
    for label, recording in zip(LABELS, ("debian-6.1", "patched-6.1"), strict=True):
        shutil.copy(FOLDER.parent / f"{recording}.uaptrace", tmp_path / label / f"runs/1-{label}" / f"{label}.uaptrace")
    done = run("join", str(tmp_path), "--format", "json", "--fail-if", "splits.2m > baseline * 2")
    assert done.returncode == 0, done.stderr
    said: Any = json.loads(done.stdout)
    assert [kernel["label"] for kernel in said["kernels"]] == list(LABELS)
    splits = said["kernels"][1]["figures"]["splits.2m"]
    assert splits["candidate"]["median"] < splits["baseline"]["median"]
    assert {path.name for path in tmp_path.glob("trial.*")} == {f"trial.{kind}" for kind in ("txt", "md", "json", "ktap", "xml", "html")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--here", "a"], "--here runs no work by default"),
        (["--here", "a", "--", "true"], "--here needs -o DIR"),
        (["--here", "a", "patched", "-o", "x", "--", "true"], "name no other one"),
        (["--here", "a", "-o", "x", "--memory", "4G", "--", "true"], "--memory does not go with --here"),
        (["--here", "a", "-o", "x", "--fail-if", "splits.2m > 1", "--", "true"], "--fail-if does not go with --here"),
        (["join"], "join needs the folder"),
        (["join", "x", "--repeat", "3"], "--repeat does not go with join"),
        (["join", "x", "--", "true"], "join runs nothing"),
        (["join", "nowhere"], "has runs of 0 kernels"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = subprocess.run([UAPTRACE, "trial", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
