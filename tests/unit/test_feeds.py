# SPDX-License-Identifier: Apache-2.0
"""A view gets the same thing whatever it watches: a kernel that is traced, a recording that is played, a daemon elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.unit.scripted_kernel import ScriptedKernel
from tests.unit.web_server import running as serving
from uaptrace.abi.errors import UsageError
from uaptrace.commands.sources import SnapshotSource
from uaptrace.model.feed import SnapshotFeed
from uaptrace.model.snapshot import Snapshot
from uaptrace.session.loop import LiveFeed, Session
from uaptrace.session.remote import RemoteFeed
from uaptrace.session.replay import ReplaySource

RECORDING = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"


@contextmanager
def live() -> Iterator[SnapshotFeed]:
    session = Session(ScriptedKernel())
    session.start()
    with contextlib.closing(LiveFeed(session)) as feed:
        yield _PublishedOnDemand(session, feed)


class _PublishedOnDemand:
    """A live feed whose session has no thread: it publishes when it is asked."""

    def __init__(self, session: Session[ScriptedKernel], feed: LiveFeed) -> None:
        self._session = session
        self._feed = feed

    def latest(self) -> Snapshot | None:
        self._session.finish()
        return self._feed.latest()

    def waiting_for(self) -> str:
        return self._feed.waiting_for()

    def want_regions(self, wanted: bool) -> None:
        self._feed.want_regions(wanted)

    def close(self) -> None:
        self._feed.close()


@contextmanager
def replayed() -> Iterator[SnapshotFeed]:
    with contextlib.closing(ReplaySource(RECORDING, None, budget_s=None)) as source:
        yield source


@contextmanager
def remote() -> Iterator[SnapshotFeed]:
    with replayed() as feed:

        def latest(regions: bool = False) -> Snapshot | None:
            feed.want_regions(regions)
            return feed.latest()

        with serving(latest, region_feed=lambda: latest(True)) as server, contextlib.closing(RemoteFeed("127.0.0.1", server.port)) as far:
            yield far


FEEDS = {"live": live, "replay": replayed, "remote": remote}


@pytest.mark.parametrize("name", FEEDS)
def test_every_feed_gives_snapshots_with_regions_where_they_are_wanted(name: str) -> None:
    make: Callable[[], AbstractContextManager[SnapshotFeed]] = FEEDS[name]
    with make() as feed:
        first = feed.latest()
        assert first is not None
        assert first.regions is None
        feed.want_regions(True)
        whole = feed.latest()
        assert whole is not None
        assert whole.regions is not None
        assert whole.direct_map == first.direct_map
        feed.want_regions(False)
        again = feed.latest()
        assert again is not None
        assert again.regions is None
        assert feed.waiting_for()


def test_a_daemon_shows_what_its_recording_shows() -> None:
    with replayed() as here, remote() as far:
        assert far.latest() == here.latest()


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (SnapshotSource(connect="h", replay=RECORDING), {}, "--connect and --replay exclude each other"),
        (SnapshotSource(at_text="1:30"), {}, "--at goes with --replay"),
        (SnapshotSource(connect="h", at_text="1:30"), {}, "--at goes with --replay"),
        (SnapshotSource(connect="h"), {"ready_file": Path("r")}, "--ready-file goes with tracing, not with --replay or --connect"),
    ],
)
def test_options_that_exclude_each_other_are_refused(source: SnapshotSource, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        source.check(**options)
    SnapshotSource().check(ready_file=Path("r"))


def test_at_is_a_moment_of_the_recording_and_without_it_its_end() -> None:
    with SnapshotSource(replay=RECORDING).opened() as feed:
        end = feed.latest()
    with SnapshotSource(replay=RECORDING, at_text="end").opened() as feed:
        assert feed.latest() == end
    with SnapshotSource(replay=RECORDING, at_text="start").opened() as feed:
        start = feed.latest()
    assert start is not None
    assert end is not None
    assert start.time_ns < end.time_ns
