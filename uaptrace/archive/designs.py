# SPDX-License-Identifier: Apache-2.0
"""What each design would have kept on many hosts: one recording is one task, and all of them add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from uaptrace.abi.errors import RecordingError
from uaptrace.abi.units import Level
from uaptrace.policies.engine_layout import Count, Design
from uaptrace.policies.recorded import recorded_question
from uaptrace.policies.simulation import Outcome, replay
from uaptrace.recording import read_updates


@dataclass(frozen=True, slots=True)
class DesignFigures:
    """Of one design: of one recording, or the sum of several. Sizes in bytes, everything else in numbers."""

    design: str
    splits_2m: int
    splits_1g: int
    large_bytes: int
    """Left in 2M and 1G mappings at the end."""
    nr_entries: int
    page_table_bytes: int
    direct_map_operations: int
    tlb_flushes: int
    exposed_pages: int
    failed: int


@dataclass(frozen=True, slots=True)
class RecordingDesigns:
    """One recording under all designs."""

    path: str
    hostname: str
    kernel_release: str
    nr_requests: int
    size_bytes: int
    designs: tuple[DesignFigures, ...]


def designs_of(path: str, seed: int, labels: Sequence[str]) -> RecordingDesigns | RecordingError:
    """The designs of these labels, all without any; or the error as a value: what one recording lacks is no reason to end the others."""
    try:
        requests, memory, facts = recorded_question(read_updates(path), path, seed=seed)
    except RecordingError as error:
        return error
    outcomes = [replay(design, requests, memory) for design in Design if not labels or design.label in labels]
    return RecordingDesigns(
        path, facts.hostname, facts.kernel_release, len(requests), memory.size_bytes, tuple(_figures(outcome) for outcome in outcomes)
    )


def _figures(outcome: Outcome) -> DesignFigures:
    counts = outcome.counts
    return DesignFigures(
        design=outcome.design.label,
        splits_2m=outcome.splits[Level.M2],
        splits_1g=outcome.splits[Level.G1],
        large_bytes=outcome.large_bytes,
        nr_entries=outcome.nr_entries,
        page_table_bytes=outcome.page_table_bytes,
        direct_map_operations=counts[Count.OPERATIONS],
        tlb_flushes=counts[Count.TLB_FLUSHES],
        exposed_pages=counts[Count.EXPOSED_PAGES],
        failed=counts[Count.FAILED],
    )


def total_of(recordings: Iterable[RecordingDesigns]) -> tuple[DesignFigures, ...]:
    """Each design over all recordings."""
    names = [field.name for field in fields(DesignFigures)][1:]
    columns = zip(*(recording.designs for recording in recordings), strict=True)
    return tuple(DesignFigures(each[0].design, *(sum(getattr(one, name) for one in each) for name in names)) for each in columns)
