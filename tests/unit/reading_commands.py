# SPDX-License-Identifier: Apache-2.0
"""Runs the commands that read recordings, each in a process of its own, with limits, without the price of a start for each.

``python -m tests.unit.reading_commands`` imports everything once, and then forks for each line of arguments that it is given.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS_SPACE_BYTES = 4 << 30
OPEN_FILES = 1024


@dataclass(frozen=True)
class Ran:
    """What became of a command. ``status`` is a shell's: 128 + N where signal N ended it."""

    status: int
    out: str
    err: str
    cpu_s: float
    rss_bytes: int


def reading_commands(recording: Path, folder: Path) -> dict[str, list[str]]:
    """The arguments of every command that reads ``recording``; what is written goes to ``folder``."""
    name = str(recording)
    return {
        "top": ["top", "--once", "--replay", name],
        "top at": ["top", "--once", "--replay", name, "--at", "50%"],
        "top json": ["top", "--once", "--json", "--replay", name],
        "report md": ["report", name, "--format", "md"],
        "report json": ["report", name, "--format", "json"],
        "report html": ["report", name, "-o", str(folder / "page.html")],
        "map": ["map", "--replay", name],
        "map svg": ["map", "--replay", name, "--svg", str(folder / "map.svg")],
        "map json": ["map", "--json", "--replay", name],
        "splits": ["splits", "--stacks", "--replay", name],
        "splits json": ["splits", "--json", "--replay", name],
        "audit": ["audit", "--replay", name],
        "trace": ["trace", "--replay", name],
        "trace json": ["trace", "--json", "--replay", name],
        "whatif": ["whatif", name],
        "whatif map": ["whatif", "--map", "recorded", name],
        "info": ["recording", "info", name],
        "info json": ["recording", "info", "--json", name],
        "archive": ["archive", "add", name, "--to", str(folder / "archive")],
        "share": ["recording", "share", name, str(folder / "shared.rec"), "--overwrite"],
    }


class Commands:
    """The process that forks. ``run`` gives what a command did."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, arguments: list[str], limit_s: int = 60) -> Ran:
        """Run ``uaptrace`` with the arguments; SIGALRM ends it after ``limit_s`` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, limit_s]) + "\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))


@contextlib.contextmanager
def commands() -> Iterator[Commands]:
    """A process that runs commands."""
    arguments = [sys.executable, "-m", "tests.unit.reading_commands"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield Commands(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    for name in ("commands.group", "commands.recording", "reports.page.page", "reports.text", "reports.whatif_answer", "session.replay"):
        importlib.import_module(f"uaptrace.{name}")
    from uaptrace.cli import main

    for line in sys.stdin:
        arguments, limit_s = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
                resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
                signal.alarm(limit_s)
                sys.argv = ["uaptrace", *arguments]
                status = 70
                try:
                    main()
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else 0
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            _, status, usage = os.wait4(pid, 0)
            out.seek(0)
            err.seek(0)
            ran = Ran(
                status=os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
                out=out.read().decode(errors="replace"),
                err=err.read().decode(errors="replace"),
                cpu_s=usage.ru_utime + usage.ru_stime,
                rss_bytes=usage.ru_maxrss << 10,
            )
        print(json.dumps(vars(ran)), flush=True)


if __name__ == "__main__":
    _serve()
