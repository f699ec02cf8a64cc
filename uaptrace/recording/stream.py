# SPDX-License-Identifier: Apache-2.0
"""The framing of an Arrow IPC stream: whole messages, and an honest word about how the file ends."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from uaptrace.errors import RecordingError
from uaptrace.recording import schema
from uaptrace.recording.parts import existing_parts

CONTINUATION: Final = 0xFFFFFFFF
_PREFIX: Final = struct.Struct("<II")


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
        mark, length = _PREFIX.unpack(prefix) if len(prefix) == 8 else (CONTINUATION, self.size_bytes)
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
        mark, length = _PREFIX.unpack(prefix)
        if mark == CONTINUATION and length == 0:
            self.tail = Tail(True, left - 8, "" if left == 8 else "bytes after the end mark")
            return None
        if mark != CONTINUATION or length > left - 8:
            self.tail = Tail(False, left, "cut off" if mark == CONTINUATION else f"damaged at byte {begin}")
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


def scan(path: Path) -> list[tuple[int, int]]:
    """Offset and number of rows of every whole batch, from the heads of the messages alone: 50 microseconds for each, whatever its size.

    It stops where the file ends or is damaged; empty where there is nothing to read.
    """
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        offset = 0
        while offset + 8 <= size:
            file.seek(offset)
            mark, length = _PREFIX.unpack(file.read(8))
            if mark != CONTINUATION or length == 0 or offset + 8 + length > size:
                break
            try:
                is_batch, nr_rows, body = _message_head(file.read(length))
            except struct.error:
                break
            end = offset + 8 + length + body
            if body < 0 or end > size:
                break
            if is_batch:
                found.append((offset, nr_rows))
            offset = end
    return found


_HEADER_RECORD_BATCH: Final = 3


def _message_head(raw: bytes) -> tuple[bool, int, int]:
    """Whether a message is a record batch, its rows, and the length of its body.

    The Flatbuffers tables are those of the Arrow format's Message.fbs: Message {version, header_type, header, bodyLength},
    RecordBatch {length, ...}. struct.error where they do not fit.
    """
    message = struct.unpack_from("<I", raw, 0)[0]
    type_at, header_at, body_at = (_flat_field(raw, message, i) for i in (1, 2, 3))
    header_type = struct.unpack_from("<B", raw, type_at)[0] if type_at else 0
    body = struct.unpack_from("<q", raw, body_at)[0] if body_at else 0
    nr_rows = 0
    if header_type == _HEADER_RECORD_BATCH and header_at:
        table = header_at + struct.unpack_from("<I", raw, header_at)[0]
        rows_at = _flat_field(raw, table, 0)
        nr_rows = struct.unpack_from("<q", raw, rows_at)[0] if rows_at else 0
    return header_type == _HEADER_RECORD_BATCH, nr_rows, body


def _flat_field(raw: bytes, table: int, number: int) -> int:
    """Where a field of a Flatbuffers table is, 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    if vtable < 0:
        raise struct.error("no table")
    size = struct.unpack_from("<H", raw, vtable)[0]
    if 4 + 2 * number >= size:
        return 0
    offset = struct.unpack_from("<H", raw, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0
