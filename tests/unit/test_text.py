# SPDX-License-Identifier: Apache-2.0
"""What people read: figures in words, text of a snapshot, the ledger, flame graph input, the audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import view_snapshots as snapshots
from uaptrace.abi.units import Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import Exactness
from uaptrace.model.updates import Start
from uaptrace.recording import read_updates
from uaptrace.recording.info import recording_info
from uaptrace.reports.text import GROUPS, audit_to_text, folded_stacks, snapshot_to_text, splits_to_text
from uaptrace.views import panels, words
from uaptrace.views.charts import bar, sparkline
from uaptrace.views.lines import fit, length, line, plain, text_of
from uaptrace.views.overview import overview
from uaptrace.views.rates import History

DATA = Path(__file__).parents[1] / "data"
WIDTHS = (60, 80, 100, 112, 120, 160, 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_asked(width: int) -> None:
    history = History()
    for second in range(60, 70):
        history.add(snapshots.make(second))
    for snapshot in (
        snapshots.make(70),
        snapshots.make(70, series=False),
        snapshots.broken_audit(snapshots.inexact(snapshots.make(70))),
        snapshots.empty(),
    ):
        for a_line in overview(snapshot, history.rates, history.samples, width):
            assert length(a_line) <= width, text_of(a_line)
        if width >= 80:
            for text in (snapshot_to_text(snapshot, width=width), audit_to_text(snapshot, width), splits_to_text(snapshot, width=width)):
                assert max(map(len, text.splitlines())) <= width


def test_the_first_screen_fits_into_80_by_24_also_when_inexact() -> None:
    for snapshot, header in ((snapshots.make(60), 1), (snapshots.inexact(snapshots.make(60)), 2), (snapshots.make(60, series=False), 1)):
        text = plain(overview(snapshot, None, (), 80, 24 - header - 1))
        assert len(text.splitlines()) <= 24 - header - 1
        for part in ("Direct map", "Unmapped cache", "Activity", "events", "audit"):
            assert part in text


def test_too_small_a_screen_still_says_first_whether_events_were_lost() -> None:
    lines = overview(snapshots.inexact(snapshots.make(60)), None, (), 80, 10)
    assert "1,234 LOST" in text_of(lines[0])


def test_trust_tells_a_fault_from_what_this_kernel_has_no_use_for() -> None:
    hooks = (
        HookStatus("cpa", "__change_page_attr_set_clr", None, "R2 min value is negative", refused=True),
        HookStatus("flush_all", "flush_tlb_all", None, "not in available_filter_functions"),
        HookStatus("set_invalid", "set_direct_map_invalid_noflush", "fentry"),
        HookStatus("set_valid", None, None, "set_direct_map_valid_noflush() is not in this kernel", needed=False),
    )
    text = plain(panels.health_panel(replace(snapshots.make(60), hooks=hooks), 100))
    assert "1 of 3 hooks attached" in text
    assert "refused cpa: R2 min value is negative" in text
    assert "missing flush_all: not in available_filter_functions" in text
    assert "not needed on this kernel: set_valid" in text
    assert "missing set_valid" not in text


def test_trust_says_that_hooks_are_and_were_silent() -> None:
    text = plain(panels.health_panel(snapshots.silent(snapshots.make(60)), 100))
    assert "! hooks are silent: 1,021 pages changed that none reported" in text
    assert "hooks were silent 3 times · 1,021 pages changed unseen, read since" in text
    assert "silent" not in plain(panels.health_panel(snapshots.make(60), 100))


@pytest.mark.parametrize("name", ["debian-6.1", "patched-6.1"])
def test_recordings_from_before_that_was_told_apart_are_read_likewise(name: str) -> None:
    path = DATA / f"{name}.uaptrace"
    assert not [sentence for sentence in recording_info(path).missing if "hook" in sentence]
    start = next(update for update in read_updates(path) if isinstance(update, Start))
    assert {hook.state for hook in start.hooks} == {"attached", "not needed"}


def test_inexact_says_why() -> None:
    text = snapshot_to_text(snapshots.inexact(snapshots.make(60)))
    assert "INEXACT" in text
    assert "1,234 events were lost" in text
    assert "a split was not explained" in text
    assert "EXACT ·" in snapshot_to_text(snapshots.make(60))


def test_a_kernel_without_the_series_says_so_and_shows_no_cache_figures() -> None:
    text = snapshot_to_text(snapshots.make(60, series=False))
    assert "not in this kernel" in text
    assert "hits" not in text
    assert "set invalid" in text


def test_what_is_not_known_is_a_dash_and_never_zero() -> None:
    text = snapshot_to_text(snapshots.empty())
    direct_map = [row for row in text.splitlines() if row.startswith((" 1G ", " 2M ", " 4K ", " absent "))]
    assert len(direct_map) >= 4
    assert all("–" in row and "0" not in row for row in direct_map[:4])
    assert "not read yet" in text


def test_rates_appear_with_an_earlier_snapshot() -> None:
    with_rates = snapshot_to_text(snapshots.make(61), snapshots.make(60))
    assert "over 1.0 s" in with_rates
    assert "640" in next(row for row in with_rates.splitlines() if "allocations" in row)
    assert "rates need two snapshots" in snapshot_to_text(snapshots.make(61))


def test_colour_only_adds_attributes() -> None:
    import re

    snapshot = snapshots.make(60)
    coloured = snapshot_to_text(snapshot, color=True)
    assert "\x1b[" in coloured
    stripped = "\n".join(row.rstrip() for row in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines())
    assert stripped + "\n" == snapshot_to_text(snapshot)


@pytest.mark.parametrize("group", GROUPS)
def test_ledger_text_for_each_grouping(group: str) -> None:
    text = splits_to_text(snapshots.make(60), group)  # type: ignore[arg-type]
    assert "unmapped_alloc" in text
    assert "18" in text


def test_ledger_says_when_rows_were_left_out() -> None:
    snapshot = replace(snapshots.make(60), split_rows=snapshots.make(60).split_rows[:1])
    assert "no room for all rows" in splits_to_text(snapshot)
    assert "no room for all rows" not in splits_to_text(snapshot, "cause")


def test_whole_stacks_on_request() -> None:
    assert "asm_exc_page_fault" not in splits_to_text(snapshots.make(60))
    assert "asm_exc_page_fault+0x22" in splits_to_text(snapshots.make(60), stacks=True)


def test_folded_stacks_are_outermost_first_and_keep_every_split() -> None:
    snapshot = snapshots.make(60)
    rows = folded_stacks(snapshot).splitlines()
    assert "modprobe;module;2M;load_module;module_alloc;set_direct_map_invalid_noflush;__change_page_attr_set_clr 12" in rows
    assert "uaptrace;self;2M;(no-stack) 2" in rows
    assert sum(int(row.rsplit(" ", 1)[1]) for row in rows) == sum(r.count for r in snapshot.split_rows)


def test_a_name_cannot_break_the_folded_format() -> None:
    row = replace(snapshots.make(60).split_rows[0], comm="a;b c\n1")
    text = folded_stacks(replace(snapshots.make(60), split_rows=(row,)))
    assert text.startswith("a:b_c_1;unmapped_alloc;2M;")
    assert text.count("\n") == 1


def test_audit_shows_the_page_that_broke_it() -> None:
    text = audit_to_text(snapshots.broken_audit(snapshots.make(60)))
    for part in ("BROKEN", "pfn 262148", "2M block 512", "expected: absent", "seen: 4K present", "signer [4211]", "not checked"):
        assert part in text


def test_nothing_checked_is_not_called_clean() -> None:
    audit = tuple(replace(r, checked=0) for r in snapshots.make(60).audit)
    text = audit_to_text(replace(snapshots.make(60), audit=audit))
    assert "none of 11 invariants checked yet" in text
    assert "hold" not in text


def test_an_inexact_state_without_a_reason_is_still_inexact() -> None:
    assert "INEXACT" in snapshot_to_text(replace(snapshots.make(60), exactness=Exactness(False)))


def test_names_from_outside_cannot_break_the_screen() -> None:
    nasty = "\x1b[31mred\x07\n漢"
    row = replace(snapshots.make(60).processes[0], comm=nasty, cgroup=nasty * 9)
    text = snapshot_to_text(replace(snapshots.make(60), processes=(row,)))
    assert "\x1b" not in text
    assert "\x07" not in text


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=2**64), st.integers(min_value=4, max_value=12))
def test_compact_counts_fit_and_are_not_rounded_up(value: int, width: int) -> None:
    text = words.compact(value, width)
    assert len(text) <= width
    if text.isdigit():
        assert int(text) == value
    elif "#" not in text:
        unit = 10 ** (3 * ("kMGTP".index(text[-1]) + 1))
        assert int(text[:-1]) == value // unit


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1))
def test_only_all_is_100_percent_and_only_nothing_is_zero(share: float) -> None:
    text = words.percent(share)
    assert (text == "100%") == (share == 1)
    assert (text == "0.0%") == (share == 0)


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1), st.integers(min_value=1, max_value=80))
def test_a_bar_shows_something_for_something(share: float, width: int) -> None:
    text = bar(share, width)
    assert len(text) == width
    assert (text == "·" * width) == (share == 0)
    assert (text == "█" * width) == (share == 1)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(min_value=0, max_value=1e12)), max_size=50), st.integers(min_value=0, max_value=40))
def test_sparklines_have_a_gap_for_what_is_not_known(values: list[float | None], width: int) -> None:
    text = sparkline(values, width)
    assert len(text) == width
    shown = values[-width:] if width else []
    assert text.count(" ") == width - len(shown) + sum(v is None for v in shown)


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1e15))
def test_rates_and_durations_are_short(value: float) -> None:
    assert len(words.per_second(value)) <= 7
    assert len(words.duration(value)) <= 10


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 ns"), (999, "999 ns"), (1024, "1.02 µs"), (16384, "16.4 µs"), (2**20, "1.05 ms"), (2**32, "4.29 s")]
)
def test_durations(value: float, text: str) -> None:
    assert words.duration(value) == text


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(min_value=0, max_value=50))
def test_any_text_takes_the_cells_it_is_given(text: str, width: int) -> None:
    assert length(fit(line(words.clean(text)), width)) == width
    assert len(words.shorten(text, width)) <= width
    assert len(words.shorten_path(text, width)) <= width


def test_history_forgets_what_is_later_when_time_goes_back() -> None:
    history = History()
    for second in (60, 61, 62, 61):
        history.add(snapshots.make(second))
    assert [s.time_ns for s in history.samples] == [snapshots.make(s).time_ns for s in (60, 61)]
    assert history.rates is not None
    assert history.rates.interval_s == 1.0
    before = history.rates
    assert history.add(snapshots.make(61, with_regions=False)) == before, "the same moment again has the same rates"
    assert history.add(snapshots.make(10)) is None


def test_meminfo_levels_are_named_like_the_kernel_does() -> None:
    assert [words.LEVEL_WORDS[lv] for lv in (Level.K4, Level.M2, Level.G1)] == ["4K", "2M", "1G"]
