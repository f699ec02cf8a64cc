# SPDX-License-Identifier: Apache-2.0
"""What a recording has, and what is missing from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import RecordingError
from uaptrace.abi.events import Counter, Kind
from uaptrace.model.updates import CountersReading, MapReading, Start, Update
from uaptrace.recording import schema
from uaptrace.recording.reader import Chain, ChainBatch, RecordingFile, open_parts
from uaptrace.recording.stream import Tail

_NOT_ATTACHED: Final = {"missing": "not attached", "refused": "refused by the kernel"}
"""States of hooks (HookStatus.state) by which something goes unseen, in words."""


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One file."""

    path: Path
    size_bytes: int
    nr_rows: int
    closed: bool
    """Its writer closed it."""
    lost_bytes: int
    """Bytes after the last whole batch: a batch that was being written when the writer was stopped, or damage."""
    reason: str
    """How it ends, where it was not closed."""


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """What a recording has. Counts are of what is in the files, ``lost`` is what the kernel counted and the files lack."""

    path: Path
    version: int
    writer: str
    parts: tuple[PartInfo, ...]
    first_part: int
    """Number of the part that was read first: 0 where the recording is read from its beginning."""
    start: Start | None
    duration_ns: int
    """From the first to the last row."""
    nr_records: int
    records_by_kind: Mapping[str, int]
    updates_by_kind: Mapping[str, int]
    has_baseline: bool
    """There is a reading of all of the direct map."""
    lost_by_kind: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Records for which the ring had no room, as the last reading of the kernel's counters says; empty where there is none."""
    contexts_lost: int = 0
    missed_runs: int | None = None
    """None where the kernel did not say."""
    has_counters: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def events_lost(self) -> int | None:
        """Records that are missing; None where nobody counted."""
        return sum(self.lost_by_kind.values()) if self.has_counters else None

    @property
    def bytes_per_event(self) -> float | None:
        """Bytes of file for each record; None where there is none."""
        return self.size_bytes / self.nr_records if self.nr_records else None

    @property
    def missing(self) -> tuple[str, ...]:
        """What is missing, one sentence each; empty: nothing."""
        return (*self._missing_of_files(), *self._missing_readings(), *self._missing_events(), *self._missing_hooks())

    def _missing_of_files(self) -> list[str]:
        out = []
        if self.first_part:
            out.append(f"parts before number {self.first_part} are not read: counts begin with this part")
        for part in self.parts:
            if part.lost_bytes:
                out.append(f"{part.path.name}: {part.reason}: {part.lost_bytes} bytes at the end cannot be read")
            elif not part.closed:
                out.append(f"{part.path.name}: {part.reason}: what happened in its last second may be missing")
        return out

    def _missing_readings(self) -> list[str]:
        out = []
        if self.start is None:
            out.append("no start: host and hooks are not known")
        if not self.has_baseline:
            out.append("no reading of the direct map: its layout is known only where something changed")
        if not self.has_counters:
            out.append("no reading of the kernel's counters: how many events were lost is not known")
        return out

    def _missing_events(self) -> list[str]:
        out = []
        if self.events_lost:
            by_kind = ", ".join(f"{kind} {n}" for kind, n in self.lost_by_kind.items() if n)
            out.append(f"{self.events_lost} events found no room in the ring ({by_kind})")
        if self.contexts_lost:
            out.append(f"{self.contexts_lost} calls could not be followed")
        if self.has_counters and self.missed_runs is None:
            out.append("how often the kernel did not run a program is not known")
        if self.missed_runs:
            out.append(f"{self.missed_runs} times the kernel did not run a program")
        return out

    def _missing_hooks(self) -> list[str]:
        hooks = self.start.hooks if self.start is not None else ()
        return [f"hook {h.name} was {_NOT_ATTACHED[h.state]}: {h.reason}" for h in hooks if h.state in _NOT_ATTACHED]


def recording_info(
    path: str | os.PathLike[str], *, follow_parts: bool = True, progress: Callable[[int, int], None] | None = None
) -> RecordingInfo:
    """Reads all of a recording. ``progress(done_bytes, total_bytes)`` is called after each batch. Errors are those of ``read_updates``."""
    chain = Chain(open_parts(path, follow_parts=follow_parts))
    try:
        return _read(chain, progress)
    finally:
        chain.close()


class _Seen:
    """What is gathered from batch to batch."""

    def __init__(self, chain: Chain) -> None:
        self._files = chain.files
        self.names = schema.kind_names()
        self.counts = np.zeros(len(self.names), np.int64)
        self.rows_of: dict[Path, int] = {file.path: 0 for file in chain.files}
        self.start: Start | None = None
        self.counters: CountersReading | None = None
        self.has_baseline = False
        self._first_ns: int | None = None
        self._last_ns = 0

    @property
    def duration_ns(self) -> int:
        return max(self._last_ns - (self._last_ns if self._first_ns is None else self._first_ns), 0)

    @property
    def words(self) -> NDArray[np.uint64] | None:
        """The last reading of the programs' counters; None where there is none, or one of an older version."""
        return None if self.counters is None or len(self.counters.words) <= Counter.HISTOGRAM_SUM else self.counters.words

    def by_kind(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows there are of each kind of record, and of other update, for kinds that there are."""
        found = {name: int(n) for name, n in zip(self.names, self.counts, strict=True) if n}
        others = set(schema.UPDATE_NAMES.values())
        return {k: n for k, n in found.items() if k not in others}, {k: n for k, n in found.items() if k in others}

    def take(self, batch: ChainBatch) -> None:
        codes = batch.rows.codes
        self.rows_of[self._files[batch.after.part].path] += len(codes)
        new = codes[batch.skipped :]
        self.counts += np.bincount(new, minlength=len(self.names))[: len(self.names)]
        if len(new):
            self._take_times(batch)
        if (new >= schema.NR_RECORD_KINDS).any():
            for update in batch.updates:
                self._take_update(update)

    def _take_times(self, batch: ChainBatch) -> None:
        times = batch.rows.time_ns
        # A part's head repeats names with the times at which they were first said.
        alone = batch.rows.nr_repeated
        if self._first_ns is None and len(times) > alone:
            self._first_ns = int(times[max(batch.skipped, alone)])
        self._last_ns = max(self._last_ns, int(times[batch.skipped :].max()))

    def _take_update(self, update: Update) -> None:
        match update:
            case Start():
                self.start = self.start or update
            case CountersReading():
                self.counters = update
            case MapReading(complete=True):
                self.has_baseline = True


def _read(chain: Chain, progress: Callable[[int, int], None] | None) -> RecordingInfo:
    seen = _Seen(chain)
    for batch in chain.batches():
        seen.take(batch)
        if progress is not None:
            progress(chain.position, chain.size_bytes)
    records, updates = seen.by_kind()
    counters, words = seen.counters, seen.words
    lost = {} if words is None else {kind.name.lower(): int(words[Counter.LOST + kind]) for kind in Kind if words[Counter.LOST + kind]}
    first = chain.files[0]
    return RecordingInfo(
        path=first.path,
        version=first.version,
        writer=first.writer,
        parts=tuple(_part(file, seen.rows_of[file.path]) for file in chain.files),
        first_part=first.part,
        start=seen.start,
        duration_ns=seen.duration_ns,
        nr_records=int(seen.counts[: schema.NR_RECORD_KINDS].sum()),
        records_by_kind=MappingProxyType(records),
        updates_by_kind=MappingProxyType(updates),
        has_baseline=seen.has_baseline,
        lost_by_kind=MappingProxyType(lost),
        contexts_lost=0 if words is None else int(words[Counter.CONTEXT_LOST]),
        missed_runs=None if counters is None else counters.missed_runs,
        has_counters=words is not None,
    )


def _part(file: RecordingFile, nr_rows: int) -> PartInfo:
    tail = file.tail or Tail(False)
    return PartInfo(file.path, file.size_bytes, nr_rows, tail.complete, tail.lost_bytes, tail.reason)


def trim(path: str | os.PathLike[str]) -> int:
    """Cuts off what follows the last whole batch, so that every Arrow reader opens the file. Returns the number of bytes removed.

    RecordingError where it is not a recording or cannot be written.
    """
    with RecordingFile(path) as file:
        for _ in file.batches():
            pass
        tail = file.tail or Tail(False)
        keep = file.size_bytes - tail.lost_bytes
    if tail.lost_bytes:
        try:
            os.truncate(path, keep)
        except OSError as error:
            raise RecordingError(f"{path}: cannot be written: {error.strerror}") from None
    return tail.lost_bytes
