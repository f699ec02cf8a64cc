# SPDX-License-Identifier: Apache-2.0
"""The screen of top on a terminal: every way out leaves the terminal as it was, and without one there is no screen."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.terminal import ALTERNATE_SCREEN, ORDINARY, Terminal, terminal

RECORDING = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"
TOP = [sys.executable, "-m", "uaptrace", "top", "--replay", str(RECORDING), "--speed", "0.01"]
DRAWN = "overview"


@contextmanager
def screen(command: list[str] = TOP, **options: Any) -> Iterator[Terminal]:
    """top, with its screen drawn."""
    with terminal(command, **options) as made:
        made.shows(DRAWN)
        made.until(lambda: ALTERNATE_SCREEN in made.modes and 2004 in made.modes, "the screen")
        assert not made.settings[3] & termios.ICANON
        yield made


def assert_as_before(made: Terminal) -> None:
    assert made.settings == made.before
    assert made.modes == ORDINARY


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGALRM"])
def test_a_signal_ends_it_and_the_terminal_is_as_before(name: str) -> None:
    with screen() as made:
        made.kill(signal.Signals[name])
        assert made.wait() == 128 + signal.Signals[name]
        assert_as_before(made)
        assert "Traceback" not in made.output.decode()


@pytest.mark.parametrize(("keys", "status"), [("q", 0), ("\x03", 130), ("\x11", 0), ("3/\x03", 130)])
def test_a_key_ends_it_and_the_terminal_is_as_before(keys: str, status: int) -> None:
    with screen() as made:
        made.type(keys)
        assert made.wait() == status
        assert_as_before(made)


@pytest.mark.parametrize("how", ["the signal", "the key"])
def test_while_it_is_stopped_the_terminal_is_as_before(how: str) -> None:
    with screen() as made:
        for _ in range(2):
            made.kill(signal.SIGTSTP) if how == "the signal" else made.type("\x1a")
            made.stopped()
            assert_as_before(made)
            made.output = b""
            made.kill(signal.SIGCONT)
            made.until(lambda: ALTERNATE_SCREEN in made.modes and 2004 in made.modes, "the screen again")
            made.shows(DRAWN)
        made.kill(signal.SIGTERM)
        assert made.wait() == 143
        assert_as_before(made)


def test_any_size_will_do() -> None:
    with screen() as made:
        for rows, columns in ((1, 1), (2, 300), (200, 3), (0, 0), (24, 80)):
            made.resize(rows, columns)
            made.output = b"\x1b[?1049h"
            made.until(lambda: len(made.output) > 8, "a new picture")
        made.type("q")
        assert made.wait() == 0
        assert made.settings == made.before


@pytest.mark.parametrize("controlling", [True, False])
def test_a_closed_window_ends_it(controlling: bool) -> None:
    with screen(controlling=controlling) as made:
        made.hang_up()
        assert made.wait(read=False) == 129
        assert made.usage.ru_utime < 10


def test_a_terminal_that_takes_nothing_does_not_hold_it() -> None:
    """Its window is stopped by Ctrl-S, or at the other end of a connection that stalls."""
    with screen() as made:
        termios.tcflow(made.slave, termios.TCOOFF)
        made.resize(50, 200)  # There is something to draw.
        made.kill(signal.SIGTERM)
        assert made.wait(read=False) == 143
        assert made.settings == made.before


def test_an_error_ends_it_with_one_line_and_the_terminal_as_before() -> None:
    script = """
import sys
from uaptrace import cli
from uaptrace.process.streams import prepare_streams
from uaptrace.tui import app
class Feed:
    asked = 0
    def latest(self):
        self.asked += 1
        if self.asked > 2:
            raise ZeroDivisionError("by the feed")
    def waiting_for(self):
        return "nothing"
    def want_regions(self, wanted):
        pass
prepare_streams()
try:
    app.show(Feed(), refresh_s=0.2)
except BaseException as error:
    sys.exit(cli.explain(error))
"""
    with terminal([sys.executable, "-c", script]) as made:
        assert made.wait() == 1
        assert_as_before(made)
        after = made.output.decode().rpartition("\x1b[?1049l")[2]
        assert "unexpected ZeroDivisionError: by the feed" in after
        assert after.count("\n") == 1


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", ["/dev/null", "a pipe", "a closed pipe"])
def test_without_a_terminal_it_is_refused_at_once(number: int, kind: str) -> None:
    with contextlib.ExitStack() as opened:
        null, reading, writing = os.open("/dev/null", os.O_RDWR), *os.pipe()
        ours, others = (reading, writing) if number == 0 else (writing, reading)
        for descriptor in (null, ours):
            opened.callback(os.close, descriptor)
        if kind == "a closed pipe":
            os.close(others)
        else:
            opened.callback(os.close, others)
        made = opened.enter_context(terminal(TOP, streams={number: null if kind == "/dev/null" else ours}))
        assert made.wait() == 2
        assert_as_before(made)
        if number != 2:
            assert made.output.count(b"\n") == 1
            assert b"--once" in made.output


@pytest.mark.parametrize("command", [TOP, [*TOP[:4]], [*TOP[:4], "--connect", "127.0.0.1:1"]], ids=["replay", "live", "connect"])
def test_a_dumb_terminal_is_refused_at_once(command: list[str]) -> None:
    with terminal(command, environment={"TERM": "dumb"}) as made:
        assert made.wait() == 2
        assert made.output.count(b"\n") == 1
        assert b"--once" in made.output
        assert_as_before(made)


def test_once_needs_no_terminal() -> None:
    with open("/dev/null") as null, terminal([*TOP[:6], "--once"], environment={"TERM": "dumb"}, streams={0: null.fileno()}) as made:
        assert made.wait() == 0
        assert made.modes == ORDINARY


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_while_a_password_is_asked_for_leaves_the_terminal_as_before(name: str, status: int) -> None:
    with terminal([*TOP[:4], "--once", "--connect", "me@127.0.0.1:1"]) as made:
        made.shows("Password of me")
        made.until(lambda: not made.settings[3] & termios.ECHO, "no echo")
        made.kill(signal.Signals[name])
        assert made.wait() == status
        assert_as_before(made)


def test_a_hangup_that_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    """nohup uaptrace serve &"""
    ready = tmp_path / "ready"
    serve = [*TOP[:3], "serve", "--replay", str(RECORDING), "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    with terminal(serve, prepare=partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)) as made:
        made.until(ready.exists, "ready")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{made.pid}/status").read_text().splitlines())
        assert int(status["SigIgn"], 16) & 1 << signal.SIGHUP - 1
        made.kill(signal.SIGTERM)
        assert made.wait() == 0
