# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: what each thread of a command that traces may still do, with every option that it has.

``python -m tests.vm.guest_privileges OUT.json``
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.children import children
from tests.unit.terminal import terminal
from tests.vm.guest import get, programs, wait_for
from tests.vm.guest_session import UAPTRACE, say

READY = "READY"
"""Stands for the name of the ready file."""
THEIRS = "/run/privileges/theirs"
"""A folder of the user 1000."""
OURS = "/run/privileges/ours"
"""A folder of root's that only root may enter."""
USER = 1000
WEB_CONFIG = "/run/privileges/web.yml"
FIELDS = ("Name", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")


@dataclass(frozen=True)
class Row:
    """A command, and where it makes its ready file."""

    name: str
    words: tuple[str, ...]
    folder: str = OURS
    port: int | None = None
    """Where it answers."""
    screen: bool = False
    """On a terminal."""
    files: tuple[str, ...] = field(default=())
    """What it makes, to be held against who made it."""


ROWS = (
    Row("serve", ("serve", "--listen", "127.0.0.1:9970", "--ready-file", READY), port=9970),
    Row(
        "serve for another user's folder",
        ("serve", "--web.config.file", WEB_CONFIG, "--mechanism", "kprobe", "--ring-size", "1M", "--compile", "--ready-file", READY),
        THEIRS,
        port=9970,
    ),
    Row(
        "serve below 1024",
        ("serve", "--listen", "127.0.0.1:80", "--page-tables", "bpf", "--page-alloc-hook", "tracepoint", "--ready-file", READY),
        port=80,
    ),
    Row(
        "top",
        ("top", "--once", "--json", "--interval", "600", "--listen", "127.0.0.1:9970", "--page-alloc-hook", "entry", "--ready-file", READY),
        port=9970,
    ),
    Row(
        "top on a screen",
        ("top", "--ring-size", "1M", "--page-tables", "bpf", "--mechanism", "kprobe", "--compile", "--ready-file", READY),
        THEIRS,
        screen=True,
    ),
    Row("record", ("record", "-o", f"{OURS}/a.rec", "--ready-file", READY), files=(f"{OURS}/a.rec",)),
    Row(
        "record for another user",
        ("record", "-o", f"{THEIRS}/a.rec", "--max-age", "1", "--ready-file", READY),
        files=(f"{THEIRS}/a.rec",),
    ),
)


def lives(pid: int) -> bool:
    """Whether it still does anything: one that has ended stays until its parent asks, and the guest's init may not ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def threads_of(pid: int) -> list[dict[str, str]]:
    """The status of each of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            lines = (task / "status").read_text().splitlines()
            status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            found.append({name: status[name] for name in FIELDS})
    return found


@contextlib.contextmanager
def running(row: Row, ready: Path) -> Iterator[tuple[int, Callable[[], int]]]:
    """The command's pid, and what waits for its end."""
    command = [UAPTRACE, *(str(ready) if word == READY else word for word in row.words)]
    if row.screen:
        with terminal(command) as window:
            window.until(lambda: ready.exists() or window.ended(), "ready")
            assert window.status is None, window.output
            yield window.pid, window.wait
        return
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(ready, process)
        yield process.pid, lambda: process.wait(60)


def tried(row: Row) -> dict[str, Any]:
    say(row.name)
    ready = Path(row.folder, "ready")
    with running(row, ready) as (pid, wait):
        seen: dict[str, Any] = {"name": row.name, "threads": threads_of(pid)}
        owner = ready.stat()
        seen["ready_file"] = {"uid": owner.st_uid, "bytes": owner.st_size}
        if row.port is not None:
            seen["healthz"] = get(f"http://127.0.0.1:{row.port}/healthz")
            seen["threads"] += threads_of(pid)
        seen["children"] = [threads_of(child) for child in children(pid)]
        os.kill(pid, signal.SIGTERM)
        seen["status"] = wait()
    seen["files"] = [{"uid": Path(file).stat().st_uid, "mode": Path(file).stat().st_mode & 0o777} for file in row.files]
    ready.unlink()
    return seen


def killed_while_loading() -> dict[str, Any]:
    """kill -9 of the command as long as its loader works: the loader must not go on as root."""
    say("kill -9 while loading")
    before = {program["id"] for program in programs()}
    shutil.rmtree("/var/cache/uaptrace", ignore_errors=True)
    with subprocess.Popen([UAPTRACE, "serve", "--listen", "127.0.0.1:9970"], stderr=subprocess.DEVNULL) as daemon:
        while not (loaders := children(daemon.pid)):
            assert daemon.poll() is None
            time.sleep(0.005)
        daemon.kill()
        daemon.wait()
    begin = time.monotonic()
    while any(map(lives, loaders)) and time.monotonic() < begin + 60:
        time.sleep(0.005)
    return {
        "loaders": len(loaders),
        "left": [pid for pid in loaders if lives(pid)],
        "programs": [program for program in programs() if program["id"] not in before],
        "seconds": time.monotonic() - begin,
    }


def port_in_use() -> dict[str, Any]:
    """What is said of a port that somebody has, and whether anything was loaded for it."""
    say("port in use")
    with socket.create_server(("127.0.0.1", 9970)):
        told = {**os.environ, "UAPTRACE_LOADER_LOG": "1"}
        done = subprocess.run([UAPTRACE, "serve"], capture_output=True, text=True, check=False, env=told)
    return {"status": done.returncode, "stderr": done.stderr}


def main() -> None:
    os.makedirs(OURS, mode=0o700)
    os.makedirs(THEIRS, mode=0o700)
    os.chown(THEIRS, USER, USER)
    Path(WEB_CONFIG).write_text("http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
    result: dict[str, Any] = {"killed": killed_while_loading(), "port": port_in_use()}
    result["rows"] = [tried(row) for row in ROWS]
    Path(sys.argv[1]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
