# SPDX-License-Identifier: Apache-2.0
"""What readings of the counters say of hooks that are not called."""

from __future__ import annotations

import pytest

from tests.model.build import SECOND_NS, counters, traced
from uaptrace.abi.events import Counter
from uaptrace.abi.units import Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import CONFIRM_NS, Silence
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CountersReading

HOOKS = tuple(HookStatus(name, name, "fentry") for name in ("cpa", "flush_all", "set_invalid", "set_default"))
SECOND = SECOND_NS


def state_of() -> KernelState:
    state = traced(4, has_series=False, hooks=HOOKS)
    state.update(reading(SECOND, 0, 0))
    assert reasons(state) == ""
    return state


def reading(time_ns: int, kernel: int, ours: int, **fields: object) -> CountersReading:
    """The kernel counted ``kernel`` splits since tracing began, the hooks ``ours``."""
    words = {int(Counter.SPLIT_2M): ours} | dict(fields.pop("words", {}))  # type: ignore[call-overload]
    return counters(time_ns=time_ns, words=words, splits_total={Level.M2: 40 + kernel, Level.G1: 3}, **fields)  # type: ignore[arg-type]


def reasons(state: KernelState) -> str:
    return "; ".join(reason for reason in state.snapshot(10**12, 0.0).exactness.reasons if "hooks are silent" in reason)


def test_a_split_that_the_kernel_counts_a_moment_before_its_program_is_none() -> None:
    state = state_of()
    state.update(reading(2 * SECOND, 1, 0))
    assert state.needs_counters_reading, "another reading decides"
    state.update(reading(2 * SECOND + CONFIRM_NS - 1, 1, 0))
    assert reasons(state) == ""
    state.update(reading(2 * SECOND + CONFIRM_NS, 1, 1))
    assert reasons(state) == ""
    assert not state.snapshot(10**12, 0.0).silence.found[Silence.UNSEEN_SPLITS]


def test_a_split_that_stays_uncounted_is_one_until_another_is_counted() -> None:
    state = state_of()
    state.update(reading(2 * SECOND, 1, 0))
    state.update(reading(2 * SECOND + CONFIRM_NS, 1, 0))
    assert "the kernel counted 1 splits that none reported" in reasons(state)
    assert state.needs_map_reading == "all"
    state.update(reading(9 * SECOND, 1, 0))
    assert "silent" in reasons(state), "time alone proves nothing"
    state.update(reading(10 * SECOND, 2, 1))
    assert reasons(state) == ""
    assert state.snapshot(10**12, 0.0).silence.found[Silence.UNSEEN_SPLITS] == 1


def test_what_another_reason_explains_is_no_silence() -> None:
    """A program that the kernel left out, and says so, or a split of another mapping that it counts."""
    state = state_of()
    state.update(reading(2 * SECOND, 1, 0, missed_runs=1))
    state.update(reading(4 * SECOND, 1, 0, missed_runs=1))
    assert reasons(state) == ""
    state.update(reading(6 * SECOND, 2, 0, missed_runs=1, words={int(Counter.SPLIT_OTHER): 1}))
    state.update(reading(9 * SECOND, 2, 0, missed_runs=1, words={int(Counter.SPLIT_OTHER): 1}))
    assert reasons(state) == ""


def test_a_reading_that_was_not_quiet_decides_nothing() -> None:
    state = state_of()
    for second in range(2, 9):
        state.update(reading(second * SECOND, 1, 0, quiet=False))
    assert reasons(state) == ""


@pytest.mark.parametrize("silence", [Silence.KPROBES_OFF, Silence.FTRACE_OFF, Silence.DETACHED])
def test_a_known_cause_is_named_and_everything_is_read_again_when_it_ends(silence: Silence) -> None:
    state = state_of()
    state.update(reading(2 * SECOND, 0, 0, hooks_off={silence.value: "where it shows"}))
    assert "hooks are silent" in reasons(state)
    assert "where it shows" in reasons(state)
    view = state.snapshot(10**12, 0.0).silence
    assert view.active[silence]
    assert view.found[silence] == 1
    state.update(reading(3 * SECOND, 0, 0))
    assert reasons(state) == ""
    assert state.needs_map_reading == "all"
    assert state.snapshot(10**12, 0.0).silence.found[silence] == 1


def test_splits_that_were_missed_for_a_known_cause_are_no_news_when_it_has_ended() -> None:
    state = state_of()
    state.update(reading(2 * SECOND, 0, 0, hooks_off={Silence.FTRACE_OFF.value: "where it shows"}))
    state.update(reading(3 * SECOND, 5, 0, hooks_off={Silence.FTRACE_OFF.value: "where it shows"}))
    for second in range(4, 9):
        state.update(reading(second * SECOND, 5, 0))
    assert reasons(state) == ""
    state.update(reading(9 * SECOND, 6, 0))
    state.update(reading(11 * SECOND, 6, 0))
    assert "the kernel counted 1 splits that none reported" in reasons(state)


def test_a_cause_that_this_version_does_not_know_is_named_as_it_is() -> None:
    """A recording of a later version."""
    state = state_of()
    state.update(reading(2 * SECOND, 0, 0, hooks_off={"solar_flare": "the sky"}))
    assert "hooks are silent: solar_flare (the sky)" in reasons(state)


def test_unseen_pages_are_counted_once() -> None:
    state = state_of()
    for second in (2, 3):
        state.update(reading(second * SECOND, 0, 0, unseen_pages=5))
    assert state.snapshot(10**12, 0.0).silence.unseen_pages == 5
    assert state.snapshot(10**12, 0.0).silence.found[Silence.UNSEEN_PAGES] == 1
    state.update(reading(4 * SECOND, 0, 0, unseen_pages=6))
    assert state.snapshot(10**12, 0.0).silence.found[Silence.UNSEEN_PAGES] == 2
