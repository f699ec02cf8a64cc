# SPDX-License-Identifier: Apache-2.0
"""Time in a recording: wherever one goes, and by whatever way, the state is the one that was there then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.recording_pieces import counters, records, rotated, start, task
from tests.unit.recording_updates import plain
from tests.unit.simulated_host import host_updates
from uaptrace.abi.errors import RecordingError
from uaptrace.abi.events import Kind
from uaptrace.abi.wire import Batch
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence
from uaptrace.model.snapshot_json import encode_snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CountersReading, Records, Symbols, Update
from uaptrace.recording import RecordingWriter
from uaptrace.session import replay
from uaptrace.session.replay import ReplaySource

SECOND = 1_000_000_000


class Told:
    """A state that is just what it was told: shows that the right updates arrive, whatever a model makes of them."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def update(self, update: Update, /) -> None:
        self.updates.append(Records(update.batch.copy()) if isinstance(update, Records) else update)

    def snapshot(self, time_ns: int, wall_time_s: float, *, regions: bool = False) -> Any:
        return time_ns, wall_time_s, plain(self.updates), regions


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def recorded(path: Path, seconds: int = 20, per_second: int = 50) -> list[Update]:
    told: list[Update] = [start(time_ns=SECOND), Records(task(7, b"cat", SECOND + 1)), Symbols({1: "f+0x1"})]
    for i in range(1, seconds + 1):
        batch = records(per_second, first_ns=i * SECOND + SECOND // 2)
        batch["tgid"] = i
        told += [Records(batch), counters((i + 1) * SECOND, i)]
    with RecordingWriter(path, sync=False) as writer:
        for i, update in enumerate(told):
            writer.write(update)
            if i % 7 == 3:
                writer.flush()
    return told


def until(told: list[Update], time_ns: int) -> list[Any]:
    """What had been told by ``time_ns``."""
    out: list[Update] = []
    for update in told:
        if isinstance(update, Records):
            out.append(Records(update.batch[update.batch["time_ns"] <= time_ns]))
            if len(out[-1].batch) < len(update.batch):  # type: ignore[union-attr]
                break
        elif getattr(update, "time_ns", 0) <= time_ns:
            out.append(update)
        else:
            break
    return plain(out)


def source(path: Path, clock: Clock, **options: Any) -> ReplaySource:
    return ReplaySource(path, make_state=Told, clock=clock, budget_s=None, **options)


def said(replayed: ReplaySource) -> list[Any]:
    snapshot: Any = replayed.latest()
    return snapshot[2]  # type: ignore[no-any-return]


def test_at_full_speed_the_end_is_there_at_once(tmp_path: Path) -> None:
    told = recorded(tmp_path / "a")
    replayed = source(tmp_path / "a", Clock(), speed=None)
    assert said(replayed) == plain(told)
    assert replayed.finished
    assert replayed.position_s == replayed.length_s == 20.0
    assert plain(replayed.updates()) == plain(told)


def test_time_passes_as_it_did_and_stands_when_told_to(tmp_path: Path) -> None:
    told = recorded(tmp_path / "a")
    clock = Clock()
    replayed = source(tmp_path / "a", clock)
    assert said(replayed) == until(told, SECOND)
    clock.now_s += 3.25
    assert said(replayed) == until(told, SECOND + int(3.25 * SECOND))
    replayed.pause()
    clock.now_s += 100
    assert replayed.position_s == 3.25
    assert said(replayed) == until(told, SECOND + int(3.25 * SECOND))
    replayed.pause(False)
    replayed.faster()
    clock.now_s += 2
    assert replayed.position_s == 7.25
    replayed.slower()
    replayed.slower()
    assert replayed.speed == 0.5
    clock.now_s += 2
    assert replayed.position_s == 8.25
    assert said(replayed) == until(told, SECOND + int(8.25 * SECOND))
    clock.now_s += 1000
    assert said(replayed) == plain(told)
    assert replayed.finished


def test_a_cut_inside_of_a_batch_is_to_the_nanosecond(tmp_path: Path) -> None:
    told = recorded(tmp_path / "a", seconds=2)
    replayed = source(tmp_path / "a", Clock(), at=0.5 + 10e-6)
    replayed.pause()
    assert said(replayed) == until(told, SECOND + SECOND // 2 + 10_000)
    last = said(replayed)[-1]
    assert len(last) == 11 * 56  # the records at 0, 1, ... 10 microseconds


def test_the_same_picture_is_given_again_while_nothing_changed(tmp_path: Path) -> None:
    recorded(tmp_path / "a")
    replayed = source(tmp_path / "a", Clock(), at=3.0)
    replayed.pause()
    first = replayed.latest()
    assert replayed.latest() is first
    replayed.want_regions(True)
    with_regions: Any = replayed.latest()
    assert with_regions[3] is True


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 22), min_size=1, max_size=8), st.integers(1, 40))
def test_any_way_through_time_gives_the_state_of_that_time(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[float], spacing: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "jumps"
    if not path.exists():
        JUMPS.extend(recorded(path))
    replayed = source(path, Clock())
    replayed._checkpoint_rows = spacing  # copies are kept after every few rows, so that each way uses some of them
    replayed.pause()
    for position_s in jumps:
        replayed.jump(position_s)
        expected_ns = min(max(round(position_s * SECOND), 0), 20 * SECOND) + SECOND
        assert said(replayed) == until(JUMPS, expected_ns)


JUMPS: list[Update] = []


def test_steps_go_on_and_back(tmp_path: Path) -> None:
    recorded(tmp_path / "a")
    replayed = source(tmp_path / "a", Clock(), at=4.0)
    replayed.step(3)
    assert (replayed.paused, replayed.position_s) == (True, 4.0 + 3 * replay.STEP_S)
    replayed.step(-2)
    assert replayed.position_s == 4.0 + replay.STEP_S


def test_a_long_way_is_covered_in_pieces_so_that_a_screen_stays_alive(tmp_path: Path) -> None:
    told = recorded(tmp_path / "a")
    clock = Clock()

    class Slow(Told):
        def update(self, update: Update, /) -> None:
            clock.now_s += 0.15
            super().update(update)

    replayed = ReplaySource(tmp_path / "a", speed=None, make_state=Slow, clock=clock, budget_s=0.2)
    pieces = 0
    while replayed.latest() is None:
        pieces += 1
        assert "%" in replayed.waiting_for()
    assert pieces > 3
    assert said(replayed) == plain(told)


def test_parts_are_one_recording_and_the_last_can_be_played_alone(tmp_path: Path) -> None:
    told = rotated(tmp_path / "a", max_age_s=3.0)
    assert said(source(tmp_path / "a", Clock(), speed=None)) == plain(told)
    alone = source(tmp_path / "a.2", Clock(), speed=None)
    alone_said = said(alone)
    assert alone.length_s < 6.0
    assert alone_said[0][0].__name__ == "Start"


def test_a_recording_that_is_cut_off_plays_to_its_last_whole_batch(tmp_path: Path) -> None:
    told = recorded(tmp_path / "a")
    raw = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(raw[: len(raw) - 300])
    replayed = source(tmp_path / "a", Clock(), speed=None)
    got = said(replayed)
    assert 2 < len(got) < len(plain(told))
    assert got == plain(told)[: len(got)]
    assert replayed.length_s < 20.0


def test_records_of_several_cpus_keep_the_order_of_the_ring(tmp_path: Path) -> None:
    batch: Batch = records(6)
    batch["time_ns"] = np.array([10, 30, 20, 40, 35, 50]) + SECOND
    batch["kind"] = Kind.ALLOC
    told: list[Update] = [start(time_ns=SECOND), Records(batch)]
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        for update in told:
            writer.write(update)
    replayed = source(tmp_path / "a", Clock(), at=38e-9)
    replayed.pause()
    assert said(replayed) == plain([told[0], Records(batch[:3])])
    replayed.jump(60e-9)
    assert said(replayed) == plain(told)


def test_what_does_not_begin_with_a_start_is_refused(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(Records(records(3)))
    with pytest.raises(RecordingError, match="cannot be replayed"):
        source(tmp_path / "a", Clock())


@pytest.mark.parametrize("series", [True, False])
def test_replay_equals_live(tmp_path: Path, series: bool) -> None:
    live = KernelState()
    at_the_time: list[tuple[int, Any]] = []
    path = tmp_path / "host.rec"
    with RecordingWriter(path, sync=False) as writer:
        for update in host_updates(series=series, seconds=8):
            live.update(update)
            writer.write(update)
            if isinstance(update, CountersReading):
                seen = live.snapshot(update.time_ns, 1_750_000_000.0 + (update.time_ns - 5 * SECOND) / 1e9, regions=True)
                at_the_time.append((update.time_ns, encode_snapshot(seen)))
    assert live.snapshot(0, 0.0).exactness.exact
    clock = Clock()
    replayed = ReplaySource(path, clock=clock, budget_s=None, regions=True)
    replayed._checkpoint_rows = 500
    replayed.pause()
    # There and back and there again: with the copies that the first way left behind.
    for time_ns, expected in [*at_the_time, *reversed(at_the_time), *at_the_time[::3]]:
        replayed.jump((time_ns - replayed.start_ns) / 1e9)
        got = replayed.latest()
        assert got is not None
        assert encode_snapshot(got) == expected


def test_a_recording_shows_the_silence_that_was_there(tmp_path: Path) -> None:
    hooks = tuple(HookStatus(name, name, "kprobe") for name in ("cpa", "flush_all", "set_invalid", "set_default"))
    first = replace(start(time_ns=SECOND), hooks=hooks)
    off = replace(counters(4 * SECOND, 3), hooks_off={Silence.KPROBES_OFF.value: "/sys/kernel/debug/kprobes/enabled"})
    unseen = replace(counters(8 * SECOND, 7), unseen_pages=5)
    with RecordingWriter(tmp_path / "run.uaptrace", sync=False) as writer:
        for update in (first, counters(2 * SECOND, 1), off, counters(6 * SECOND, 5), unseen):
            writer.write(update)
            writer.flush()
    source = ReplaySource(tmp_path / "run.uaptrace", 1.0, clock=Clock(), budget_s=None)
    source.pause()
    for at_s, said in ((2, ""), (4, "kprobes are switched off"), (6, ""), (8, "5 pages changed that none reported")):
        source.jump(at_s - 0.5)
        snapshot = source.latest()
        assert snapshot is not None
        silent = [reason for reason in snapshot.exactness.reasons if reason.startswith("hooks are silent")]
        assert bool(silent) == bool(said), (at_s, silent)
        assert said in "".join(silent)
    assert snapshot is not None
    assert snapshot.silence.found == {**dict.fromkeys(Silence, 0), Silence.KPROBES_OFF: 1, Silence.UNSEEN_PAGES: 1}
    assert snapshot.silence.unseen_pages == 5
