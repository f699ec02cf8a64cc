# SPDX-License-Identifier: Apache-2.0
"""A difference is called one only where the runs of the two kernels do not overlap."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uaptrace.abi.errors import UsageError
from uaptrace.trial.conditions import NAMES, Condition, parse_condition
from uaptrace.trial.judgement import Row, compare, spread
from uaptrace.trial.measures import FIGURES, OWN

VALUES = st.lists(st.integers(0, 1000), min_size=1, max_size=6)
SPLITS = FIGURES[0]


def row(baseline: list[int], candidate: list[int]) -> Row:
    (made,) = compare([{"splits.2m": value} for value in baseline], [{"splits.2m": value} for value in candidate])
    return made


@given(VALUES, VALUES)
def test_medians_and_ranges_are_those_of_the_runs(baseline: list[int], candidate: list[int]) -> None:
    made = row(baseline, candidate)
    assert made.figure == SPLITS
    for side, values in ((made.baseline, baseline), (made.candidate, candidate)):
        assert (side.median, side.low, side.high, side.nr_runs) == (statistics.median(values), min(values), max(values), len(values))
    assert made.difference == statistics.median(candidate) - statistics.median(baseline)


@given(VALUES, VALUES)
def test_better_is_said_only_where_no_run_of_one_lies_among_those_of_the_other(baseline: list[int], candidate: list[int]) -> None:
    made = row(baseline, candidate)
    if min(len(baseline), len(candidate)) < 2:
        assert made.is_outside is None
        assert made.is_better is None
        return
    apart = max(candidate) < min(baseline) or min(candidate) > max(baseline)
    assert made.is_outside == apart
    assert made.is_better == ((max(candidate) < min(baseline)) if apart else None), "fewer splits are better"


def test_what_is_not_known_is_no_zero_and_a_cause_that_did_not_occur_is() -> None:
    rows = compare([{"cache.hits": None}, {"cache.hits": None}], [{"cache.hits": 3, "splits.2m.bpf": 2}, {"cache.hits": 5}])
    hits, bpf = rows[1], rows[0]
    assert hits.baseline.median is None
    assert hits.difference is None
    assert (bpf.baseline.median, bpf.candidate.low, bpf.candidate.high) == (0, 0, 2)
    assert spread([None]).nr_runs == 0


def test_what_uaptrace_itself_split_is_neither_good_nor_bad() -> None:
    (made,) = compare([{OWN: 0}, {OWN: 0}], [{OWN: 2}, {OWN: 2}])
    assert made.is_outside
    assert made.is_better is None
    assert "uaptrace itself" in made.figure.text


@given(st.sampled_from(NAMES), st.sampled_from([">", ">=", "<", "<=", "==", "!="]), st.integers(0, 50), st.integers(0, 50))
def test_a_condition_with_a_number_is_arithmetic(name: str, compared: str, limit: int, value: int) -> None:
    condition = parse_condition(f"{name}{compared} {limit}")
    assert condition.name == name
    assert condition.fails(row([1], [value])) == eval(f"{value} {compared} {limit}")


@given(st.sampled_from("*+-"), st.decimals(0, 9, places=2), st.integers(0, 50), st.integers(0, 50))
def test_a_condition_with_the_baseline_is_arithmetic(change: str, by: object, baseline: int, value: int) -> None:
    condition = parse_condition(f"splits.2m > baseline {change} {by}")
    assert condition.fails(row([baseline], [value])) == eval(f"{value} > {baseline} {change} {by}")
    assert parse_condition("splits.2m>baseline").fails(row([baseline], [value])) == (value > baseline)


def test_what_is_not_known_fails_a_condition() -> None:
    condition = Condition("", "cache.hits", "<", 1.0)
    assert condition.fails(None)
    (unknown,) = compare([{"cache.hits": 1}], [{"cache.hits": None}])
    assert condition.fails(unknown)
    (without,) = compare([{"cache.hits": None}], [{"cache.hits": 1}])
    assert parse_condition("cache.hits < baseline").fails(without)


@pytest.mark.parametrize(
    "text", ["", "splits.2m", "splits.2m > ", "splits.2m => 1", "splits.2m > x", "splits > 1", "splits.2m > 1 or 2", "splits.2m > -1",
             "splits.2m > baseline / 2", "splits.2m > baseline *", "splits.2m > " + "9" * 400, "__import__('os') > 1"]
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_condition(text)
