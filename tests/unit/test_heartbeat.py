# SPDX-License-Identifier: Apache-2.0
"""Whatever silences hooks, the heartbeat finds the map changed, says so and reads it; and it raises no alarm about what was told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.page_table_memory import PFN_MASK
from tests.unit.scripted_kernel import ScriptedKernel
from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.model.compare import compare
from uaptrace.model.silence import Silence
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.session.heartbeat import IDLE_TABLES, Heartbeat

SOON_S = 5.0
"""What the README promises: within this time the label says so."""


class Watch:
    """A state, the heartbeat and a clock that moves from beat to beat; what a session does with them."""

    def __init__(self, nr_regions: int = 16) -> None:
        self.now_s = 1000.0
        self.kernel = ScriptedKernel(nr_regions, lambda: round(self.now_s * 1e9))
        self.state = KernelState()
        self.state.update(self.kernel.start())
        self.tick()
        for reading in self.kernel.read_map():
            self.state.update(reading)
        self.heartbeat = Heartbeat(
            self.kernel, lambda: self.state.direct_map, self.take, self.take_counters, self.state.update, lambda: self.now_s
        )
        self.settle()

    def tick(self) -> None:
        self.now_s += 0.001

    def take(self) -> None:
        for update in self.kernel.records():
            self.state.update(update)

    def take_counters(self) -> None:
        self.state.update(self.kernel.read_counters())

    def settle(self) -> None:
        for _ in range(5):
            self.take()
            self.tick()
            self.state.update(self.kernel.read_counters())
            needed = self.state.needs_map_reading
            if needed is None:
                return
            self.tick()
            for reading in self.kernel.read_map(None if isinstance(needed, str) else needed):
                self.state.update(reading)

    def beats(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.heartbeat.next_s <= end_s:
            self.now_s = max(self.now_s, self.heartbeat.next_s)
            if self.heartbeat.beat() or self.state.needs_counters_reading:
                self.settle()
        self.now_s = end_s
        self.settle()

    def snapshot(self) -> Snapshot:
        return self.state.snapshot(round(self.now_s * 1e9), 0.0)

    def reasons(self) -> str:
        return "; ".join(self.snapshot().exactness.reasons)

    def differing(self) -> int:
        return compare(self.state.direct_map, self.kernel.true_map()).differing_pages


@pytest.fixture
def watch() -> Watch:
    made = Watch()
    for region in (3, 5, 9):
        made.kernel.split(region)
    made.settle()
    assert made.snapshot().exactness.exact, made.reasons()
    return made


def test_nothing_is_said_of_a_host_on_which_nothing_happens(watch: Watch) -> None:
    watch.beats(60)
    assert watch.snapshot().exactness.exact
    assert watch.kernel.looks <= 31, "a look in each beat"


def test_a_page_that_changes_without_a_call_is_found_said_and_read(watch: Watch) -> None:
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.beats(SOON_S)
    assert "hooks are silent: 1 pages changed that none reported" in watch.reasons()
    assert watch.differing() == 0
    silence = watch.snapshot().silence
    assert silence.active[Silence.UNSEEN_PAGES]
    assert (silence.found[Silence.UNSEEN_PAGES], silence.unseen_pages) == (1, 1)


def test_a_split_that_only_the_kernel_counted_is_found_said_and_read(watch: Watch) -> None:
    watch.kernel.hooked = False
    watch.kernel.split(12)
    watch.beats(SOON_S)
    assert "the kernel counted 1 splits that none reported" in watch.reasons()
    assert watch.snapshot().silence.active[Silence.UNSEEN_SPLITS]
    assert watch.differing() == 0


def test_hooks_are_believed_again_once_each_kind_of_call_was_seen_again(watch: Watch) -> None:
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.beats(SOON_S)
    watch.kernel.hooked = True
    watch.kernel.unmap(5 * PAGES_PER_2M + 8)
    watch.beats(SOON_S)
    assert "hooks are silent" in watch.reasons(), "one kind of call proves nothing of the others"
    watch.kernel.remap(5 * PAGES_PER_2M + 8)
    watch.kernel.change_attributes()
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert not any(watch.snapshot().silence.active.values())
    assert watch.snapshot().silence.found[Silence.UNSEEN_PAGES] == 1, "what was found stays counted"


def test_a_switch_is_named_the_map_is_read_while_it_is_off_and_the_label_ends_with_it(watch: Watch) -> None:
    watch.kernel.off = {Silence.KPROBES_OFF.value: "/sys/kernel/debug/kprobes/enabled"}
    watch.kernel.hooked = False
    watch.beats(SOON_S)
    assert "kprobes are switched off (/sys/kernel/debug/kprobes/enabled)" in watch.reasons()
    watch.kernel.unmap(3 * PAGES_PER_2M)
    watch.kernel.split(1)
    watch.beats(SOON_S)
    assert watch.differing() == 0
    watch.kernel.off = {}
    watch.kernel.hooked = True
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.differing() == 0


def test_what_changed_in_the_last_moment_before_a_switch_came_back_is_read(watch: Watch) -> None:
    watch.kernel.off = {Silence.FTRACE_OFF.value: "/proc/sys/kernel/ftrace_enabled"}
    watch.beats(SOON_S)
    watch.kernel.hooked = False
    watch.kernel.unmap(9 * PAGES_PER_2M + 1)
    watch.kernel.hooked, watch.kernel.off = True, {}
    watch.beats(SOON_S)
    assert watch.differing() == 0


def test_a_call_whose_record_is_still_under_way_is_no_silence(watch: Watch) -> None:
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.now_s = watch.heartbeat.next_s
    watch.heartbeat.beat()
    watch.kernel.hooked = True
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)  # the record comes now
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.kernel.unseen_pages == 0


def test_pages_that_the_kernel_changes_where_nothing_can_be_hooked_are_read_and_are_no_silence(watch: Watch) -> None:
    watch.kernel.unhooked = [5]
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.differing() == 0


@pytest.mark.parametrize("region", [16, 40, 700])
def test_memory_that_is_plugged_in_is_in_the_map(watch: Watch, region: int) -> None:
    watch.kernel.plug_in(region)
    watch.beats(SOON_S)
    assert watch.differing() == 0
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.kernel.unseen_pages == 0


def test_memory_that_is_taken_out_leaves_the_map(watch: Watch) -> None:
    watch.kernel.take_out(15)
    watch.kernel.nr_regions -= 1
    watch.beats(SOON_S)
    assert watch.differing() == 0
    assert watch.snapshot().exactness.exact, watch.reasons()


def test_tables_that_cannot_be_read_are_said_to_be_unknown_until_they_can(watch: Watch) -> None:
    table, index = watch.kernel.memory.table_of(watch.kernel.memory.page_offset + (5 << 21), 21)
    watch.kernel.memory.gone.add(int(table[index]) & PFN_MASK)
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, "nothing changed"
    watch.state.update(watch.kernel.true_map())
    watch.settle()
    assert watch.reasons() == "the page tables of 1 regions of 2 MiB could not be read"
    watch.beats(SOON_S)
    assert "could not be read" in watch.reasons()
    watch.kernel.memory.gone.clear()
    watch.beats(SOON_S)
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.differing() == 0


def test_a_map_of_which_nothing_can_be_read_ends_nothing(watch: Watch) -> None:
    table, index = watch.kernel.memory.table_of(watch.kernel.memory.page_offset, 30)
    watch.kernel.memory.gone.add(int(table[index]) & PFN_MASK)
    watch.beats(SOON_S)
    watch.kernel.memory.gone.clear()
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.beats(SOON_S)
    assert watch.differing() == 0


def test_a_look_at_a_moment_that_was_not_quiet_proves_nothing(watch: Watch) -> None:
    watch.kernel.hooked = False
    watch.kernel.unmap(5 * PAGES_PER_2M + 7)
    watch.kernel.quiet = False
    watch.beats(SOON_S)
    assert watch.kernel.unseen_pages == 0
    watch.kernel.quiet = True
    watch.beats(SOON_S)
    assert watch.kernel.unseen_pages == 1


def test_a_large_host_is_looked_at_a_part_at_a_time_until_all_was_seen() -> None:
    watch = Watch(nr_regions=IDLE_TABLES * 4)
    for region in range(watch.kernel.nr_regions):
        watch.kernel.split(region)
    watch.settle()
    watch.beats(4)
    watch.kernel.hooked = False
    watch.kernel.unmap((watch.kernel.nr_regions - 1) * PAGES_PER_2M)
    watch.kernel.unmap(0)
    watch.beats(2 * (4 + 2) + SOON_S)
    assert watch.differing() == 0
    assert "hooks are silent" in watch.reasons()


ACTIONS = st.sampled_from(["split", "unmap", "remap", "plug in", "beat"])


@given(st.lists(st.tuples(ACTIONS, st.integers(0, 7), st.integers(0, 511)), max_size=25))
@settings(deadline=None, max_examples=30)
def test_what_is_told_is_never_taken_for_silence(actions: list[tuple[str, int, int]]) -> None:
    watch = Watch(8)
    absent: set[int] = set()
    for what, region, page in actions:
        pfn = region * PAGES_PER_2M + page
        if what == "plug in":
            watch.kernel.plug_in(watch.kernel.nr_regions + region)
        elif what == "beat":
            watch.beats(2.5)
        elif what == "split" or region not in watch.kernel.split_regions:
            if region not in watch.kernel.split_regions:
                watch.kernel.split(region)
        elif what == "unmap" and pfn not in absent:
            watch.kernel.unmap(pfn)
            absent.add(pfn)
        elif what == "remap" and pfn in absent:
            watch.kernel.remap(pfn)
            absent.discard(pfn)
    watch.beats(SOON_S)
    assert watch.kernel.unseen_pages == 0
    assert watch.snapshot().exactness.exact, watch.reasons()
    assert watch.differing() == 0


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 511)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=20)
def test_whatever_goes_by_unseen_is_said_and_read(pages: list[tuple[int, int]]) -> None:
    watch = Watch(8)
    watch.kernel.hooked = False
    for region, page in pages:
        if region not in watch.kernel.split_regions:
            watch.kernel.split(region)
        watch.kernel.unmap(region * PAGES_PER_2M + page)
    watch.beats(SOON_S)
    assert "hooks are silent" in watch.reasons()
    assert watch.differing() == 0
    view = watch.state.direct_map.view()
    assert view.absent_bytes == 4096 * len(np.unique([r * PAGES_PER_2M + p for r, p in pages]))


def test_a_loss_that_nobody_asked_about_yet_is_no_silence() -> None:
    """The ring had no room for records, and a beat comes before the counters are compared."""
    watch = Watch()
    watch.kernel.split(3)
    watch.kernel.lose_records()
    watch.beats(SOON_S)
    assert watch.reasons() == ""
    assert watch.snapshot().silence.found == dict.fromkeys(Silence, 0)
    assert watch.snapshot().loss.events_lost == 1
    assert watch.differing() == 0


def test_a_loss_while_a_switch_is_off_is_not_counted_as_unseen() -> None:
    watch = Watch()
    watch.kernel.off = {Silence.FTRACE_OFF.value: "/proc/sys/kernel/ftrace_enabled"}
    watch.kernel.split(3)
    watch.kernel.lose_records()
    watch.beats(SOON_S)
    assert watch.snapshot().silence.unseen_pages == 0
    assert watch.snapshot().loss.events_lost == 1
    assert watch.differing() == 0
