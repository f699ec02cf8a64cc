# SPDX-License-Identifier: Apache-2.0
"""The screen of top without a terminal, on snapshots of a list or a tape. For tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot

from tests.unit import view_snapshots as snapshots
from uaptrace.abi.errors import UaptraceError
from uaptrace.model.snapshot import Snapshot
from uaptrace.tui.app import TopApp

pytestmark = pytest.mark.asyncio


class ListFeed:
    """Gives the snapshot it was told to give."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.error: UaptraceError | None = None
        self.wanted: list[bool] = []

    def latest(self) -> Snapshot | None:
        if self.error is not None:
            raise self.error
        return self.snapshot

    def waiting_for(self) -> str:
        return "the programs are being loaded (3 of 7)"

    def want_regions(self, wanted: bool) -> None:
        self.wanted.append(wanted)

    def close(self) -> None:
        self.snapshot = None


class TapeFeed(ListFeed):
    """A replay: a list of snapshots, ten seconds apart, and its control."""

    def __init__(self) -> None:
        super().__init__()
        self.tape = [snapshots.make(s) for s in (10, 20, 30, 40)]
        self.at = 0
        self.paused = False
        self.speed = 1.0

    def latest(self) -> Snapshot | None:
        return self.tape[self.at]

    @property
    def position_s(self) -> float:
        return self.at * 10.0

    @property
    def length_s(self) -> float:
        return (len(self.tape) - 1) * 10.0

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def step(self, number: int) -> None:
        self.paused = True
        self.at = max(0, min(len(self.tape) - 1, self.at + number))

    def jump(self, position_s: float) -> None:
        self.at = round(position_s / 10)

    def faster(self) -> None:
        self.speed *= 2

    def slower(self) -> None:
        self.speed /= 2


def screen(app: TopApp) -> str:
    """What is on the screen, as text."""
    width, height = app.size
    lines = []
    for strip in app.screen._compositor.render_strips():
        lines.append("".join(segment.text for segment in strip).rstrip())
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    return "\n".join(lines)


def top(feed: ListFeed, replay: TapeFeed | None = None, view: str = "overview") -> TopApp:
    """The app with an interval that the tests never wait for: they poll by hand."""
    return TopApp(feed, replay, refresh_s=3600, view=view)


@asynccontextmanager
async def running(app: TopApp, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Pilot[None]]:
    """The app after its first picture."""
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        await pilot.pause()
        yield pilot


async def poll(app: TopApp, pilot: Pilot[None]) -> str:
    app._poll()
    await pilot.pause()
    return screen(app)


async def press(app: TopApp, pilot: Pilot[None], *keys: str) -> str:
    await pilot.press(*keys)
    await pilot.pause()
    return screen(app)
