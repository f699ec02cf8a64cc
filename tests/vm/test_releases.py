# SPDX-License-Identifier: Apache-2.0
"""Debian's newest kernel over the files of each release: its Python, its bcc and its LLVM."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from uaptrace.testhost.trees import RELEASES

TOP = Path(__file__).parents[2]
KERNEL = "debian-7.3"

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.mark.parametrize("release", RELEASES)
def test_no_page_differs_with_the_compiler_of_that_release(release: str) -> None:
    made = subprocess.run([str(TOP / "kernel/tree"), release], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    command = [str(TOP / "kernel/boot"), "--kernel", KERNEL, "--root", made.stdout.splitlines()[-1], "--timeout", "600"]
    done = subprocess.run([*command, "--", "uaptrace", "verify", "--json"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    verdict = json.loads(done.stdout)
    assert verdict["differing_pages"] == 0, verdict
    assert verdict["compared_pages"] >= verdict["expected_pages"] > 100_000
    assert verdict["doubts"] == []
