# SPDX-License-Identifier: Apache-2.0
"""The one loop: source -> state -> snapshot.

Runs in one thread; others ask for snapshots. While nothing happens and nobody asks it wakes up for the heartbeat only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Generic, Protocol, TypeVar

from uaptrace.abi.errors import UaptraceError
from uaptrace.model.feed import FeedEndedError
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CountersReading, Records, Update
from uaptrace.session.feed import Feed
from uaptrace.session.heartbeat import Heartbeat

REST_S: Final = 0.05
"""After a batch: let records gather instead of waking up for each, unless there are many."""
RECONCILE_S: Final = 0.5
"""While records arrive: how often the state is compared with the kernel's own figures."""
SETTLE_TRIES: Final = 20
"""How often the state is read again and compared until it is exact, before it is left to the next round."""

MAX_KNOWN_CGROUPS: Final = 1 << 16
"""Ids that were looked for. A host that makes cgroups for weeks has more, of which nearly all are gone."""
STALE_S: Final = 2.0
"""How much later than it should be a snapshot may come before it says so."""


class TracingEndedError(UaptraceError):
    """The loop met what it was not made for. The message says what."""


class Sink(Protocol):
    """Something that is given every update, in order (a recording)."""

    def write(self, update: Update) -> None: ...


AnyFeed = TypeVar("AnyFeed", bound=Feed, covariant=True)


class Session(Generic[AnyFeed]):
    """A live trace. ``start()`` reads the baseline; ``run()`` is the loop; ``stop()`` ends it from any thread."""

    def __init__(self, source: AnyFeed, sink: Sink | None = None, on_records: Callable[[Records], None] | None = None) -> None:
        self._source = source
        self._sink = sink
        self._on_records = on_records
        self._state = KernelState()
        self._stopping = False
        self._lock = threading.Condition()
        self._wanted = 0
        self._published = 0
        self._snapshot: Snapshot | None = None
        self._figures: Snapshot | None = None
        """The last one of all, with rows or without."""
        self._want_regions = False
        self._want_rows = False
        self.keep_regions = False
        """Whether every snapshot has the region table; may be set from any thread."""
        self._last_reconcile_ns = 0
        self._dirty = False
        self._heartbeat = Heartbeat(
            source, lambda: self._state.direct_map, self.take_records, self._read_counters, self._handle, time.monotonic
        )
        self._interval_s: float | None = None
        self._ended = ""
        """What ended the loop, where it did not end because it was told to."""
        self._known_cgroups: set[int] = set()

    @property
    def source(self) -> AnyFeed:
        """Where updates come from; only for the thread that runs the session."""
        return self._source

    @property
    def state(self) -> KernelState:
        """The model; only for the thread that runs the session."""
        return self._state

    # ---- for the thread that runs it ----

    def start(self) -> None:
        """Take in what came first and read the baseline."""
        self._handle(self._source.start())
        self.take_records()
        self._read_map(None)
        self._settle()
        self._publish()

    def run(
        self, interval_s: float | None = None, until: Callable[[], bool] | None = None, on_turn: Callable[[], object] | None = None
    ) -> None:
        """Take in events until stop(), or until ``until()`` is true. With an interval, publish a snapshot that often, however many
        others are asked for. ``on_turn()`` is called before each turn of the loop, which a heartbeat makes every BEAT_S at least.
        Raises TracingEndedError where the loop cannot go on, or what else ended it."""
        self._interval_s = interval_s
        try:
            self._loop(interval_s, until or (lambda: False), on_turn or (lambda: None))
        except (UaptraceError, BrokenPipeError) as error:
            self._end(f"tracing ended: {error}")
            raise
        except Exception as error:
            what = f"tracing ended: {type(error).__name__}: {error}"
            self._end(what)
            raise TracingEndedError(f"{what}; start it again") from error

    def _loop(self, interval_s: float | None, until: Callable[[], bool], on_turn: Callable[[], object]) -> None:
        next_publish = time.monotonic() + (interval_s or 0.0)
        while not self._stopping and not until():
            on_turn()
            self._source.wait(self._timeout(next_publish if interval_s is not None else None))
            if self.take_records():
                self._dirty = True
                if not self._asked():
                    self._source.rest(REST_S)
            now = time.monotonic()
            due = interval_s is not None and now >= next_publish
            self._answer(now, due)
            if due and interval_s is not None:
                # The deadline is the clock's: answers to others do not move it, and what was missed is not made up for.
                next_publish += interval_s * (1 + (now - next_publish) // interval_s)

    def _answer(self, now: float, due: bool) -> None:
        """Beat, settle and publish, each where it is time for it or somebody waits."""
        beaten = now >= self._heartbeat.next_s and self._heartbeat.beat()
        if beaten or due or self._asked() or self._reconcile_due():
            self._settle()
        if due or self._asked():
            self._publish(rows=due)

    def take_records(self) -> bool:
        """Take in everything that is in the ring. Whether there was anything."""
        some = False
        for update in self._source.records():
            some = True
            self._handle(update)
            if self._on_records is not None and isinstance(update, Records):
                self._on_records(update)
        for update in self._source.names():
            self._handle(update)
        return some

    def finish(self) -> Snapshot:
        """The last snapshot, after everything has been taken in."""
        self.take_records()
        self._settle()
        return self._publish()

    # ---- for other threads ----

    def stop(self) -> None:
        self._stopping = True
        with self._lock:
            self._lock.notify_all()
        self._source.wake()

    @property
    def ended(self) -> str:
        """What ended the loop; empty while it runs, and where it was told to stop."""
        return self._ended

    def latest(self) -> Snapshot | None:
        """The last snapshot that was published. One that is older than it should be says so, and is not exact."""
        snapshot = self._snapshot
        if snapshot is None or self._interval_s is None:
            return self._unless_ended(snapshot)
        age_s = (time.monotonic_ns() - snapshot.time_ns) / 1e9
        return self._unless_ended(aged(snapshot, age_s) if age_s > self._interval_s + STALE_S else snapshot)

    def fresh(self, timeout_s: float = STALE_S, *, regions: bool = False, rows: bool = True) -> Snapshot | None:
        """A snapshot made after this call. Where the loop does not get to it in time, the last one there is, which then is not exact.

        Without ``rows`` (see KernelState.snapshot) it may lack them, and takes half the time.
        """
        with self._lock:
            self._wanted += 1
            ticket = self._wanted
            self._want_regions = self._want_regions or regions
            self._want_rows = self._want_rows or rows
            self._source.wake()
            self._lock.wait_for(lambda: self._published >= ticket or self._stopping, timeout_s)
            snapshot = self._snapshot if rows else self._figures
            answered = self._published >= ticket
        if snapshot is not None and not answered and not self._stopping:
            snapshot = aged(snapshot, (time.monotonic_ns() - snapshot.time_ns) / 1e9)
        return self._unless_ended(snapshot)

    # ---- inside ----

    def _end(self, what: str) -> None:
        self._ended = what
        self.stop()

    def _unless_ended(self, snapshot: Snapshot | None) -> Snapshot | None:
        if snapshot is None or not self._ended:
            return snapshot
        return inexact(snapshot, self._ended)

    def _handle(self, update: Update) -> None:
        self._state.update(update)
        if self._sink is not None:
            self._sink.write(update)

    def _asked(self) -> bool:
        return self._wanted > self._published

    def _timeout(self, deadline: float | None) -> float:
        now = time.monotonic()
        waits = [self._heartbeat.next_s - now]
        if deadline is not None:
            waits.append(deadline - now)
        if self._dirty:
            waits.append(self._last_reconcile_ns / 1e9 + RECONCILE_S - now)
        return max(0.0, min(waits))

    def _reconcile_due(self) -> bool:
        return self._dirty and time.monotonic() >= self._last_reconcile_ns / 1e9 + RECONCILE_S

    def _settle(self) -> None:
        """Compare with the kernel, and read again what is uncertain, until nothing is or it keeps changing under us."""
        self._last_reconcile_ns = time.monotonic_ns()
        reading = self._read_counters()
        for _ in range(SETTLE_TRIES):
            needed = self._state.needs_map_reading
            cache_needed = self._state.needs_cache_reading
            if needed is None and not cache_needed:
                break
            if needed is not None:
                self._read_map(None if isinstance(needed, str) else list(needed))
            if cache_needed:
                self._read_cache()
            reading = self._read_counters()
            if self.stopping_or_busy(reading):
                break
        # One comparison of a quiet moment is enough: nothing changes before the next record comes.
        wanted = self._state.needs_map_reading is not None or self._state.needs_cache_reading or self._state.needs_counters_reading
        self._dirty = not reading.quiet or wanted
        self._last_reconcile_ns = time.monotonic_ns()

    def stopping_or_busy(self, reading: CountersReading) -> bool:
        """Under load another try would find the next change: leave it to the next round."""
        return self._stopping or not reading.quiet

    def _read_counters(self) -> CountersReading:
        self.take_records()
        reading = self._source.read_counters(self._state.regions_to_check)
        self._handle(reading)
        return reading

    def _read_map(self, ranges: list[tuple[int, int]] | None) -> None:
        self.take_records()
        for reading in self._source.read_map(ranges):
            self._handle(reading)
            self.take_records()

    def _read_cache(self) -> None:
        regions: Iterable[int] = self._cache_regions()
        self.take_records()
        reading = self._source.read_cache(regions)
        if reading is not None:
            self._handle(reading)
            self.take_records()

    def _cache_regions(self) -> list[int]:
        """Where blocks of the cache can be: whatever is not mapped present by large pages."""
        return [region for reading in self._source.read_map(None) for region in reading.regions_of_small_pages()]

    def _publish(self, *, rows: bool = True) -> Snapshot:
        with self._lock:
            ticket, regions = self._wanted, self._want_regions or self.keep_regions
            rows = rows or self._want_rows
        snapshot = self._state.snapshot(time.monotonic_ns(), time.time(), regions=regions, rows=rows)
        unknown = {row.cgroup_id for row in snapshot.processes if not row.cgroup and row.cgroup_id} - self._known_cgroups
        unknown |= {row.cgroup_id for row in snapshot.split_rows if not row.cgroup and row.cgroup_id} - self._known_cgroups
        if unknown:
            if len(self._known_cgroups) > MAX_KNOWN_CGROUPS:
                self._known_cgroups.clear()  # those that are gone are looked for once more
            self._known_cgroups |= unknown
            for update in self._source.cgroups(unknown):
                self._handle(update)
            snapshot = self._state.snapshot(time.monotonic_ns(), time.time(), regions=regions, rows=rows)
        with self._lock:
            self._figures = snapshot
            if rows:
                self._snapshot = snapshot
            self._published = ticket
            if self._wanted == ticket:
                self._want_regions = False
                self._want_rows = False
            self._lock.notify_all()
        return snapshot


class LiveFeed:
    """A session that runs in another thread, as a SnapshotFeed."""

    def __init__(self, session: Session[Feed]) -> None:
        self._session = session

    def latest(self) -> Snapshot | None:
        """The last snapshot that was published. Raises FeedEndedError where the loop has ended by itself."""
        if self._session.ended:
            raise FeedEndedError(self._session.ended)
        return self._session.latest()

    def waiting_for(self) -> str:
        """What the first snapshot waits for."""
        return "the page tables are being read"

    def want_regions(self, wanted: bool) -> None:
        """Whether snapshots have ``regions``."""
        self._session.keep_regions = wanted

    def close(self) -> None:
        """Stop the session."""
        self._session.stop()


def aged(snapshot: Snapshot, age_s: float) -> Snapshot:
    """The same as a snapshot that is older than it should be."""
    return inexact(snapshot, f"these figures are {age_s:.0f} s old: the tracing loop does not answer")


def inexact(snapshot: Snapshot, reason: str) -> Snapshot:
    """The same with one more reason why it is not exact."""
    exactness = replace(snapshot.exactness, exact=False, reasons=(reason, *snapshot.exactness.reasons))
    return replace(snapshot, exactness=exactness)
