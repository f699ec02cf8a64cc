# SPDX-License-Identifier: Apache-2.0
"""This machine as the scripts need it: the cache folder, locks in it, programs and the packages that they come from."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from .errors import HostError

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uaptrace"
CHECKOUT: Final = Path(__file__).resolve().parents[2]
"""The source tree, where this is one."""
APT_GET: Final = (str(CHECKOUT / "kernel/apt-get"),)
"""Waits for another apt or dpkg that holds the lock."""
_MORE_PATH: Final = ":/usr/sbin:/sbin"
"""depmod, debootstrap and chroot are where the PATH of an ordinary user does not look."""


def note(program: str, message: str) -> None:
    """One line of progress on standard error."""
    print(f"{program}: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time is inside, of those that share the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def output_of(command: Sequence[str]) -> str:
    """What a command prints; empty where it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def run(command: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None, name: str | None = None) -> None:
    """Run a command whose output matters only where it fails: then HostError has its last line, and ``name`` or the command."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise HostError(f"{name or shlex.join(command)} failed: {last}")


def find_program(name: str) -> str | None:
    """The path of a program, those of root included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + _MORE_PATH)


def need(program: str, package: str) -> str:
    """The path of a program, installed from its package where that is possible; else HostError names the command."""
    if path := find_program(program):
        return path
    install = [*APT_GET, "install", "-y", "--no-install-recommends", package]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HostError(f"{program} is missing: sudo apt-get install {package}")
    note("host", f"installing {package}")
    with locked("apt"):
        run([*APT_GET, "update"])
        run(install, environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if path := find_program(program):
        return path
    raise HostError(f"package {package} has no {program}")


def own_mounts() -> list[str]:
    """The beginning of a command that is to have mounts of its own, which end with it. HostError where unshare is missing."""
    return [need("unshare", "util-linux"), "--mount", *propagation(Path("/proc/self/mountinfo").read_text())]


def propagation(mountinfo: str) -> list[str]:
    """What unshare has to be told, from the text of mountinfo: below a chroot, / may be no mount, and then it cannot be made private."""
    has_root = any(line.split()[4] == "/" for line in mountinfo.splitlines())
    return [] if has_root else ["--propagation", "unchanged"]
