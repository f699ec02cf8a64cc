# SPDX-License-Identifier: Apache-2.0
"""A recording played as if it happened now: the same updates in the same order, at any speed, forwards and back.

There is no thread: ``latest()`` does the work that is due, and at most ``budget_s`` of it, so a screen that calls it stays alive while
a long way is covered. Going back takes up a copy of the state that was kept on the way there.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import pickle
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from uaptrace.abi.errors import RecordingError
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.updates import CacheReading, CountersReading, MapReading, Records, Start, Update
from uaptrace.recording.errors import usable
from uaptrace.recording.ipc_messages import scan
from uaptrace.recording.reader import Chain, Place, open_parts, read_updates

MAX_CHECKPOINTS: Final = 24
MAX_FROZEN_BYTES: Final = 128 << 20
"""Of a copy of the state, before it is compressed. A state that is larger is played anew to go back."""
MIN_CHECKPOINT_ROWS: Final = 100_000
"""Closer together they would save less than 0.1 s."""

MAX_BEFORE_BASELINE: Final = 1000
"""Updates within which the first reading of the direct map is looked for."""

STEP_S: Final = 0.5
"""Recorded seconds of one step at speed 1: as far as a screen goes from picture to picture."""

MIN_SPEED: Final = 1 / 64
MAX_SPEED: Final = 1 << 16


class State(Protocol):
    """What is played into: uaptrace.model.state.KernelState."""

    def update(self, update: Update, /) -> object: ...

    def snapshot(self, time_ns: int, wall_time_s: float, *, regions: bool = False) -> Snapshot: ...


def _kernel_state() -> State:
    from uaptrace.model.state import KernelState

    return KernelState()


class ReplaySource:
    """Plays ``path`` (and the parts that follow it).

    ``speed``: recorded seconds for each second; None: everything at once. ``at``: seconds since the start to begin at.
    ``clock``: seconds, monotonic; ``budget_s``: longest time that one ``latest()`` may take; None: as long as it needs.
    ``keep_checkpoints``: keep copies of the state on the way, so that going back is quick.
    It is a SnapshotFeed (uaptrace.model.feed) and a ReplayControl (uaptrace.tui.time_control).
    RecordingError where the recording cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        speed: float | None = 1.0,
        at: float | None = None,
        *,
        regions: bool = False,
        clock: Callable[[], float] = time.monotonic,
        budget_s: float | None = 0.2,
        keep_checkpoints: bool = True,
        make_state: Callable[[], State] = _kernel_state,
    ) -> None:
        self.path: Final = Path(path)
        self._clock = clock
        self._budget_s = budget_s
        self._make_state = make_state
        self._regions = regions
        self._chain = Chain(open_parts(self.path))
        with usable(self.path):
            self.start, self.start_ns, ends_ns, nr_rows = _extent(self._chain)
        self.part_ends_ns: Final = tuple(ends_ns)
        """The last time in each part and those before it."""
        self.end_ns = ends_ns[-1]
        self._speed = math.inf if speed is None else speed
        self._paused = False
        self._checkpoint_rows = max(MIN_CHECKPOINT_ROWS, nr_rows // MAX_CHECKPOINTS) if keep_checkpoints else nr_rows + 1
        self._checkpoints: list[_Checkpoint] = []
        self._player = _Player(self._make_state(), self._chain, Place(), -1)
        self._snapshot: Snapshot | None = None
        self._anchor_s = clock()
        """Time of the clock at which the position was ``_anchor_ns``."""
        self._anchor_ns = self.start_ns + round((at or 0.0) * 1e9)
        self._target_ns = min(self._anchor_ns, self.end_ns)
        self._stale = True

    # A SnapshotFeed

    def latest(self) -> Snapshot | None:
        """The state at the position that is due now; the snapshot before it while the way there still takes time."""
        target_ns = self._due_ns()
        if target_ns != self._target_ns:
            self._target_ns, self._stale = target_ns, True
        if not self._stale:
            return self._snapshot
        if not self._play():
            # The clock stands while the way is covered: the position that was asked for is shown, not one behind it.
            self._anchor(self._target_ns)
            return self._snapshot
        self._snapshot = self.snapshot(regions=self._regions)
        self._stale = False
        return self._snapshot

    def waiting_for(self) -> str:
        """What the first snapshot waits for."""
        return f"the recording is being replayed ({self.progress:.0%})"

    def want_regions(self, wanted: bool) -> None:
        """Whether snapshots have ``regions``."""
        if wanted != self._regions:
            self._regions, self._stale = wanted, True

    def snapshot(self, *, regions: bool = False) -> Snapshot:
        """The state as far as it was played, at the position."""
        with usable(self.path):
            return self._player.state.snapshot(self._target_ns, self.wall_time_s(self._target_ns), regions=regions)

    def updates(self) -> Iterator[Update]:
        """All updates in order, apart from the position."""
        return read_updates(self.path)

    @property
    def recording_id(self) -> str:
        """What all parts of the recording have in common; empty where its writer gave none."""
        return str(self._chain.files[0].id)

    @property
    def first_part(self) -> int:
        """Number of the first part that is played."""
        return self._chain.files[0].part

    @property
    def writer(self) -> str:
        """The program that wrote it, and its version."""
        return str(self._chain.files[0].writer)

    # Control of time

    @property
    def paused(self) -> bool:
        """Whether time stands."""
        return self._paused

    @property
    def position_s(self) -> float:
        """Seconds since the start."""
        return (self._due_ns() - self.start_ns) / 1e9

    @property
    def length_s(self) -> float:
        """Seconds from the start to the last thing that was recorded."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def speed(self) -> float:
        """Recorded seconds for each second; infinite: everything at once."""
        return self._speed

    @property
    def finished(self) -> bool:
        """The end was reached, and is what ``latest()`` shows."""
        return not self._stale and self._target_ns >= self.end_ns

    @property
    def progress(self) -> float:
        """Share of the way to the position that is covered, 0 to 1."""
        way = self._target_ns - self.start_ns
        return 1.0 if way <= 0 else min(max((self._player.reached_ns - self.start_ns) / way, 0.0), 1.0)

    def pause(self, paused: bool = True) -> None:
        """Stop, or go on."""
        self._anchor(self._due_ns())
        self._paused = paused

    def step(self, number: int) -> None:
        """Pause, and go ``number`` steps on (back where negative); a step is STEP_S times the speed."""
        self.pause(True)
        scale = self._speed if math.isfinite(self._speed) else 1.0
        self.jump(self.position_s + number * STEP_S * scale)

    def jump(self, position_s: float) -> None:
        """To ``position_s`` seconds since the start."""
        self._anchor(self.start_ns + round(max(position_s, 0.0) * 1e9))

    def faster(self) -> None:
        """Twice the speed."""
        self._set_speed(self._speed * 2)

    def slower(self) -> None:
        """Half the speed."""
        self._set_speed(self._speed / 2)

    def wall_time_s(self, time_ns: int) -> float:
        """Time since the epoch at a time of the recording."""
        return self.start.wall_time_s + (time_ns - self.start.time_ns) / 1e9

    def close(self) -> None:
        """Close the files."""
        self._chain.close()

    def _set_speed(self, speed: float) -> None:
        self._anchor(self._due_ns())
        self._speed = min(max(speed, MIN_SPEED), MAX_SPEED)

    def _anchor(self, position_ns: int) -> None:
        self._anchor_s = self._clock()
        self._anchor_ns = min(max(position_ns, self.start_ns), self.end_ns)

    def _due_ns(self) -> int:
        if self._paused:
            return self._anchor_ns
        if not math.isfinite(self._speed):
            return self.end_ns
        passed_s = max(self._clock() - self._anchor_s, 0.0)
        return min(self._anchor_ns + round(passed_s * self._speed * 1e9), self.end_ns)

    def _play(self) -> bool:
        """Go to the target; False where the time was not enough."""
        if self._player.beyond(self._target_ns) or self._next_checkpoint_is_nearer():
            self._resume()
        until_s = math.inf if self._budget_s is None else self._clock() + self._budget_s
        while not self._player.play_batch(self._target_ns):
            self._keep_checkpoint()
            if self._clock() >= until_s:
                return False
        return True

    def _nearest(self) -> int:
        """Index of the last checkpoint that is not beyond the target, -1: none."""
        return bisect_right(self._checkpoints, self._target_ns, key=lambda c: c.reached_ns) - 1

    def _next_checkpoint_is_nearer(self) -> bool:
        i = self._nearest()
        return i >= 0 and self._checkpoints[i].rows > self._player.rows

    def _resume(self) -> None:
        i = self._nearest()
        if i < 0:
            self._player = _Player(self._make_state(), self._chain, Place(), -1)
        else:
            kept = self._checkpoints[i]
            self._player = _Player(_thaw(kept.state), self._chain, kept.place, kept.reached_ns, kept.rows)

    def _keep_checkpoint(self) -> None:
        player = self._player
        last = self._checkpoints[-1].rows if self._checkpoints else 0
        if player.rows - last >= self._checkpoint_rows and player.place is not None:
            frozen = _freeze(player.state)
            if frozen is None:
                self._checkpoint_rows = sys.maxsize
            else:
                self._checkpoints.append(_Checkpoint(frozen, player.place, player.reached_ns, player.rows))


def first_map_s(path: str | os.PathLike[str], start_ns: int) -> float:
    """Seconds from ``start_ns`` to when the direct map had first been read, 0 where it never was."""
    for update in itertools.islice(read_updates(path), MAX_BEFORE_BASELINE):
        if isinstance(update, MapReading) and update.complete:
            return max(update.end_ns - start_ns, 0) / 1e9
    return 0.0


class _Checkpoint:
    """A copy of the state between two batches. ``reached_ns``: the latest time that was played; ``rows``: how many."""

    def __init__(self, state: tuple[bytes, int], place: Place, reached_ns: int, rows: int) -> None:
        self.state, self.place, self.reached_ns, self.rows = state, place, reached_ns, rows


def _read_only(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(items)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        # Read-only mappings, which updates are full of, cannot be pickled as such.
        return (_read_only, (dict(obj),)) if type(obj) is MappingProxyType else NotImplemented


class _TooLargeError(Exception):
    pass


class _Bounded(io.BytesIO):
    """Memory for a copy of a state."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_FROZEN_BYTES:
            raise _TooLargeError
        return super().write(data)


def _freeze(state: State) -> tuple[bytes, int] | None:
    """A copy of a state, compressed (its arrays are sparse), and its size before. None where it would take too much memory."""
    out = _Bounded()
    try:
        _Pickler(out, protocol=5).dump(state)
    except _TooLargeError:
        return None
    raw = out.getbuffer()
    return pa.Codec("zstd", 1).compress(raw, asbytes=True), len(raw)


def _thaw(frozen: tuple[bytes, int]) -> State:
    """The state of ``_freeze``, whose bytes never left this process."""
    return pickle.loads(pa.Codec("zstd", 1).decompress(frozen[0], frozen[1], asbytes=True))  # type: ignore[no-any-return]


class _Player:
    """Plays batches into a state, up to a time."""

    def __init__(self, state: State, chain: Chain, place: Place, reached_ns: int, rows: int = 0) -> None:
        self.state = state
        self.reached_ns = reached_ns
        self.rows = rows
        self.place: Place | None = place
        """Where the next batch is; None inside of a batch."""
        self._path = chain.files[0].path
        self._failed: RecordingError | None = None
        self._failed_ns = 0
        self._batches = chain.batches(place)
        self._updates: Iterator[Update] = iter(())
        self._after: Place = place
        self._batch_rows = 0
        self._waiting: Update | None = None

    def beyond(self, time_ns: int) -> bool:
        """Something later than ``time_ns`` was played already, or could not be."""
        return self.reached_ns > time_ns or (self._failed is not None and self._failed_ns > time_ns)

    def play_batch(self, until_ns: int) -> bool:
        """Play what is left of one batch; True where the next thing is later than ``until_ns``, or there is none.

        RecordingError where that cannot be played, now and from then on: what follows would be played into a state that lacks it.
        """
        if self._failed is not None:
            raise self._failed
        try:
            with usable(self._path):
                return self._play_batch(until_ns)
        except RecordingError as error:
            self._failed, self._failed_ns = error, until_ns
            raise

    def _play_batch(self, until_ns: int) -> bool:
        if self.place is not None and not self._next_batch():
            return True
        while True:
            update = self._waiting if self._waiting is not None else next(self._updates, None)
            self._waiting = None
            if update is None:
                break
            now, later = _cut(update, until_ns)
            if now is not None:
                self.state.update(now)
                self.reached_ns = max(self.reached_ns, min(_time_ns(now), until_ns))
            if later is not None:
                self._waiting = later
                return True
        self.place = self._after
        self.rows += self._batch_rows
        return False

    def _next_batch(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        self._updates, self._after, self._batch_rows = batch.updates, batch.after, batch.rows.nr_rows
        self.place = None
        return True


def _time_ns(update: Update) -> int:
    """When an update was made, -1 for those without a time of their own."""
    match update:
        case Records():
            return int(update.batch["time_ns"].max()) if len(update.batch) else -1
        case MapReading() | CacheReading():
            return update.end_ns
        case Start() | CountersReading():
            return update.time_ns
        case _:
            return -1


def _cut(update: Update, until_ns: int) -> tuple[Update | None, Update | None]:
    """What of an update is not later than ``until_ns``, and what is. Records of several CPUs are not quite in the order of time: the cut is
    before the first that is later, so that their order stays that of the ring."""
    if not isinstance(update, Records):
        return (update, None) if _time_ns(update) <= until_ns else (None, update)
    later = np.flatnonzero(update.batch["time_ns"] > np.uint64(max(until_ns, 0)))
    if not len(later):
        return update, None
    at = int(later[0])
    return (Records(update.batch[:at]) if at else None), Records(update.batch[at:])


def _extent(chain: Chain) -> tuple[Start, int, list[int], int]:
    """The Start, the first time, the last time in each part and those before it, and the number of rows of a recording."""
    first = next((update for batch in chain.batches() for update in batch.updates), None)
    if not isinstance(first, Start):
        raise RecordingError(f"{chain.files[0].path}: does not begin with what was traced, it cannot be replayed")
    nr_rows, end_ns = 0, first.time_ns
    begin_ns = first.time_ns
    ends_ns = []
    for i, file in enumerate(chain.files):
        found = scan(file.path)
        nr_rows += sum(rows for _, rows in found)
        if i == 0 and file.part and found:
            # A part on its own begins where it was begun, not where tracing did.
            head = next(file.batches(found[0][0]))
            readings = head.rows.time_ns[1 : max(head.rows.nr_repeated, 1)]
            begin_ns = max(begin_ns, int(readings.max(initial=0)))
        for offset, _ in reversed(found[-2:]):
            batch = next(file.batches(offset), None)
            if batch is not None and batch.rows.nr_rows:
                end_ns = max(end_ns, int(batch.rows.time_ns.max()))
        ends_ns.append(end_ns)
        if i:
            file.close()
    return first, begin_ns, ends_ns, nr_rows
