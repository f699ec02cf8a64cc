# SPDX-License-Identifier: Apache-2.0
"""``uaptrace trial`` where the work fails, and where it never ends: each has its line, and the others keep their results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from uaptrace.trial.status import TrialStatus

TOP = Path(__file__).parents[2]
UAPTRACE = str(Path(sys.executable).with_name("uaptrace"))
KERNELS = ("patched", "patched+fail_the_work", "patched+never_end")
TIMEOUT_S = "240"
WORK = (
    "grep -q never_end /proc/cmdline && exec sleep infinity; "
    f"{TOP}/kernel/workload secretmem --pages 61; "
    "if grep -q fail_the_work /proc/cmdline; then echo no such luck; exit 5; fi"
)

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def test_work_that_fails_and_work_that_never_ends_have_their_lines(tmp_path: Path) -> None:
    command = [UAPTRACE, "trial", *KERNELS, "-o", str(tmp_path / "trial"), "--timeout", TIMEOUT_S, "--", "sh", "-c", WORK]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == TrialStatus.TIMEOUT, done.stderr
    said = json.loads((tmp_path / "trial/trial.json").read_text())
    good, failed, hung = ([check["problem"] for check in kernel["checks"] if not check["ok"]] for kernel in said["kernels"])
    assert good == []
    assert "sh ended with status 5: no such luck" in failed[0]
    assert f"{TIMEOUT_S} s" in hung[0]
    assert said["kernels"][0]["nr_runs"] == 1, "what ended stays"
