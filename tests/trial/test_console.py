# SPDX-License-Identifier: Apache-2.0
"""A kernel that died is reported by its own first words, not by "it crashed"."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from uaptrace.trial.console import why_it_died

OOPS = (Path(__file__).parents[1] / "data/trial/console-debian-7.3-oops.txt").read_text()


def test_the_first_complaint_and_where_come_before_the_panic() -> None:
    assert why_it_died(OOPS) == "Oops: int3: 0000 [#1] SMP NOPTI at s_next+0x5/0x40; panic: Fatal exception in interrupt"


def test_a_panic_alone_is_said_alone() -> None:
    (panic,) = [line for line in OOPS.splitlines() if "Kernel panic" in line]
    assert why_it_died(panic.replace("Fatal exception in interrupt", "sysrq triggered crash")) == "panic: sysrq triggered crash"


def test_a_complaint_that_the_kernel_survived_is_not_why() -> None:
    assert why_it_died(OOPS[: OOPS.index("Kernel panic")]) == ""


@given(st.lists(st.sampled_from([*OOPS.splitlines(), "", "[x", "RIP: 0010:"])).map("\r\n".join))
def test_whatever_is_left_gives_one_line(console: str) -> None:
    assert len(why_it_died(console).splitlines()) <= 1
