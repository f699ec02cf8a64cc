# SPDX-License-Identifier: Apache-2.0
"""What systemd hears: ready when the state is exact, a watchdog that only the loop feeds, one status line; and what it hands over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.scripted_kernel import ScriptedKernel
from uaptrace.abi.errors import UsageError
from uaptrace.process.service_manager import READY_LIMIT_S, SAY_S, ServiceManager, handed_listener, notify_address
from uaptrace.session.loop import Session


class Manager:
    """The service manager's side of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture(params=["a path", "an abstract name"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "a path" else f"@uaptrace-test-{os.getpid()}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.socket.close()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_ready_is_said_once_and_only_when_the_state_is_exact(address: str, manager: Manager) -> None:
    clock = Clock()
    service = ServiceManager(address, clock)
    service.turn(lambda: ["baseline not read yet"])
    assert manager.heard() == ["WATCHDOG=1", "STATUS=not exact: baseline not read yet"]
    clock.now_s += SAY_S
    service.turn(list)
    assert manager.heard() == ["WATCHDOG=1", "STATUS=exact", "READY=1"]
    clock.now_s += SAY_S
    service.turn(list)
    assert manager.heard() == ["WATCHDOG=1"]
    service.stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_a_state_that_is_never_exact_is_served_with_its_reason(address: str, manager: Manager) -> None:
    clock = Clock()
    service = ServiceManager(address, clock)
    service.turn(lambda: ["the hook cpa is not attached"])
    assert "READY=1" not in manager.heard()
    clock.now_s += READY_LIMIT_S
    service.turn(lambda: ["the hook cpa is not attached"])
    assert "READY=1" in manager.heard()


@given(st.lists(st.text(), min_size=1))
def test_a_reason_is_one_line_whatever_it_is(reasons: list[str]) -> None:
    address = f"@uaptrace-test-lines-{os.getpid()}"
    manager = Manager(address)
    service = ServiceManager(address, Clock())
    service.turn(lambda: reasons)
    heard = manager.heard()
    manager.socket.close()
    service.close()
    assert heard[0] == "WATCHDOG=1"
    assert len(heard) == 2
    assert heard[1].startswith("STATUS=not exact: ")


def test_the_loop_feeds_the_watchdog(address: str, manager: Manager) -> None:
    """At each turn, and a loop that ended feeds no more."""
    session = Session(ScriptedKernel())
    session.start()
    service = ServiceManager(address, Clock())
    turns = iter(range(3))
    session.run(0.01, until=lambda: next(turns, None) is None, on_turn=lambda: service.turn(session.state.reasons))
    assert manager.heard().count("WATCHDOG=1") == 3
    assert manager.heard() == []


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    service = ServiceManager(str(tmp_path / "nobody"), Clock())
    service.turn(list)
    service.stopping()
    service.close()
    service.turn(list)


def test_without_a_manager_nothing_is_opened() -> None:
    before = len(os.listdir("/proc/self/fd"))
    service = ServiceManager(notify_address({}), Clock())
    service.turn(list)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_address_is_not_passed_on() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "HOME": "/"}
    assert notify_address(environment) == "/run/x"
    assert environment == {"HOME": "/"}
    with pytest.raises(UsageError, match="NOTIFY_SOCKET"):
        ServiceManager("vsock:2:1", Clock())


def test_sockets_for_another_process_are_left_alone() -> None:
    assert handed_listener({}, 7) is None
    assert handed_listener({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7) is None
    with pytest.raises(UsageError, match="give it one"):
        handed_listener({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7)


TAKE = """
import os
from uaptrace.process.service_manager import handed_listener
listener = handed_listener({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}, os.getpid())
print(listener.getsockname()[1], os.get_inheritable(3))
"""


def test_the_socket_of_a_socket_unit_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, open("/dev/null") as wrong:
        for number, expected in ((listener.fileno(), f"{listener.getsockname()[1]} False\n"), (wrong.fileno(), "")):
            done = subprocess.run(
                [sys.executable, "-c", TAKE],
                preexec_fn=partial(os.dup2, number, 3),
                close_fds=False,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout == expected, done.stderr
