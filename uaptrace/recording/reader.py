# SPDX-License-Identifier: Apache-2.0
"""Reads recordings of every version that was ever written, whole or cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa

from uaptrace.abi.errors import RecordingError
from uaptrace.model.updates import CountersReading, Start, Update
from uaptrace.recording import schema, version1
from uaptrace.recording.checks import BadValueError
from uaptrace.recording.errors import not_usable, usable
from uaptrace.recording.part_names import existing_parts, split_part
from uaptrace.recording.stream import BatchStream, Tail

DECODERS: Final[Mapping[int, Callable[[pa.RecordBatch], version1.Rows]]] = MappingProxyType({1: version1.Rows})
"""How the batches of each version become rows. Entries are added, never removed: old recordings stay readable."""


_MAX_NAME: Final = 256
"""Bytes that are shown of what the head of a file says."""
_MAX_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch of a file: where it begins and ends, and its rows."""

    offset: int
    end: int
    rows: version1.Rows


class RecordingFile:
    """One file of a recording. RecordingError where it is none, of an unknown version, or has no readable head."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = Path(path)
        self._stream: BatchStream | None = BatchStream(self.path)
        self._tail: Tail | None = None
        said = self._stream.schema.metadata
        self.size_bytes: Final = self._stream.size_bytes
        self.writer: Final = said.get(schema.KEY_WRITER, b"")[:_MAX_NAME].decode(errors="replace")
        self.id: Final = said.get(schema.KEY_ID, b"")[:_MAX_NAME].decode(errors="replace")
        self.version: Final = _number(said[schema.KEY_VERSION])
        self.part: Final = max(_number(said.get(schema.KEY_PART, b"0")), 0)
        if self.version not in DECODERS:
            readable = ", ".join(str(v) for v in DECODERS)
            said_version = said[schema.KEY_VERSION][:_MAX_NAME].decode(errors="replace")
            raise RecordingError(
                f"{self.path}: recording of version {said_version}, written by {self.writer or 'an unknown writer'}; "
                f"this uaptrace reads version {readable}: use a newer one"
            )
        if not self._stream.schema.equals(version1.SCHEMA):
            raise RecordingError(f"{self.path}: damaged, its columns are not those of a recording")
        self._decode = DECODERS[self.version]

    def __enter__(self) -> RecordingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tail(self) -> Tail | None:
        """How the file ends; None until all batches were read."""
        return self._tail if self._stream is None else self._stream.tail

    @property
    def position(self) -> int:
        """Bytes read so far, while it is open: for a progress bar."""
        return 0 if self._stream is None else self._stream.position

    def batches(self, offset: int | None = None) -> Iterator[StoredBatch]:
        """Whole batches from ``offset`` (StoredBatch.offset; None: the first). A damaged one ends the recording: see ``tail``."""
        stream = self._stream
        if stream is None:
            stream = self._stream = BatchStream(self.path)
            stream.tail = self._tail
        for whole in stream.batches(offset):
            try:
                rows = self._decode(whole.batch)
            except BadValueError as error:
                raise not_usable(self.path, error, whole.offset) from None
            except (pa.ArrowException, OSError, ValueError, KeyError, IndexError):
                stream.tail = Tail(False, self.size_bytes - whole.offset, f"damaged at byte {whole.offset}")
                return
            yield StoredBatch(whole.offset, whole.end, rows)

    def close(self) -> None:
        """Close the file, which the next ``batches`` opens again: a recording may have more parts than a process may have files."""
        if self._stream is not None:
            self._tail = self._stream.tail
            self._stream.close()
            self._stream = None


def read_updates(
    path: str | os.PathLike[str], *, follow_parts: bool = True, progress: Callable[[int, int], None] | None = None
) -> Iterator[Update]:
    """All updates of a recording in the order in which they were written; records in batches of up to 65536.

    ``follow_parts``: go on with FILE.1, FILE.2, ... of the same recording; what they repeat is left out.
    A part that is read without those before it counts from its own beginning.
    ``progress(done_bytes, total_bytes)`` is called after each batch.

    RecordingError: not a recording, another version, or nothing readable. A recording that is cut off just ends:
    ``recording_info`` tells.
    """
    chain = Chain(open_parts(path, follow_parts=follow_parts))
    try:
        for batch in chain.batches():
            yield from batch.updates
            if progress is not None:
                progress(chain.position, chain.size_bytes)
    finally:
        chain.close()


def open_parts(path: str | os.PathLike[str], *, follow_parts: bool = True) -> list[RecordingFile]:
    """The file and the parts of the same recording that follow it without a gap."""
    files = [RecordingFile(path)]
    if not follow_parts:
        return files
    base = split_part(files[0].path)[0] if files[0].part else files[0].path
    parts = existing_parts(base)
    number = files[0].part + 1
    while number in parts:
        try:
            file = RecordingFile(parts[number])
        except RecordingError:
            break
        file.close()
        if file.id != files[0].id or file.part != number:
            break
        files.append(file)
        number += 1
    return files


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on reading: a batch of one of the parts, and what its reader has to know."""

    part: int = 0
    offset: int | None = None
    """Of the next batch; None: the part's first."""
    skip: int | None = None
    """Rows still to be left out, since they repeat what was told; None: not known before the part's first batch."""
    rebase: Rebase | None = None


@dataclass(frozen=True, slots=True)
class ChainBatch:
    """One batch: its updates (to be taken before the next batch is asked for), and the place after it once they were taken."""

    rows: version1.Rows
    skipped: int
    """Rows of it that only repeat."""
    updates: Iterator[Update]
    after: Place


class Chain:
    """The parts of a recording, read as one. One of them is open at a time."""

    def __init__(self, files: list[RecordingFile]) -> None:
        self.files: Final = files
        self.size_bytes: Final = sum(file.size_bytes for file in files)
        self._part = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return sum(file.size_bytes for file in self.files[: self._part]) + self.files[self._part].position

    def batches(self, place: Place | None = None) -> Iterator[ChainBatch]:
        """Batches from ``place`` on. RecordingError where one says what cannot be."""
        at = Place() if place is None else place
        for part in range(at.part, len(self.files)):
            if part != self._part:
                self.files[self._part].close()
                self._part = part
            file = self.files[part]
            if part > at.part:
                at = Place(part)
            for stored in file.batches(at.offset):
                skip, rebase = at.skip, at.rebase
                if skip is None:
                    skip, rebase = self._begin_part(part, stored.rows)
                now = min(skip, stored.rows.nr_rows)
                at = Place(part, stored.end, skip - now, rebase)
                yield ChainBatch(stored.rows, now, _checked(file, stored, now, rebase), at)

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def _begin_part(self, part: int, rows: version1.Rows) -> tuple[int, Rebase | None]:
        """Rows to leave out. After a part that was closed properly the next one repeats what was said; otherwise it is news."""
        before = self.files[part - 1].tail if part else None
        if before is not None and before.complete:
            return rows.nr_repeated, None
        return 0, Rebase() if rows.nr_repeated else None


def _checked(file: RecordingFile, stored: StoredBatch, skip: int, rebase: Rebase | None) -> Iterator[Update]:
    with usable(file.path, stored.offset):
        for update in stored.rows.updates(skip):
            yield update if rebase is None else rebase.seen(update)


class Rebase:
    """A part on its own counts from its beginning: the kernel's counters lose what they had then."""

    def __init__(self) -> None:
        self._first: CountersReading | None = None

    def seen(self, update: Update) -> Update:
        """The update as the part's own reader is to be told it. The first reading of counters decides, for good."""
        if isinstance(update, Start):
            return replace(update, splits_during_attach=MappingProxyType({}))
        if not isinstance(update, CountersReading):
            return update
        if self._first is None:
            self._first = update
        first = self._first.words
        # Counters do not fall; where they do in a file, nothing was counted.
        words = update.words - np.minimum(first, update.words)
        missed, before = update.missed_runs, self._first.missed_runs
        return replace(update, words=words, missed_runs=None if missed is None else max(missed - (before or 0), 0))


def _number(said: bytes) -> int:
    """-1 where it is none."""
    return int(said) if said.isdigit() and len(said) <= _MAX_DIGITS else -1
