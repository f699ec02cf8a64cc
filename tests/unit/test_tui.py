# SPDX-License-Identifier: Apache-2.0
"""A person at the screen of top: every key, every size, and every state that a host can be in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.unit import view_snapshots as snapshots
from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.model.snapshot import Snapshot
from uaptrace.tui.app import TopApp
from uaptrace.tui.feed import FeedEndedError, parse_position
from uaptrace.tui.panes import LinesScreen, MapPane, OverviewPane, TablePane
from uaptrace.tui.tables import PROCESSES, splits_table

pytestmark = pytest.mark.asyncio

SIZES = [(80, 24), (120, 40), (200, 50)]


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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "change", [lambda s: s, snapshots.inexact, snapshots.broken_audit, snapshots.without_series, lambda s: snapshots.empty()]
)
async def test_every_view_at_every_size_in_every_state(size: tuple[int, int], change: Callable[[Snapshot], Snapshot]) -> None:
    app = top(ListFeed(change(snapshots.make(60))))
    async with running(app, size) as pilot:
        for key, part in (("1", "Direct map"), ("2", "Processes"), ("3", "Splits"), ("4", "The direct map")):
            text = await press(app, pilot, key)
            assert part in text
            assert "h help" in text
            assert "q quit" in text


async def test_before_the_first_snapshot_it_says_what_it_waits_for() -> None:
    feed = ListFeed()
    app = top(feed)
    async with running(app) as pilot:
        assert "the programs are being loaded (3 of 7)" in await poll(app, pilot)
        for key in ("1", "2", "3", "4", "s", "slash", "a", "space", "g", "left", "enter", "space"):
            await press(app, pilot, key)
        feed.snapshot = snapshots.make(60)
        await poll(app, pilot)
        text = await press(app, pilot, "2")
        assert "Processes" in text
        assert "signer" in text
        assert "loaded" not in text


async def test_exactness_and_its_reason_are_in_the_header_of_every_view() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        assert screen(app).splitlines()[0].endswith("EXACT")
        assert "INEXACT" not in screen(app)
        feed.snapshot = snapshots.inexact(snapshots.make(61))
        await poll(app, pilot)
        for key in "1234":
            rows = (await press(app, pilot, key)).splitlines()
            assert rows[0].endswith("! INEXACT")
            assert "1,234 events were lost" in rows[1]
        feed.snapshot = snapshots.make(62)
        assert "INEXACT" not in await poll(app, pilot)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_loop_that_ended_ends_the_screen_so_that_its_reason_is_read(paused: bool) -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        if paused:
            await press(app, pilot, "space")
        feed.error = FeedEndedError("tracing ended: RuntimeError: the ring is gone")
        app._poll()
        await pilot.pause()
        assert not app.is_running or app._exit


async def test_hooks_that_are_silent_are_in_the_header_and_in_trust() -> None:
    app = top(ListFeed(snapshots.silent(snapshots.make(60))))
    async with running(app, (120, 60)) as pilot:
        text = await poll(app, pilot)
        assert text.splitlines()[0].endswith("! INEXACT")
        assert "hooks are silent: 1,021 pages changed that none told of" in text
        assert "hooks were silent 3 times" in text


async def test_a_kernel_without_the_series_says_so() -> None:
    app = top(ListFeed(snapshots.make(60, series=False)))
    async with running(app):
        text = screen(app)
        assert "not in this kernel" in text
        assert "set invalid" in text


async def test_space_stops_the_picture_and_goes_on() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        assert "PAUSED" in await press(app, pilot, "space")
        feed.snapshot = snapshots.make(99)
        assert "traced 1:00" in await poll(app, pilot)
        text = await press(app, pilot, "space")
        assert "PAUSED" not in text
        assert "traced 1:39" in text


async def test_nothing_is_drawn_without_a_new_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        shown = []
        original = OverviewPane.show

        def show(self: OverviewPane, picture: Any) -> None:
            shown.append(picture)
            original(self, picture)

        monkeypatch.setattr(OverviewPane, "show", show)
        for _ in range(5):
            await poll(app, pilot)
        assert shown == []
        feed.snapshot = snapshots.make(61)
        await poll(app, pilot)
        assert len(shown) == 1


async def test_rates_come_with_the_second_snapshot() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        assert "rates need two snapshots" in screen(app)
        feed.snapshot = snapshots.make(62)
        text = await poll(app, pilot)
        assert "over 2.0 s" in text
        assert "640" in next(row for row in text.splitlines() if "allocations" in row)


async def test_sorting_goes_through_the_columns() -> None:
    app = top(ListFeed(snapshots.make(60)), view="processes")
    async with running(app) as pilot:
        pane = app.query_one("#processes", TablePane)
        first = [row.tgid for row in pane._rows]
        assert first == [r.tgid for r in sorted(snapshots.make(60).processes, key=lambda r: -r.events)]
        orders = [first]
        for _ in range(len(PROCESSES.columns)):
            await press(app, pilot, "s")
            orders.append([row.tgid for row in pane._rows])
        assert orders[-1] == first
        assert any(order[0] == 512 for order in orders), "by splits, modprobe is first"
        assert "by" in screen(app)


async def test_filter_as_it_is_typed_kept_by_enter_cleared_by_escape() -> None:
    app = top(ListFeed(snapshots.make(60)), view="processes")
    async with running(app) as pilot:
        text = await press(app, pilot, "slash", *"USER")
        assert "modprobe" in text
        assert "signer" not in text
        text = await press(app, pilot, "enter")
        assert "filter: USER" in text
        assert "1 of 5" in text
        assert not app.query_one("#prompt", Input).display
        text = await press(app, pilot, "escape")
        assert "5 of 5" in text
        text = await press(app, pilot, "slash", *"nobody", "enter")
        assert "nothing matches 'nobody'" in text
        assert "5 of 5" in await press(app, pilot, "escape")


async def test_keys_in_the_prompt_are_text() -> None:
    app = top(ListFeed(snapshots.make(60)), view="splits")
    async with running(app) as pilot:
        await press(app, pilot, "slash", *"q1sa h")
        assert app.query_one("#prompt", Input).value == "q1sa h"
        assert app.is_running
        assert app._view == "splits"


async def test_enter_shows_the_whole_stack_of_a_split() -> None:
    app = top(ListFeed(snapshots.make(60)), view="splits")
    async with running(app) as pilot:
        assert "load_module" not in screen(app)
        text = await press(app, pilot, "down", "enter")
        assert "load_module+0x5aa" in text
        assert "modprobe [512]" in text
        assert "load_module" not in await press(app, pilot, "escape")


async def test_wide_screens_show_the_stack_beside_the_ledger() -> None:
    app = top(ListFeed(snapshots.make(60)), view="splits")
    async with running(app, (120, 40)) as pilot:
        assert "asm_exc_page_fault" in screen(app)
        assert "load_module+0x5aa" in await press(app, pilot, "down")


async def test_the_cursor_stays_on_its_row_when_the_order_changes() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed, view="processes")
    async with running(app) as pilot:
        await press(app, pilot, "down")
        pane = app.query_one("#processes", TablePane)
        assert pane._rows[pane.data.cursor_row].comm == "modprobe"
        snapshot = snapshots.make(61)
        rows = tuple(replace(r, events=10**9 if r.comm == "kswapd0" else r.events) for r in snapshot.processes)
        feed.snapshot = replace(snapshot, processes=rows)
        await poll(app, pilot)
        assert pane._rows[0].comm == "kswapd0"
        assert pane._rows[pane.data.cursor_row].comm == "modprobe"


async def test_audit_is_one_key_away_and_follows_new_snapshots() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app, (80, 40)) as pilot:
        assert "invariants hold" in screen(app)
        text = await press(app, pilot, "a")
        assert "holds" in text
        assert "BROKEN" not in text
        feed.snapshot = snapshots.broken_audit(snapshots.make(61))
        text = await poll(app, pilot)
        assert "pfn 262148" in text
        assert "expected: absent" in text
        await press(app, pilot, "a")
        assert not isinstance(app.screen, LinesScreen)
        assert "BROKEN 2" in screen(app)


@pytest.mark.parametrize("key", ["h", "question_mark"])
async def test_help(key: str) -> None:
    app = top(ListFeed(snapshots.make(60)))
    async with running(app) as pilot:
        text = await press(app, pilot, key)
        assert "stranded" in text
        assert "jump" not in text
        await press(app, pilot, "escape")
        assert not isinstance(app.screen, LinesScreen)


async def test_quit() -> None:
    app = top(ListFeed(snapshots.make(60)))
    async with running(app) as pilot:
        await pilot.press("q")
    assert app.return_code == 0


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


async def test_tables_arrange_without_a_screen() -> None:
    snapshot = snapshots.make(60)
    table = splits_table(snapshot.start_time_ns)
    assert [r.comm for r in table.arrange(snapshot.split_rows, table.default_sort, "1g")] == ["signer"]
    assert len(table.arrange(snapshot.split_rows, table.default_sort, "secretmem_fault 2m")) == 1
    assert table.arrange([], 0, "") == []


async def test_no_color_still_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = top(ListFeed(snapshots.broken_audit(snapshots.inexact(snapshots.make(60)))))
    async with running(app, (120, 40)):
        text = screen(app)
        for part in ("! INEXACT", "1,234 LOST", "BROKEN 2", "[1 overview]"):
            assert part in text


async def test_the_daemon_does_not_pay_for_the_screen() -> None:
    code = "import sys, uaptrace.tui.feed, uaptrace.views.overview, uaptrace.reports.text, uaptrace.reports.map_picture\n"
    code += "print(sorted({'textual', 'rich', 'PIL', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_tick_while_the_screen_is_taken_down_does_no_harm() -> None:
    for view in ("overview", "processes", "splits", "map"):
        feed = ListFeed(snapshots.make(60))
        app = top(feed, view=view)
        async with running(app):
            pass
        feed.snapshot = snapshots.make(61)
        app._poll()


async def test_new_snapshots_below_a_dialog_are_taken() -> None:
    feed = ListFeed(snapshots.make(60))
    app = top(feed)
    async with running(app) as pilot:
        await press(app, pilot, "h")
        feed.snapshot = snapshots.inexact(snapshots.make(75))
        await poll(app, pilot)
        text = await press(app, pilot, "escape")
        assert "traced 1:15" in text
        assert "INEXACT" in text
