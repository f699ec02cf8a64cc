# SPDX-License-Identifier: Apache-2.0
"""The map under the cursor, a daemon far away, and the keys of a replay."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from tests.unit import view_snapshots as snapshots
from tests.unit.tui_screen import ListFeed, TapeFeed, poll, press, running, screen, top
from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.tui.panes import MapPane
from uaptrace.tui.time_control import parse_position

pytestmark = pytest.mark.asyncio


async def test_the_map_is_only_asked_for_while_it_is_looked_at() -> None:
    feed = ListFeed(snapshots.make(60, with_regions=False))
    app = top(feed)
    async with running(app) as pilot:
        text = await press(app, pilot, "4")
        assert feed.wanted == [False, True]
        assert "next snapshot" in text
        feed.snapshot = snapshots.make(61)
        assert "grouped" in await poll(app, pilot)
        await press(app, pilot, "1")
        assert feed.wanted == [False, True, False]


async def test_the_cursor_of_the_map_tells_what_is_there() -> None:
    app = top(ListFeed(snapshots.make(60)), view="map")
    async with running(app) as pilot:
        assert "0x0 pfn 0" in screen(app)
        text = await press(app, pilot, "n")
        assert "pages absent" in text
        pane = app.query_one("#map", MapPane)
        table = snapshots.make(60).regions
        assert table is not None
        at = pane.cursor_pfn
        for _ in range(9):
            await press(app, pilot, "z")
        assert "1 cell = 2M" in screen(app)
        assert pane.cursor_pfn == at
        for _ in range(9):
            await press(app, pilot, "x")
        assert "1 cell = 8 MiB" in screen(app)


async def test_the_cursor_jumps_over_the_hole_and_stops_at_the_ends() -> None:
    app = top(ListFeed(snapshots.make(60)), view="map")
    async with running(app) as pilot:
        pane = app.query_one("#map", MapPane)
        await press(app, pilot, "up", "left")
        assert pane.cursor_pfn == 0
        seen = [pane.cursor_pfn]
        for _ in range(15):
            await press(app, pilot, "down")
            seen.append(pane.cursor_pfn)
        gigabytes = [pfn >> 18 for pfn in seen]
        assert 3 not in gigabytes
        assert gigabytes[-1] == 6
        for _ in range(15):
            await press(app, pilot, "up")
        assert pane.cursor_pfn == 0


async def test_a_lost_connection_is_shown_and_the_last_picture_kept() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        feed.error = UaptraceError("the daemon at 127.0.0.1:9970 does not answer")
        text = await poll(app, pilot)
        assert "does not answer" in text
        assert "Unmapped cache" in text
        feed.error = None
        feed.snapshot = snapshots.make(61)
        assert "does not answer" not in await poll(app, pilot)


async def test_replay_keys() -> None:
    tape = TapeFeed()
    app = top(tape, tape)
    async with running(app) as pilot:
        assert "replay 0:00/0:30 ×1 playing" in screen(app)
        for key, part in (
            ("right", "0:10/0:30 ×1 paused"),
            ("right", "0:20/0:30"),
            ("left", "0:10/0:30"),
            ("plus", "×2"),
            ("minus", "×1"),
            ("space", "playing"),
            ("space", "paused"),
        ):
            assert part in await press(app, pilot, key), key
        assert app._picture is not None
        assert app._picture.snapshot is tape.tape[1]
        assert "jump to" in await press(app, pilot, "g")
        await press(app, pilot, *"0:30", "enter")
        assert app._picture.snapshot is tape.tape[3]
        await press(app, pilot, "g", *"-10", "enter")
        assert tape.at == 2
        assert "is not a time" in await press(app, pilot, "g", *"soon", "enter")
        await press(app, pilot, "escape")
        for key in "23":
            await press(app, pilot, key)
            at = tape.at
            await press(app, pilot, "left")
            assert tape.at == at - 1, "left steps in tables too"


async def test_in_the_jump_prompt_left_and_right_edit() -> None:
    tape = TapeFeed()
    app = top(tape, tape)
    async with running(app) as pilot:
        await press(app, pilot, "g", *"10", "left", "left", "2")
        assert app.query_one("#prompt", Input).value == "210"
        assert tape.at == 0


@pytest.mark.parametrize(
    ("text", "position"),
    [("90", 90), ("1:30", 90), ("1:02:03.5", 300), ("50%", 150), ("+10", 110), ("-1:00", 40), ("end", 300), ("start", 0), ("-500", 0)],
)
async def test_positions(text: str, position: float) -> None:
    assert parse_position(text, 100.0, 300.0) == position


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "5%%", "--1", "1e3", "nan", "٣", ":"])
async def test_what_is_no_position(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_position(text, 0.0, 300.0)
