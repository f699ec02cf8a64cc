# SPDX-License-Identifier: Apache-2.0
"""The heads of the messages of an Arrow IPC stream: what a message is and how large it becomes, before anything of it is decoded.

The Flatbuffers tables are those of the Arrow format's Message.fbs: Message {version, header_type, header, bodyLength}, RecordBatch {length,
nodes, buffers, compression}, DictionaryBatch {id, data: RecordBatch}.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uaptrace.recording.checks import BadValueError

CONTINUATION: Final = 0xFFFFFFFF
PREFIX: Final = struct.Struct("<II")
_SIZE: Final = struct.Struct("<q")
MAX_ROWS: Final = 1 << 20
"""Of one batch; the writer makes 65,536 at most."""
MAX_BATCH_BYTES: Final = 144 << 20
"""Of one batch, decompressed: a reading of 2 TiB that is mapped by 4K entries throughout, and its rows."""
_MAX_BUFFERS: Final = 256
_DICTIONARY_BATCH: Final = 2
_RECORD_BATCH: Final = 3


@dataclass(frozen=True, slots=True)
class MessageHead:
    """One message. ``buffers``: where each buffer is in its body, and its length; ``end``: length of head and body."""

    is_batch: bool
    is_dictionary: bool
    nr_rows: int
    end: int
    body_at: int
    is_compressed: bool
    buffers: tuple[tuple[int, int], ...]

    def check(self, raw: bytes, read: Callable[[int, int], bytes]) -> None:
        """BadValueError where the message becomes larger than any that a writer makes.

        ``raw``: bytes from its beginning on; ``read(offset, length)``: bytes of it that are not among those.
        """
        if self.nr_rows > MAX_ROWS:
            raise BadValueError(f"a batch of {self.nr_rows} rows, more than {MAX_ROWS}")
        if not self.is_compressed:
            return  # it is as large as the file
        size = 0
        for offset, length in self.buffers:
            if length < _SIZE.size:
                continue
            at = self.body_at + offset
            if not self.body_at <= at <= self.end - length:
                raise BadValueError("a buffer outside of its batch")
            # The length before compression comes first; -1: this part is not compressed.
            said = (_SIZE.unpack_from(raw, at) if at + _SIZE.size <= len(raw) else _SIZE.unpack(read(at, _SIZE.size)))[0]
            if said < -1:
                raise BadValueError(f"a buffer of {said} bytes")
            size += length if said == -1 else said
        if size > MAX_BATCH_BYTES:
            raise BadValueError(f"a batch of {size} bytes, more than {MAX_BATCH_BYTES}")


def parse_head(raw: bytes) -> MessageHead:
    """The head of a message, given its Flatbuffers table (without the eight bytes before it). struct.error where it does not fit."""
    message = struct.unpack_from("<I", raw, 0)[0]
    type_at, header_at, body_at = (_field(raw, message, i) for i in (1, 2, 3))
    header_type = struct.unpack_from("<B", raw, type_at)[0] if type_at else 0
    body = struct.unpack_from("<q", raw, body_at)[0] if body_at else 0
    if body < 0:
        raise struct.error("a negative body size")
    table = _table(raw, header_at) if header_at else 0
    if header_type == _DICTIONARY_BATCH and table:
        data_at = _field(raw, table, 1)
        table = _table(raw, data_at) if data_at else 0
    has_rows = header_type in (_DICTIONARY_BATCH, _RECORD_BATCH) and table
    rows_at = _field(raw, table, 0) if has_rows else 0
    return MessageHead(
        is_batch=header_type == _RECORD_BATCH,
        is_dictionary=header_type == _DICTIONARY_BATCH,
        nr_rows=struct.unpack_from("<q", raw, rows_at)[0] if rows_at else 0,
        end=PREFIX.size + len(raw) + body,
        body_at=PREFIX.size + len(raw),
        is_compressed=bool(has_rows and _field(raw, table, 3)),
        buffers=_buffers(raw, _field(raw, table, 2)) if has_rows else (),
    )


def _buffers(raw: bytes, at: int) -> tuple[tuple[int, int], ...]:
    if not at:
        return ()
    vector = _table(raw, at)
    number = struct.unpack_from("<I", raw, vector)[0]
    if number > _MAX_BUFFERS:
        raise struct.error("too many buffers")
    values = struct.unpack_from(f"<{2 * number}q", raw, vector + 4)
    return tuple(zip(values[::2], values[1::2], strict=True))


def _table(raw: bytes, at: int) -> int:
    """What an offset leads to."""
    found: int = at + struct.unpack_from("<I", raw, at)[0]
    return found


def _field(raw: bytes, table: int, number: int) -> int:
    """Where a field of a Flatbuffers table is, 0 where it has its default."""
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    if vtable < 0:
        raise struct.error("no table")
    size = struct.unpack_from("<H", raw, vtable)[0]
    if 4 + 2 * number >= size:
        return 0
    offset = struct.unpack_from("<H", raw, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0


def scan(path: Path) -> list[tuple[int, int]]:
    """Offset and number of rows of every whole batch, from the heads of the messages alone: 50 microseconds for each, whatever its size.

    It stops where the file ends or is damaged; empty where there is nothing to read.
    """
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size = path.stat().st_size
        offset = 0
        while offset + PREFIX.size <= size:
            file.seek(offset)
            mark, length = PREFIX.unpack(file.read(PREFIX.size))
            if mark != CONTINUATION or length == 0 or offset + PREFIX.size + length > size:
                break
            try:
                head = parse_head(file.read(length))
            except struct.error:
                break
            if offset + head.end > size:
                break
            if head.is_batch:
                found.append((offset, head.nr_rows))
            offset += head.end
    return found
