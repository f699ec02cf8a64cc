# SPDX-License-Identifier: Apache-2.0
"""Where the state comes from that Prometheus scrapes: a recording of a real run where there is one, else a simulated host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.simulated_host import host_updates
from uaptrace.model.updates import Start, Update

RECORDINGS = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def updates() -> Sequence[Update]:
    """All that a model is told of one host: the real recordings in tests/data (the last by name), else a simulated host."""
    recordings = sorted(RECORDINGS.glob("*.uaptrace"))
    if not recordings:
        return host_updates()
    from uaptrace.session.replay import ReplaySource

    source = ReplaySource(recordings[-1], None, budget_s=None)
    try:
        found = list(source.updates())
    finally:
        source.close()
    assert isinstance(found[0], Start)
    return found
