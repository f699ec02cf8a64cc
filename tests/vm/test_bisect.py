# SPDX-License-Identifier: Apache-2.0
"""``git bisect run uaptrace trial ...`` names the commit that broke the cache: docs/trial.md, on a history of three commits.

What a commit changes is the kernel's command line, so that nothing has to be built.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.conftest import GUEST_LIMIT_S

UAPTRACE = str(Path(sys.executable).with_name("uaptrace"))
HISTORY = {"right": "quiet", "a fault": "unmapped_alloc_fault=0x2", "something else": "unmapped_alloc_fault=0x2 quiet"}
"""What each commit says, and the command line of its kernel."""
STEP = f"""
{UAPTRACE} trial patched "patched+$(cat command-line)" -o "$(mktemp -d)" --timeout {GUEST_LIMIT_S} --workload secretmem:pages=61
status=$?; case $status in 2|7|8|124) exit 125;; esac; exit $status
"""
"""As docs/trial.md has it, without the build."""

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def test_the_commit_that_turned_the_fault_on_is_found(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.invalid", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    git("init", "-q", "-b", "main")
    for message, command_line in HISTORY.items():
        (tmp_path / "command-line").write_text(command_line)
        git("add", "command-line")
        git("commit", "-qm", message)
    git("bisect", "start", "main", "main~2")
    said = git("bisect", "run", "sh", "-c", STEP)
    assert "is the first bad commit" in said, said
    assert git("log", "-1", "--format=%s", "refs/bisect/bad").strip() == "a fault"
