# SPDX-License-Identifier: Apache-2.0
"""``uaptrace trial --here`` under two kernels, one after the other, and ``trial join``: what a host that reboots does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import GUEST_LIMIT_S

TOP = Path(__file__).parents[2]
UAPTRACE = str(Path(sys.executable).with_name("uaptrace"))
KERNELS = {"before": "debian-6.1", "after": "patched"}
PAGES = 1021

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def said() -> Any:
    folder = TOP / "build/vm/here"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir(parents=True)
    for label, kernel in KERNELS.items():
        boot = [str(TOP / "kernel/boot"), "--kernel", kernel, "--timeout", GUEST_LIMIT_S, "--rwdir", str(folder), "--"]
        here = [UAPTRACE, "trial", "--here", label, "-o", str(folder), "--workload", f"secretmem:pages={PAGES},order=random"]
        done = subprocess.run([*boot, *here], cwd=TOP, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run([UAPTRACE, "trial", "join", str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_runs_under_two_kernels_become_one_table(said: Any) -> None:
    assert [kernel["label"] for kernel in said["kernels"]] == list(KERNELS)
    assert [check["problem"] for kernel in said["kernels"] for check in kernel["checks"] if not check["ok"]] == []
    before, after = (set(kernel["releases"]) for kernel in said["kernels"])
    assert not before & after


def test_the_cache_groups_what_was_scattered(said: Any) -> None:
    splits = said["kernels"][1]["figures"]["splits.2m"]
    assert splits["candidate"]["median"] < splits["baseline"]["median"]
