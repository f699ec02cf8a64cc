# SPDX-License-Identifier: Apache-2.0
"""The simulation against kernels that ran: what a recording from a virtual machine says must come out, to the block.

tests/data/README.md says how the recordings were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from uaptrace.abi.events import Kind
from uaptrace.abi.units import Level
from uaptrace.model.updates import CountersReading, Records, Start, Update
from uaptrace.policies.against_kernel import check_none, check_unmapped_alloc
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


def read_during_scans(updates: Iterable[Update]) -> Iterator[Update]:
    """The updates, with a reading of the kernel's rows before each scan returns: its releases are told, it is not."""
    reading: CountersReading | None = None
    for update in updates:
        if isinstance(update, CountersReading) and update.quiet and update.rows_free is not None:
            reading = update
        if isinstance(update, Records) and reading is not None:
            begin = 0
            for end in (update.batch["kind"] == Kind.SHRINK).nonzero()[0].tolist():
                if (update.batch["kind"][begin:end] == Kind.RELEASE).any():
                    yield Records(update.batch[begin:end])
                    yield replace(reading, rows_free=(1,) * 11)
                    begin = end
            update = Records(update.batch[begin:])
        yield update


def test_a_reading_while_the_shrinker_scans_is_no_moment_to_compare_at() -> None:
    """Seen on a busy machine: all pages of a scan were released, and the scan had not returned."""
    updates = list(read_during_scans(read_updates(PATCHED)))
    plain = check_unmapped_alloc(read_updates(PATCHED))
    assert len(updates) > sum(1 for _ in read_updates(PATCHED)) + 10
    check = check_unmapped_alloc(updates)
    assert check.agrees
    assert len(check.comparisons) == len(plain.comparisons)


def test_nothing_to_compare_is_not_agreement() -> None:
    assert not check_unmapped_alloc([]).agrees
    assert check_none([]) is None
