# SPDX-License-Identifier: Apache-2.0
"""The framing of an Arrow IPC stream: whole messages, and an honest word about how the file ends."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa

from uaptrace.abi.errors import RecordingError
from uaptrace.recording import schema
from uaptrace.recording.checks import BadValueError
from uaptrace.recording.errors import not_usable
from uaptrace.recording.ipc_messages import CONTINUATION, PREFIX, parse_head
from uaptrace.recording.part_names import existing_parts

_READ_AHEAD: Final = 1 << 14
"""Bytes of a message that are looked at: all of one for a quiet second."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How a file ends. ``complete``: with the mark that the writer sets when it is closed. ``lost_bytes``: after the last whole batch."""

    complete: bool
    lost_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WholeBatch:
    """One whole batch and where it is in the file."""

    offset: int
    end: int
    batch: pa.RecordBatch


class BatchStream:
    """Reads the batches of one recording file, from any of their offsets on. After the last one ``tail`` is set.

    RecordingError where the file is not a recording or its head is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.tail: Tail | None = None
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise RecordingError(f"{path}: not a regular file: write what comes from a pipe to a file first, it is read twice")
            self._file = pa.OSFile(os.fsencode(path))
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error).splitlines()[0])
            parts = existing_parts(path) if isinstance(error, FileNotFoundError) else {}
            if parts:
                reason = f"no such file, but its part {next(iter(parts.values()))} is there"
            raise RecordingError(f"{path}: cannot be opened: {reason}") from None
        self.size_bytes: Final = int(self._file.size())
        self._reader = self._read_head()
        self.schema: Final = self._reader.schema
        self.first_offset: Final = self.position
        self._has_dictionaries = False

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def batches(self, offset: int | None = None) -> Iterator[WholeBatch]:
        """Whole batches from ``offset`` (that of a batch; None: the first) to the end."""
        begin = self.first_offset if offset is None else offset
        if begin != self.first_offset and not self._has_dictionaries:
            self._next(self.first_offset)  # Arrow takes in the dictionary with the first batch
        while True:
            batch = self._next(begin)
            if batch is None:
                return
            end = self.position
            yield WholeBatch(begin, end, batch)
            begin = end

    def _read_head(self) -> pa.ipc.RecordBatchStreamReader:
        if self.size_bytes == 0:
            raise RecordingError(f"{self.path}: empty file, not a recording")
        prefix = bytes(self._file.read(8))
        mark, length = PREFIX.unpack(prefix) if len(prefix) == 8 else (CONTINUATION, self.size_bytes)
        if mark != CONTINUATION or length in (0, CONTINUATION):
            raise RecordingError(f"{self.path}: not a recording of uaptrace")
        if length > self.size_bytes - 8:
            raise RecordingError(f"{self.path}: cut off before the first batch, nothing can be read")
        self._file.seek(0)
        try:
            # One thread: a batch holds many small columns, and handing each to another thread costs more than it gains.
            reader = pa.ipc.open_stream(self._file, options=pa.ipc.IpcReadOptions(use_threads=False))
        except (pa.ArrowException, OSError, EOFError, ValueError):
            raise RecordingError(f"{self.path}: not a recording of uaptrace") from None
        if schema.KEY_VERSION not in (reader.schema.metadata or {}):
            raise RecordingError(f"{self.path}: not a recording of uaptrace")
        return reader

    def _next(self, begin: int) -> pa.RecordBatch | None:
        left = self.size_bytes - begin
        self._file.seek(begin)
        prefix = bytes(self._file.read(8))
        if not prefix:
            self.tail = Tail(False, 0, "not closed by its writer")
            return None
        if len(prefix) < 8:
            self.tail = Tail(False, left, "cut off")
            return None
        mark, length = PREFIX.unpack(prefix)
        if mark == CONTINUATION and length == 0:
            self.tail = Tail(True, left - 8, "" if left == 8 else "bytes after the end mark")
            return None
        if mark != CONTINUATION or length > left - 8:
            self.tail = Tail(False, left, "cut off" if mark == CONTINUATION else f"damaged at byte {begin}")
            return None
        if not self._is_whole(begin):
            self.tail = Tail(False, left, "cut off")
            return None
        self._file.seek(begin)
        try:
            batch = self._reader.read_next_batch()
        except (pa.ArrowException, OSError, EOFError, StopIteration, ValueError) as error:
            # Arrow says how many bytes it missed where the file ended too early.
            self.tail = Tail(False, left, "cut off" if "Expected" in str(error) else f"damaged at byte {begin}")
            return None
        self._has_dictionaries = True
        return batch

    def _is_whole(self, begin: int) -> bool:
        """Look at the messages up to the next batch (a dictionary comes before it): Arrow takes as much memory as they say.

        RecordingError where that is more than any writer makes. What does not fit is left to Arrow, which says what is wrong with it.
        """
        at = begin
        while True:
            self._file.seek(at)
            raw = bytes(self._file.read(_READ_AHEAD))
            mark, length = PREFIX.unpack_from(raw) if len(raw) >= PREFIX.size else (0, 0)
            if mark != CONTINUATION or not 0 < length <= self.size_bytes - at - PREFIX.size:
                return True
            if PREFIX.size + length > len(raw):
                raw += bytes(self._file.read(PREFIX.size + length - len(raw)))
            try:
                head = parse_head(raw[PREFIX.size : PREFIX.size + length])
                if head.end > self.size_bytes - at:
                    return False
                head.check(raw, partial(self._read_at, at))
            except struct.error:
                return True
            except BadValueError as error:
                raise not_usable(self.path, error, at) from None
            if not head.is_dictionary:
                return True
            at += head.end

    def _read_at(self, message: int, offset: int, length: int) -> bytes:
        self._file.seek(message + offset)
        return bytes(self._file.read(length))
