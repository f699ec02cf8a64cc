# SPDX-License-Identifier: Apache-2.0
"""Whatever a command is given: no traceback, no spin, a documented status, one line of error, the terminal as it was."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.unit.command_fuzz import COMMANDS, cases, run
from tests.unit.nobody import as_nobody

NUMBER = int(os.environ.get("UAPTRACE_FUZZ_CASES", "540"))
SEED = int(os.environ.get("UAPTRACE_FUZZ_SEED", "1"))


@pytest.mark.slow
def test_whatever_a_command_is_given_it_ends_in_order() -> None:
    chosen = cases(SEED, NUMBER)
    assert {case.command for case in chosen} == COMMANDS.keys()
    as_nobody()  # Found out once, before there are several processes.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        ends = list(pool.map(run, chosen))
    wrong = [f"{case}: {end}" for case, end in zip(chosen, ends, strict=True) if end]
    print(f"{len(chosen)} combinations, {len(wrong)} wrong")
    assert not wrong, f"{len(wrong)} of {len(chosen)}:\n\n" + "\n\n".join(wrong[:20])
