# SPDX-License-Identifier: Apache-2.0
"""What an archive answers. Counts are of what recordings saw; a share or a rate that nothing can be said of is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
MIN_WATCHED_S: Final = HOUR_S
"""Less tells nothing of a day."""


def per_day(number: float, watched_s: float) -> float | None:
    """So many on a host in a day; None where it was watched for less than MIN_WATCHED_S."""
    return number * DAY_S / watched_s if watched_s >= MIN_WATCHED_S else None


@dataclass(frozen=True, slots=True)
class Totals:
    """What was asked. ``nr_overlaps``: rows that another recording of the same host covers in part; what happened then counts twice."""

    nr_hosts: int
    nr_host_days: int
    nr_recordings: int
    first_day: date
    last_day: date
    watched_s: float
    watched_exact_s: float
    """Of rows that were exact at their end."""
    events_lost: int
    nr_without_map: int
    """Rows of which nobody read the page tables."""
    nr_overlaps: int


@dataclass(frozen=True, slots=True)
class CauseRow:
    """Splits by cause."""

    cause: str
    splits_2m: int
    splits_1g: int
    nr_hosts: int

    @property
    def splits(self) -> int:
        return self.splits_2m + self.splits_1g


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """Splits by the name of the process. ``cause``: of most of them."""

    comm: str
    splits: int
    nr_hosts: int
    cause: str


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel on all hosts that ran it. ``lost_bytes``: of large mappings, from the beginning of each row to its end."""

    kernel_release: str
    nr_hosts: int
    watched_s: float
    splits_2m: int
    splits_1g: int
    lost_bytes: int | None

    @property
    def splits_per_day(self) -> float | None:
        """On one host."""
        return per_day(self.splits_2m + self.splits_1g, self.watched_s)

    @property
    def lost_bytes_per_day(self) -> float | None:
        """On one host."""
        return None if self.lost_bytes is None else per_day(self.lost_bytes, self.watched_s)


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """Hosts that went from one kernel to another: each before, and after until the next one."""

    before: str
    after: str
    nr_hosts: int
    nr_fewer: int
    """Hosts on which a day has fewer splits after it; of those that were watched long enough before and after."""
    nr_more: int
    watched_before_s: float
    watched_after_s: float
    splits_before: int
    splits_after: int

    @property
    def splits_per_day(self) -> tuple[float | None, float | None]:
        """On one host, before and after."""
        return per_day(self.splits_before, self.watched_before_s), per_day(self.splits_after, self.watched_after_s)


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host. ``kernel_release``, ``large_share_end``: of its last row."""

    hostname: str
    kernel_release: str
    watched_s: float
    splits: int
    lost_bytes: int | None
    large_share_begin: float | None
    large_share_end: float | None


@dataclass(frozen=True, slots=True)
class StackRow:
    """Splits by level, cause, process name and stack (outermost function first)."""

    level: str
    cause: str
    comm: str
    stack: tuple[str, ...]
    splits: int
    nr_hosts: int


@dataclass(frozen=True, slots=True)
class DayRow:
    """All hosts on one day. ``large_share``: of the direct maps of all hosts, at the end of each one's last row of the day."""

    day: date
    nr_hosts: int
    watched_s: float
    splits: Mapping[str, int]
    """By cause."""
    large_share: float | None


@dataclass(frozen=True, slots=True)
class InvariantRow:
    """One invariant on all hosts. ``nr_hosts``: on which it was broken."""

    number: int
    title: str
    checked: int
    violated: int
    nr_hosts: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows are the most frequent first, days in their order."""

    place: str
    totals: Totals
    causes: tuple[CauseRow, ...]
    kernels: tuple[KernelRow, ...]
    updates: tuple[UpdateRow, ...]
    hosts: tuple[HostRow, ...]
    """Those that lost most bytes of large mappings."""
    processes: tuple[ProcessRow, ...]
    stacks: tuple[StackRow, ...]
    days: tuple[DayRow, ...]
    audit: tuple[InvariantRow, ...]
    stacks_complete: bool
    """All splits have a stack row: no ledger of a recording was full."""

    @property
    def splits(self) -> int:
        """All, of both sizes."""
        return sum(row.splits for row in self.causes)
