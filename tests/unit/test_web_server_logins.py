# SPDX-License-Identifier: Apache-2.0
"""Users and passwords of the endpoint: who guesses keeps nobody else out."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.unit.web_server import LOCAL, PATIENCE_S, RATIO, basic, get, running, scrape_times_s, wait_until
from uaptrace.exporter.http import Limits
from uaptrace.exporter.server import Server
from uaptrace.exporter.web_config import WebConfig

RECORDING = Path(__file__).parents[1] / "data/patched-6.1.uaptrace"


def test_passwords() -> None:
    users = {"prometheus": bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()}
    with running(web_config=WebConfig(users=users)) as server:
        for path in ("/metrics", "/healthz", "/readyz", "/snapshot", "/", "/nothing"):
            status, headers, _ = get(server, path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="uaptrace", charset="UTF-8"'), path
        for wrong in (
            basic("prometheus", "wrong"),
            basic("nobody", "right"),
            basic("", ""),
            basic("prometheus", ""),
            basic("prometheus", "right\0"),
            basic("prometheus", "x" * 2000),
            "Bearer right",
            "Basic",
            "Basic ???",
            "Basic " + base64.b64encode(b"no colon").decode(),
            "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        ):
            assert get(server, Authorization=wrong)[0] == 401, wrong
        for _ in range(2):
            assert get(server, Authorization=basic("prometheus", "right"))[0] == 200
        assert server.statistics.dropped["unauthorized"] == 6 + 11


def test_a_password_with_a_colon_and_beyond_ascii() -> None:
    users = {"müller": bcrypt.hashpw("pä:ss".encode(), bcrypt.gensalt(4)).decode()}
    with running(web_config=WebConfig(users=users)) as server:
        assert get(server, Authorization=basic("müller", "pä:ss"))[0] == 200


def test_hashes_of_other_tools_and_long_passwords() -> None:
    long = "x" * 100
    # htpasswd writes $2y$; bcrypt has only ever looked at 72 bytes.
    stored = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    with running(web_config=WebConfig(users={"a": stored})) as server:
        assert get(server, Authorization=basic("a", long))[0] == 200


def test_guessing_passwords_does_not_slow_those_who_know_theirs() -> None:
    users = {"prometheus": bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()}
    with running(web_config=WebConfig(users=users)) as server:

        def scrape() -> tuple[int, Any, Any]:
            return get(server, Authorization=basic("prometheus", "right"))

        assert scrape()[0] == 200
        usual_s = scrape_times_s(scrape, 20)
        stop = threading.Event()

        def guess(which: int) -> set[int]:
            statuses, number = set(), 0
            while not stop.is_set():
                statuses.add(get(server, Authorization=basic("prometheus", f"guess {which} {number}"))[0])
                number += 1
            return statuses

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            guessing = [pool.submit(guess, i) for i in range(4)]
            wait_until(lambda: server.statistics.dropped["unauthorized"] > 0)
            crowded_s = scrape_times_s(scrape, 20)
            stop.set()
            assert {status for answer in guessing for status in answer.result(PATIENCE_S)} == {401}
        # One core is busy with bcrypt, on purpose; a scrape that had to wait for it would take as long as a check.
        check_s = scrape_times_s(lambda: bcrypt.checkpw(b"x", users["prometheus"].encode()), 1)
        assert crowded_s < max(RATIO * usual_s, check_s)


@contextlib.contextmanager
def guesses(server: Server, users: Sequence[str], number: int = 60) -> Iterator[None]:
    """So many connections, each with a wrong password for one of the users in turn, none of which is answered by this one's begin."""
    with contextlib.ExitStack() as stack:
        for i in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S))
            guess = basic(users[i % len(users)], f"guess {i}")
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: {guess}\r\n\r\n".encode())
        yield


def hashed(password: str, cost: int) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


SLOW = hashed("slow", 4).replace("$04$", "$16$")
"""Nobody's password, and one that takes seconds to find that out."""


def test_a_process_that_ends_while_a_password_is_compared_ends_in_order() -> None:
    # What is destroyed last waits until the comparison is over: bcrypt then finds no interpreter, and aborts the process.
    script = """
import asyncio, os, sys, time
from uaptrace.exporter.password_checks import PasswordChecks

class Last:
    def __del__(self, os=os, time=time):
        while len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.01)

last = Last()

async def guess():
    checks = PasswordChecks()
    comparison = asyncio.create_task(checks.check("a", b"guess", {"a": sys.argv[1]}, lambda: None))
    await asyncio.sleep(0)
    checks.stop()
    comparison.cancel()

asyncio.run(guess())
"""
    done = subprocess.run([sys.executable, "-c", script, hashed("right", 14)], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("guessed", [["slow"], ["nobody", "no one", "slow"]], ids=["a user's", "of unknown names too"])
def test_guesses_at_an_expensive_password_delay_nobody_else(guessed: list[str]) -> None:
    with running(web_config=WebConfig(users={"slow": SLOW, "quick": hashed("right", 10)})) as server, guesses(server, guessed):
        assert get(server, Authorization=basic("quick", "right"))[0] == 200
        assert server.statistics.dropped["unauthorized"] == 0, "the guesses are still being looked at"


def test_guesses_that_take_all_places_keep_nobody_out() -> None:
    config = WebConfig(users={"slow": SLOW, "quick": hashed("right", 4)})
    with running(web_config=config, limits=Limits(connections=16)) as server, guesses(server, ["slow", "nobody"]):
        assert get(server, Authorization=basic("quick", "right"))[0] == 200
        assert server.statistics.dropped["limit"] > 0


def test_guesses_at_one_name_delay_that_name_alone() -> None:
    """Also where all hashes cost the same."""
    config = WebConfig(users={name: hashed(name, 10) for name in ("guessed", "other")})
    with running(web_config=config) as server, guesses(server, ["guessed", "nobody"]):
        assert get(server, Authorization=basic("other", "other"))[0] == 200
        assert server.statistics.dropped["unauthorized"] < 10, "it waited for two turns, not for all"


def test_who_knows_the_password_is_never_told_to_come_later() -> None:
    """Also where all others guess at the same name."""
    config = WebConfig(users={"guessed": hashed("right", 6)})
    with running(web_config=config) as server, guesses(server, ["guessed"], 100), concurrent.futures.ThreadPoolExecutor(8) as pool:
        right = [pool.submit(get, server, Authorization=basic("guessed", "right")) for _ in range(8)]
        assert [answer.result(PATIENCE_S)[0] for answer in right] == [200] * 8


def test_time_does_not_tell_which_names_exist() -> None:
    config = WebConfig(users={"cheap": hashed("a", 4), "usual": hashed("b", 9), "dear": hashed("c", 11)})
    with running(web_config=config) as server:
        # In turn: what else this machine does meanwhile meets all alike.
        rounds = [
            [
                scrape_times_s(partial(get, server, Authorization=basic(name, f"guess {i}")), 1)
                for name in ("cheap", "usual", "dear", "nobody")
            ]
            for i in range(9)
        ]
    medians_s = [statistics.median(times_s) for times_s in zip(*rounds, strict=True)]
    assert max(medians_s) < 2 * min(medians_s), medians_s


def test_the_end_does_not_wait_for_a_password(tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{slow: '{SLOW.replace('$16$', '$20$')}'}}")
    command = [sys.executable, "-m", "uaptrace", "serve", "--listen", LOCAL, "--web.config.file", str(config), "--replay", str(RECORDING)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        threads = Path(f"/proc/{process.pid}/task")
        before = len(list(threads.iterdir()))
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('slow', 'guess')}\r\n\r\n".encode())
            wait_until(lambda: len(list(threads.iterdir())) > before)
            process.terminate()
            assert process.wait(20) == 0, "the comparison takes a minute"


def test_headers_of_the_configuration_are_on_every_answer() -> None:
    config = WebConfig(headers={"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'"})
    with running(web_config=config) as server:
        for path in ("/", "/metrics", "/nothing"):
            assert get(server, path)[1]["X-Frame-Options"] == "deny"
        assert get(server, "/")[1]["Content-Security-Policy"] == "default-src 'self'"


def test_rate_limit() -> None:
    with running(web_config=WebConfig(rate_limit_interval_s=3600, rate_limit_burst=3)) as server:
        assert [get(server, "/healthz")[0] for _ in range(5)] == [200, 200, 200, 429, 429]
