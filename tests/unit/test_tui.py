# SPDX-License-Identifier: Apache-2.0
"""A person at the screen of top: every key, every size, and every state that a host can be in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from textual.widgets import Input

from tests.unit import view_snapshots as snapshots
from tests.unit.tui_screen import ListFeed, poll, press, running, screen, top
from uaptrace.model.feed import FeedEndedError
from uaptrace.model.snapshot import Snapshot
from uaptrace.tui.panes import LinesScreen, OverviewPane, TablePane
from uaptrace.tui.tables import PROCESSES, splits_table

pytestmark = pytest.mark.asyncio

SIZES = [(80, 24), (120, 40), (200, 50)]


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
        assert "hooks are silent: 1,021 pages changed that none reported" in text
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
    code = "import sys, uaptrace.model.feed, uaptrace.tui.time_control, uaptrace.views.overview\n"
    code += "import uaptrace.reports.text, uaptrace.reports.map_picture\n"
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
