# SPDX-License-Identifier: Apache-2.0
"""What traces the kernel needs root to begin with; what goes on afterwards has no privilege, whatever options were given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from tests.vm.guest_privileges import OURS, ROWS, THEIRS, USER, Row
from uaptrace.commands.serve import serve
from uaptrace.commands.top import top

TOP = Path(__file__).parents[2]
NOBODY = 65534
NOTHING = "0000000000000000"
ELSEWHERE = {"--replay", "--speed", "--at", "--connect", "--help"}
"""Options of a command that does not trace."""
NEEDS_COUNTERS = {"--count-walks"}
"""The guest's processor has none: tests/unit/test_walk_counters.py reads counters of software after privileges are gone."""

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    folder = TOP / "build/vm/privileges"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "result.json"
    out.unlink(missing_ok=True)
    command = [str(TOP / "kernel/boot"), "--kernel", "patched", "--timeout", GUEST_LIMIT_S]
    command += ["--", sys.executable, "-m", "tests.vm.guest_privileges", str(out)]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, (folder / "log").read_text(errors="replace")[-4000:]
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@pytest.mark.parametrize("command", [serve, top], ids=lambda command: command.name)
def test_every_option_of_a_network_daemon_is_tried(command: click.Command) -> None:
    words = {word for row in ROWS if row.words[0] == command.name for word in row.words}
    options = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert options - ELSEWHERE - NEEDS_COUNTERS <= words


def test_no_thread_keeps_anything(seen: dict[str, Any], row: Row) -> None:
    (found,) = (found for found in seen["rows"] if found["name"] == row.name)
    # Recordings are made by the owner of their folder, who makes the next part too; everything else is done by nobody.
    own = {OURS: 0, THEIRS: USER}[os.path.dirname(row.files[0])] if row.files else NOBODY
    assert found["threads"]
    for thread in found["threads"]:
        assert thread["Uid"].split() == [str(own)] * 4, thread
        assert "0" not in thread["Gid"].split() or own == 0, thread
        assert thread["Groups"] == "", thread
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert thread[name] == NOTHING, thread
        assert thread["NoNewPrivs"] == "1", thread
    assert found["children"] == [], "a process that could do more goes on beside it"


def test_it_works_all_the_same(seen: dict[str, Any], row: Row) -> None:
    (found,) = (found for found in seen["rows"] if found["name"] == row.name)
    assert found["ready_file"] == {"uid": USER if row.folder == THEIRS else 0, "bytes": 0}
    if row.port is not None:
        assert found["healthz"]["status"] == 200
    # The screen is left by SIGTERM as by any program that is on a terminal; the others end by it as they document it.
    assert found["status"] == (143 if row.screen else 0)
    for file in found["files"]:
        assert file["mode"] == 0o600


def test_a_loader_ends_with_the_command_that_started_it(seen: dict[str, Any]) -> None:
    killed = seen["killed"]
    assert killed["loaders"] == 1
    assert killed["left"] == []
    assert killed["programs"] == []
    assert killed["seconds"] < 10


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(seen: dict[str, Any]) -> None:
    assert seen["port"]["status"] == 2
    (line,) = seen["port"]["stderr"].splitlines()
    assert "another program has the port" in line
