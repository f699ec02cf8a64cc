# SPDX-License-Identifier: Apache-2.0
"""Debian's newest kernel, and in ``make matrix`` others, over the files of each release: with its bcc and its LLVM, and without any."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.vm.conftest import GUEST_LIMIT_S, WHOLE_MATRIX
from uaptrace.testhost.trees import RELEASES

TOP = Path(__file__).parents[2]
NEWEST, OTHERS = "debian-7.3", ("debian-5.10", "debian-6.18")
KERNELS = (NEWEST, *OTHERS) if WHOLE_MATRIX else (NEWEST,)

pytestmark = [pytest.mark.vm, pytest.mark.slow]


# What is removed in the guest is there again for the next one.
COMMANDS = "uaptrace verify --json --compile && rm -r /usr/lib/python3/dist-packages/bcc && echo , && uaptrace verify --json"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("release", RELEASES)
def test_no_page_differs_with_the_compiler_of_that_release_and_without_one(release: str, kernel: str) -> None:
    made = subprocess.run([str(TOP / "kernel/tree"), release], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    command = [str(TOP / "kernel/boot"), "--kernel", kernel, "--root", made.stdout.splitlines()[-1], "--timeout", GUEST_LIMIT_S]
    done = subprocess.run([*command, "--", "sh", "-c", COMMANDS], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    verdicts = json.loads(f"[{done.stdout}]")
    assert len(verdicts) == 2
    for verdict in verdicts:
        assert verdict["differing_pages"] == 0, verdict
        assert verdict["compared_pages"] >= verdict["expected_pages"] > 100_000
        assert verdict["doubts"] == []
