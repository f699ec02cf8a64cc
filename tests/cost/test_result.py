# SPDX-License-Identifier: Apache-2.0
"""A difference is told only where it is larger than its own spread, and never of an emulated processor."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uaptrace.abi.units import Level
from uaptrace.cost.result import Conditions, conclude
from uaptrace.kernel.processor import Processor, parse_processor

NR_REGIONS = {Level.G1: 0, Level.M2: 512, Level.K4: 64}


def conditions(*, emulated: bool = False) -> Conditions:
    return Conditions("a processor", virtual=False, emulated=emulated, cpu=1, nr_rounds=50, nr_pages=32768, nr_regions=NR_REGIONS)


def rounds(added_ns: float, noise_ns: float, nr: int = 50) -> dict[Level, list[float]]:
    """Times that have a common drift, as a processor's clock has, and noise of their own."""
    rng = np.random.default_rng(7)
    drift = np.linspace(40, 60, nr)
    return {
        Level.M2: (drift + rng.uniform(-noise_ns, noise_ns, nr)).tolist(),
        Level.K4: (drift + added_ns + rng.uniform(-noise_ns, noise_ns, nr)).tolist(),
    }


def test_a_difference_is_told_though_all_rounds_become_slower() -> None:
    cost = conclude(conditions(), rounds(15.0, 1.0))
    assert cost.doubt == ""
    assert cost.reference is Level.M2
    assert cost.added[Level.K4].median_ns == pytest.approx(15.0, abs=1.0)
    assert cost.reads[Level.K4].width_ns > 10


def test_what_is_lost_in_its_own_spread_is_no_conclusion() -> None:
    cost = conclude(conditions(), rounds(1.0, 5.0))
    assert "differ by" in cost.doubt
    assert not cost.to_json()["conclusive"]


def test_times_of_an_emulator_are_no_conclusion() -> None:
    assert "emulated" in conclude(conditions(emulated=True), rounds(15.0, 0.1)).doubt


def test_an_interrupt_in_a_round_is_no_cost() -> None:
    times = rounds(15.0, 1.0)
    times[Level.K4][3] += 1e6
    assert conclude(conditions(), times).added[Level.K4].median_ns == pytest.approx(15.0, abs=1.0)


def test_without_pages_there_is_nothing_to_compare() -> None:
    cost = conclude(conditions(), {}, "3 regions are split")
    assert cost.doubt == "3 regions are split"
    assert cost.added == {}
    json.dumps(cost.to_json())
    assert conclude(conditions(), {Level.K4: [1.0]}).doubt


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=1, max_size=60))
def test_a_conclusion_is_never_within_its_spread(pairs: list[tuple[float, float]]) -> None:
    cost = conclude(conditions(), {Level.M2: [a for a, _ in pairs], Level.K4: [b for _, b in pairs]})
    added = cost.added[Level.K4]
    assert added.low_ns <= added.median_ns <= added.high_ns
    if not cost.doubt:
        assert added.low_ns > 0 or added.high_ns < 0


@pytest.mark.parametrize(
    ("cpuinfo", "clocks", "processor"),
    [
        (
            "model name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu hypervisor lm\n",
            "tsc hpet acpi_pm",
            Processor("QEMU TCG CPU version 2.5+", virtual=True, emulated=True),
        ),
        (
            "model name\t: QEMU Virtual CPU version 2.5+\nflags\t\t: fpu hypervisor\n",
            "tsc acpi_pm",
            Processor("QEMU Virtual CPU version 2.5+", virtual=True, emulated=True),
        ),
        (
            "model name\t: QEMU Virtual CPU version 2.5+\nflags\t\t: fpu hypervisor\n",
            "kvm-clock tsc acpi_pm",
            Processor("QEMU Virtual CPU version 2.5+", virtual=True, emulated=False),
        ),
        (
            "model name\t: AMD EPYC 7763 64-Core Processor\nflags\t\t: fpu lm nx\n",
            "tsc hpet",
            Processor("AMD EPYC 7763 64-Core Processor", virtual=False, emulated=False),
        ),
        ("", "", Processor("not known", virtual=False, emulated=False)),
    ],
)
def test_what_kind_of_processor_it_is(cpuinfo: str, clocks: str, processor: Processor) -> None:
    assert parse_processor(cpuinfo, clocks) == processor
