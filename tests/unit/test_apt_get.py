# SPDX-License-Identifier: Apache-2.0
"""kernel/apt-get waits for another apt that holds the lock, and only for that."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

APT_GET = str(Path(__file__).parents[2] / "kernel/apt-get")

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")


def options(folder: Path) -> list[str]:
    """Package lists of its own, with no source to fetch from."""
    for name in ("state", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").touch()
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State": folder / "state",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def test_it_waits_until_the_lock_of_the_lists_is_free(tmp_path: Path) -> None:
    command = [APT_GET, *options(tmp_path), "update"]
    with (tmp_path / "lists/lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == "apt-get: another one holds its lock: waiting, 300 s at most\n"
    _, rest = process.communicate()
    assert process.returncode == 0, rest


def test_other_errors_are_apts_own_at_once(tmp_path: Path) -> None:
    done = subprocess.run([APT_GET, *options(tmp_path), "download", "no-such-package"], capture_output=True, text=True, check=False)
    assert done.returncode == 100
    assert "Unable to locate package no-such-package" in done.stderr
    assert "waiting" not in done.stderr
