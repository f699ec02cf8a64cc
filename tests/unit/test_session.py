# SPDX-License-Identifier: Apache-2.0
"""The loop: what ends it is said everywhere, what is late says so, and the clock alone sets the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.scripted_kernel import ScriptedKernel
from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.commands.live import LiveFeed, running
from uaptrace.exporter.metrics import readiness
from uaptrace.session.loop import Session, TracingEndedError
from uaptrace.tui.feed import FeedEndedError

LIMIT_S = 30.0


@pytest.fixture
def kernel() -> Iterator[ScriptedKernel]:
    made = ScriptedKernel()
    yield made
    made.may_run.set()


@pytest.fixture
def session(kernel: ScriptedKernel) -> Session:
    made = Session(kernel)  # type: ignore[arg-type]
    made.start()
    return made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.001)


def test_a_loop_that_dies_is_said_everywhere(kernel: ScriptedKernel, session: Session) -> None:
    def meanwhile() -> None:
        until(lambda: readiness(session.fresh()) is None)
        kernel.error = RuntimeError("the ring is gone")
        begin = time.monotonic()
        session.fresh(4 * LIMIT_S)
        assert time.monotonic() - begin < LIMIT_S, "whoever waits for an answer is told at once"
        for snapshot in (session.fresh(), session.fresh(rows=False), session.latest()):
            assert "tracing ended: RuntimeError: the ring is gone" in str(readiness(snapshot))
        with pytest.raises(FeedEndedError, match="the ring is gone"):
            LiveFeed(session).latest()

    def run() -> None:
        with running(session, 60):
            meanwhile()

    with pytest.raises(TracingEndedError, match="tracing ended: RuntimeError: the ring is gone; start it again"):
        run()


@pytest.mark.parametrize("error", [MemoryError(), LookupError("/proc/kcore has no address 0x0"), OSError(5, "I/O error")])
def test_whatever_ends_the_loop_in_the_first_thread_has_one_line(kernel: ScriptedKernel, session: Session, error: Exception) -> None:
    kernel.error = error
    with pytest.raises(TracingEndedError) as caught:
        session.run(None)
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert session.ended


def test_being_told_to_stop_is_no_death(session: Session) -> None:
    with running(session, 60):
        session.fresh()
    assert session.ended == ""
    snapshot = session.latest()
    assert snapshot is not None
    assert snapshot.exactness.exact


def test_a_loop_that_hangs_does_not_answer_with_the_truth_of_another_day(kernel: ScriptedKernel, session: Session) -> None:
    with running(session, 0.01):
        until(lambda: readiness(session.fresh()) is None)
        kernel.may_run.clear()
        snapshot = session.fresh(0.05)
        assert snapshot is not None
        assert "s old: the tracing loop does not answer" in snapshot.exactness.reasons[0]
        until(lambda: readiness(session.latest()) is not None)
        assert "the tracing loop does not answer" in str(readiness(session.latest()))
        kernel.may_run.set()
        until(lambda: readiness(session.fresh()) is None)


def test_scrapes_do_not_move_the_deadline(session: Session) -> None:
    """Somebody scrapes all the time; the picture of the screen is as new as its interval says."""
    stop = threading.Event()
    scrapes = [0]

    def scrape() -> None:
        while not stop.is_set():
            session.fresh(rows=False)
            scrapes[0] += 1

    with running(session, 0.2):
        scraper = threading.Thread(target=scrape)
        scraper.start()
        seen: set[int] = set()

        def pictures() -> int:
            snapshot = session.latest()
            assert snapshot is not None
            seen.add(snapshot.time_ns)
            return len(seen)

        until(lambda: pictures() >= 5)
        stop.set()
        scraper.join()
    times = sorted(seen)
    assert scrapes[0] > 5, "it was scraped meanwhile"
    assert times[-1] - times[1] >= 0.5e9, "nor does it come more often than that"


def test_a_session_beats_by_itself(kernel: ScriptedKernel, session: Session) -> None:
    with running(session, None):
        until(lambda: readiness(session.fresh()) is None)
        kernel.hooked = False
        kernel.split(3)
        kernel.unmap(3 * PAGES_PER_2M)
        until(lambda: "hooks are silent" in str(readiness(session.fresh())))
        snapshot = session.fresh()
        assert snapshot is not None
        assert snapshot.direct_map.absent_bytes == 4096
