# SPDX-License-Identifier: Apache-2.0
"""The engine compiled and as plain Python are one text: same figures, same pages, and the compiled one is there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plain import CAN_COMPILE, as_python
from tests.policies.build import memories, request_lists
from uaptrace.policies import engine
from uaptrace.policies.engine_layout import Design
from uaptrace.policies.physical_memory import Memory, synthetic_memory
from uaptrace.policies.requests import Requests
from uaptrace.policies.simulation import Simulation
from uaptrace.policies.synthetic import synthetic_requests

PLAIN = as_python(engine)


def plain_simulation(design: Design, requests: Requests, memory: Memory) -> Simulation:
    simulation = Simulation(design, requests, memory)
    simulation._engine = PLAIN.Engine(simulation.state)
    simulation._run = PLAIN.run
    return simulation


def test_the_engine_is_compiled_where_it_can_be() -> None:
    assert not PLAIN.is_compiled()
    if CAN_COMPILE:
        assert engine.is_compiled(), "install again (pip install -e .): the engine is not compiled, though a C compiler is there"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(Design)), memories(), request_lists())
def test_compiled_and_plain_agree_to_the_last_page(design: Design, memory: Memory, requests: Requests) -> None:
    one, two = Simulation(design, requests, memory), plain_simulation(design, requests, memory)
    one.run()
    two.run()
    for name in one.state._fields:
        assert np.array_equal(getattr(one.state, name), getattr(two.state, name)), name


@pytest.mark.parametrize("design", list(Design))
def test_compiled_and_plain_agree_on_a_workload(design: Design) -> None:
    requests, memory = synthetic_requests("mixed", 20_000, 3), synthetic_memory(64 << 20, 0.8, 3)
    one, two = Simulation(design, requests, memory), plain_simulation(design, requests, memory)
    one.run()
    two.run()
    for name in one.state._fields:
        assert np.array_equal(getattr(one.state, name), getattr(two.state, name)), name


def test_other_commands_do_not_pay_for_it() -> None:
    heavy = ("numpy", "matplotlib", "pyarrow", "uaptrace.policies.engine")
    code = f"import uaptrace.cli, uaptrace.commands.whatif, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
