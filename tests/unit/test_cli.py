# SPDX-License-Identifier: Apache-2.0
"""Bad input gets one clear line and its documented exit status, never a traceback; commands start without what they do not need."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.nobody import as_nobody
from uaptrace.commands.group import COMMANDS

UAPTRACE = [sys.executable, "-m", "uaptrace"]


def run(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """``before``: what comes before the command, such as as_nobody()."""
    return subprocess.run([*before, *UAPTRACE, *arguments], capture_output=True, text=True, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("uaptrace: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_the_overview_names_every_command() -> None:
    said = run("--help").stdout
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense"]),
        (["top", "--json"], ["--once"]),
        (["top", "--interval", "soon"], ["soon"]),
        (["top", "--connect", "h:1", "--replay", "f"], ["exclude"]),
        (["top", "--at", "5"], ["--replay"]),
        (["record"], ["--output"]),
        (["trace", "--kind", "magic"], ["magic", "alloc"]),
        (["serve", "--ring-size", "17"], ["power of two"]),
        (["serve", "--ring-size", "many"], ["many"]),
        (["splits", "--connect", "127.0.0.1:1"], ["127.0.0.1:1"]),
        (["map", "--zone", "DMA32", "--replay", "x"], ["--zone"]),
    ],
)
def test_bad_usage_is_one_line_and_status_2_or_1(arguments: list[str], words: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert_one_line(done, done.returncode, *words)


@pytest.mark.parametrize("command", [["top", "--once"], ["serve"], ["verify"], ["audit"], ["trace"], ["splits"], ["map"]])
def test_without_root_it_says_so(command: list[str]) -> None:
    assert_one_line(run(*command, before=as_nobody()), 2, "root", "sudo")


@pytest.mark.parametrize(
    "command",
    [["top", "--once"], ["audit"], ["splits"], ["map"], ["report", "-o", "{}/r.html"], ["recording", "info"], ["whatif"], ["serve"]],
)
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"x" * 500, b"just text\n" * 100])
def test_a_file_that_is_no_recording_is_status_4(command: list[str], content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "foreign"
    file.write_bytes(content)
    arguments = [part.format(tmp_path) for part in command]
    done = run(*arguments, *([str(file)] if command[0] in ("report", "recording", "whatif") else ["--replay", str(file)]))
    assert_one_line(done, 4, str(file))
    assert not (tmp_path / "r.html").exists()


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    """Also for a recording: the port is what is wrong, and how to choose another is said."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        recordings = sorted(Path(__file__).parents[1].glob("data/*.uaptrace"))
        assert recordings, "tests/data has no recording"
        done = run("serve", "--listen", f"127.0.0.1:{port}", "--replay", str(recordings[0]))
    assert_one_line(done, 2, str(port))


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    recordings = sorted(Path(__file__).parents[1].glob("data/*.uaptrace"))
    assert recordings, "tests/data has no recording"
    process = subprocess.Popen(
        [*UAPTRACE, "trace", "--json", "--replay", str(recordings[0])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("{")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_check_tells_what_this_host_can_do() -> None:
    import json

    done = run("check", "--json")
    document = json.loads(done.stdout)
    assert document["exit_status"] == done.returncode
    assert done.returncode in (0, 1, 2)
    names = {finding["name"] for finding in document["findings"]}
    assert {"root", "BTF", "compiled programs", "page tables", "tracing programs", "kernel symbols"} <= names
    for finding in document["findings"]:
        assert finding["ok"] or finding["mend"], finding
    assert all(hook["mechanism"] or hook["reason"] for hook in document["hooks"])
    text = run("check")
    assert text.returncode == done.returncode
    assert "Hooks: direct map" in text.stdout
