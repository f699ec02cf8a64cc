# SPDX-License-Identifier: Apache-2.0
"""A counter that counts part of the time: its total is what all of the time would have had, and never goes down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uaptrace.model.walks import Count, ScaledCount, WalkCounts

STRETCHES = st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=20)
"""Of each: events that were counted, and nanoseconds in which the counter counted, and in which it waited."""


def readings(stretches: list[tuple[int, int, int]]) -> list[Count]:
    """Of a counter, after each of the stretches. Nothing is counted in no time."""
    found, value, enabled_ns, running_ns = [], 0, 0, 0
    for events, counting_ns, waiting_ns in stretches:
        value += events if counting_ns else 0
        running_ns += counting_ns
        enabled_ns += counting_ns + waiting_ns
        found.append(Count(value, enabled_ns, running_ns))
    return found


@given(STRETCHES)
def test_a_total_never_goes_down_and_is_no_less_than_what_was_counted(stretches: list[tuple[int, int, int]]) -> None:
    scaled, before = ScaledCount(), 0
    for count in readings(stretches):
        scaled.take(count)
        assert scaled.total >= before
        before = scaled.total
    assert scaled.total >= sum(events for events, counting_ns, _ in stretches if counting_ns)


@given(STRETCHES)
def test_a_counter_that_always_counted_has_its_own_figure(stretches: list[tuple[int, int, int]]) -> None:
    scaled, counts = ScaledCount(), readings([(events, counting_ns, 0) for events, counting_ns, _ in stretches])
    for count in counts:
        scaled.take(count)
    assert scaled.total == (counts[-1].value if counts else 0)


def test_time_in_which_it_waited_counts_as_the_time_after_it() -> None:
    scaled = ScaledCount()
    scaled.take(Count(100, 1000, 1000))
    scaled.take(Count(100, 2000, 1000))
    assert scaled.total == 100
    # 30 events in the 500 ns of the last 3,000 in which it counted.
    scaled.take(Count(130, 4000, 1500))
    assert scaled.total == 100 + 30 * 3000 // 500


@pytest.mark.parametrize(("cycles", "walk_cycles", "share"), [(200, 50, 0.25), (200, None, None), (0, 0, None)])
def test_the_share_of_walks_is_known_where_both_figures_are(cycles: int, walk_cycles: int | None, share: float | None) -> None:
    assert WalkCounts(cycles, 7, walk_cycles, 2, 1.0).walk_share == share
