# SPDX-License-Identifier: Apache-2.0
"""Standard streams as callers leave them: full, closed, in another encoding. Each by the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from uaptrace.commands.group import COMMANDS

RECORDING = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"
UAPTRACE = f"{sys.executable} -m uaptrace"
PRINTING = (
    f"splits --replay {RECORDING}",
    f"map --replay {RECORDING}",
    f"audit --replay {RECORDING}",
    f"top --once --replay {RECORDING}",
    f"trace --replay {RECORDING}",
    f"report --format md {RECORDING}",
    f"recording info {RECORDING}",
    "whatif --synthetic bpf --requests 10",
)
"""Commands that print something, and end with status 0."""


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The script, by bash. ``$uaptrace`` is the command."""
    values = {**os.environ, "uaptrace": UAPTRACE, **environment}
    return subprocess.run(["bash", "-c", script], capture_output=True, env=values, check=False, timeout=60)


def assert_one_line(done: subprocess.CompletedProcess[bytes], status: int, *words: str) -> None:
    lines = done.stderr.decode().splitlines()
    assert done.returncode == status, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("uaptrace: ")
    assert all(word in lines[0] for word in words), lines


@pytest.mark.parametrize("arguments", ["--help", "--version", *(f"{command} --help" for command in COMMANDS), *PRINTING])
def test_a_full_output_is_one_line_and_status_1(arguments: str) -> None:
    assert_one_line(shell(f"$uaptrace {arguments} >/dev/full"), 1, "standard output", os.strerror(28))


@pytest.mark.parametrize("arguments", ["--help", PRINTING[0], PRINTING[4]])
def test_a_closed_output_is_one_line_and_status_1(arguments: str) -> None:
    assert_one_line(shell(f"$uaptrace {arguments} >&-"), 1, "standard output")


@pytest.mark.parametrize("arguments", PRINTING)
@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-"])
def test_messages_that_nobody_gets_do_not_stop_a_command(arguments: str, closed: str) -> None:
    done = shell(f"$uaptrace {arguments} {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == shell(f"$uaptrace {arguments}").stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_file_does_not_get_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.html"
    made = tmp_path / "made.html"
    assert shell(f"$uaptrace report {RECORDING} -o {wanted}").returncode == 0
    assert shell(f"$uaptrace report {RECORDING} -o {made} {closed}").returncode == 0
    assert made.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("arguments", PRINTING)
def test_what_an_encoding_lacks_is_replaced(arguments: str) -> None:
    encoding = "iso-8859-1"
    done = shell(f"$uaptrace {arguments}", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    in_utf8 = shell(f"$uaptrace {arguments}", PYTHONIOENCODING="utf-8").stdout.decode()
    assert done.stdout == in_utf8.encode(encoding, "replace")


@pytest.mark.parametrize("arguments", PRINTING)
def test_the_c_locale_without_coercion(arguments: str) -> None:
    done = shell(f"$uaptrace {arguments}", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", ["--help", *PRINTING, f"report {RECORDING} -o /dev/stdout", f"report {RECORDING} -o /dev/fd/1"])
def test_a_reader_that_has_enough_ends_it_quietly(arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # It is gone before anything is written.
    with open(writing, "wb") as output:
        done = subprocess.run([*UAPTRACE.split(), *arguments.split()], stdout=output, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("name", ["x\udcff.rec", "a\nb.rec", "\x1b[31mred.rec", "\u202egnp.rec", "-o", "x" * 250])
def test_any_name_of_a_file_is_read_and_shown_escaped(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(RECORDING.read_bytes())
    shown = tmp_path / name
    for command in (["recording", "info"], ["report", "--format", "md"], ["report", "--format", "json"]):
        done = subprocess.run([*UAPTRACE.split(), *command, shown], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        text = done.stdout.decode()
        assert "\x1b" not in text
        assert "\u202e" not in text
    done = subprocess.run([*UAPTRACE.split(), "recording", "info", f"{shown}.absent"], capture_output=True, check=False)
    assert_one_line(done, 4)
    assert done.stderr.decode().rstrip("\n").isprintable()
