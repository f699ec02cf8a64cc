# SPDX-License-Identifier: Apache-2.0
"""The simulation against kernels that ran: what a recording from a virtual machine says must come out, to the block.

tests/data/README.md says how the recordings were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from uaptrace.abi.events import Kind
from uaptrace.abi.units import Level
from uaptrace.model.updates import Records, Start, Update
from uaptrace.policies.check import check_none, check_unmapped_alloc
from uaptrace.recording import read_updates

DATA = Path(__file__).parent.parent / "data"
RECORDINGS = sorted(DATA.glob("*.uaptrace"))
PATCHED = DATA / "patched-6.1.uaptrace"


def has_series(path: Path) -> bool:
    return any(isinstance(update, Start) and update.host.has_series for update in read_updates(path))


def test_simulated_unmapped_alloc_is_the_kernels_at_every_quiet_moment() -> None:
    check = check_unmapped_alloc(read_updates(PATCHED))
    assert len(check.comparisons) > 100
    assert check.nr_blocks > 10_000
    assert sum(any(c.kernel.released) for c in check.comparisons) > 10  # the shrinker had its part in it
    assert [c for c in check.comparisons if c.differing_blocks] == []
    assert check.agrees
    assert check.nr_blocks_elsewhere == 0  # every block handed out is the one that the kernel took


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_none_comes_to_the_splits_that_the_kernel_counted(path: Path) -> None:
    check = check_none(read_updates(path))
    assert check is not None
    assert check.nr_requests > 1000
    assert check.kernel[Level.M2] > 0
    assert check.simulated == check.kernel


def without(updates: Iterable[Update], kind: Kind, number: int) -> Iterator[Update]:
    """The updates, less one record."""
    for update in updates:
        if isinstance(update, Records):
            places = (update.batch["kind"] == kind).nonzero()[0]
            if 0 <= number < len(places):
                batch = update.batch.copy()
                batch["kind"][places[number]] = Kind.TASK
                update = Records(batch)
            number -= len(places)
        yield update


@pytest.mark.parametrize(("kind", "number"), [(Kind.FREE, 700), (Kind.ALLOC, 700), (Kind.SHRINK, 3)])
def test_one_record_less_is_noticed(kind: Kind, number: int) -> None:
    check = check_unmapped_alloc(without(read_updates(PATCHED), kind, number))
    assert not check.agrees


def test_nothing_to_compare_is_not_agreement() -> None:
    assert not check_unmapped_alloc([]).agrees
    assert check_none([]) is None
