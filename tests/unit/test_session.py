# SPDX-License-Identifier: Apache-2.0
"""The loop: what ends it is said everywhere, what is late says so, and the clock alone sets the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.scripted_kernel import ScriptedKernel
from uaptrace.abi.units import PAGES_PER_2M, Level
from uaptrace.commands.tracing import running
from uaptrace.exporter.metrics import readiness
from uaptrace.model.compare import compare
from uaptrace.model.feed import FeedEndedError
from uaptrace.model.silence import Silence
from uaptrace.model.updates import Update
from uaptrace.session.loop import LiveFeed, Session, TracingEndedError

LIMIT_S = 120.0


@pytest.fixture
def kernel() -> ScriptedKernel:
    return ScriptedKernel()


@pytest.fixture
def session(kernel: ScriptedKernel) -> Session[ScriptedKernel]:
    made = Session(kernel)
    made.start()
    return made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.001)


def test_a_loop_that_dies_is_said_everywhere(kernel: ScriptedKernel, session: Session[ScriptedKernel]) -> None:
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
def test_whatever_ends_the_loop_in_the_first_thread_has_one_line(
    kernel: ScriptedKernel, session: Session[ScriptedKernel], error: Exception
) -> None:
    kernel.error = error
    with pytest.raises(TracingEndedError) as caught:
        session.run(None)
    assert "\n" not in str(caught.value)
    assert type(error).__name__ in str(caught.value)
    assert session.ended


def test_being_told_to_stop_is_no_death(session: Session[ScriptedKernel]) -> None:
    with running(session, 60):
        session.fresh()
    assert session.ended == ""
    snapshot = session.latest()
    assert snapshot is not None
    assert snapshot.exactness.exact


def test_a_loop_that_hangs_does_not_answer_with_the_truth_of_another_day(kernel: ScriptedKernel, session: Session[ScriptedKernel]) -> None:
    with running(session, 0.01):
        until(lambda: readiness(session.fresh()) is None)
        with kernel.hanging():
            # It may have been past that look, and answer once more.
            until(lambda: "s old: the tracing loop does not answer" in str(readiness(session.fresh(0.05))))
            until(lambda: "the tracing loop does not answer" in str(readiness(session.latest())))
        until(lambda: readiness(session.fresh()) is None)


def test_scrapes_do_not_move_the_deadline(session: Session[ScriptedKernel]) -> None:
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


def test_a_session_beats_by_itself(kernel: ScriptedKernel, session: Session[ScriptedKernel]) -> None:
    with running(session, None):
        until(lambda: readiness(session.fresh()) is None)
        kernel.hooked = False
        kernel.split(3)
        kernel.unmap(3 * PAGES_PER_2M)
        until(lambda: "hooks are silent" in str(readiness(session.fresh())))
        snapshot = session.fresh()
        assert snapshot is not None
        assert snapshot.direct_map.absent_bytes == 4096


PHASES = ("wait", "rest", "records", "names", "read_map", "read_counters", "figures", "look")


@pytest.mark.parametrize("phase", PHASES)
def test_it_ends_at_once_wherever_the_signal_meets_it(
    kernel: ScriptedKernel, session: Session[ScriptedKernel], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM calls stop() between any two steps of the loop: it ends in order, and what happened till then is in the last snapshot."""
    usual = getattr(kernel, phase)
    met = []

    def stopped(*args: Any) -> Any:
        met.append(phase)
        session.stop()
        return usual(*args)

    if phase == "read_map":  # read again only where something is not known
        kernel.split(3)
        kernel.lose_records()
    if phase in ("rest", "read_counters"):
        kernel.split(3)
    monkeypatch.setattr(kernel, phase, stopped)
    session.run()
    assert met
    assert session.ended == ""
    monkeypatch.undo()
    kernel.split(5)
    snapshot = session.finish()
    assert snapshot.exactness.exact, snapshot.exactness.reasons
    assert compare(session.state.direct_map, kernel.true_map()).differing_pages == 0


def test_a_loss_is_counted_and_healed(kernel: ScriptedKernel, session: Session[ScriptedKernel]) -> None:
    with running(session, None):
        until(lambda: readiness(session.fresh()) is None)
        with kernel.hanging():
            kernel.split(3)
            kernel.unmap(3 * PAGES_PER_2M + 5)
            kernel.lose_records()
        until(lambda: (now := session.fresh()) is not None and now.loss.events_lost == 2 and now.exactness.exact)
        snapshot = session.fresh()
    assert snapshot is not None
    assert snapshot.loss.lost_by_kind == {**dict.fromkeys(snapshot.loss.lost_by_kind, 0), "split": 1, "set_direct_map": 1}
    assert snapshot.exactness.nr_rereads > 0
    assert snapshot.direct_map.absent_bytes == 4096
    assert snapshot.silence.found == dict.fromkeys(Silence, 0)
    assert compare(session.state.direct_map, kernel.true_map()).differing_pages == 0


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_setting_the_clock_moves_nothing(
    kernel: ScriptedKernel, session: Session[ScriptedKernel], jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock is set by a day: snapshots go on coming, and only what says the time of day differs."""
    with running(session, 0.05):
        until(lambda: readiness(session.fresh()) is None)
        before = session.fresh()
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
        kernel.split(2)
        until(lambda: (now := session.fresh()) is not None and now.splits.by_level(Level.M2) == 1)
        after = session.fresh()
    assert before is not None
    assert after is not None
    assert after.exactness.exact
    assert 0 < after.time_ns - before.time_ns < LIMIT_S * 1e9
    assert abs(after.wall_time_s - before.wall_time_s - jump_s) < LIMIT_S


def test_memory_that_is_plugged_in_is_in_the_state(kernel: ScriptedKernel, session: Session[ScriptedKernel]) -> None:
    """The baseline changes under the loop, and no hook tells."""
    with running(session, None):
        until(lambda: readiness(session.fresh()) is None)
        kernel.plug_in(kernel.nr_regions)
        until(lambda: (now := session.fresh()) is not None and now.direct_map.total_bytes == kernel.nr_regions << 21)


def test_a_sink_that_fails_ends_the_trace_and_says_so(kernel: ScriptedKernel) -> None:
    class FullDisk:
        def __init__(self) -> None:
            self.is_full = False

        def write(self, update: Update) -> None:
            if self.is_full:
                raise OSError(28, "No space left on device")

    disk = FullDisk()
    session = Session(kernel, disk)
    session.start()
    disk.is_full = True
    kernel.split(1)
    with pytest.raises(TracingEndedError, match="No space left on device"):
        session.run(None)
    assert "No space left on device" in str(readiness(session.latest()))
