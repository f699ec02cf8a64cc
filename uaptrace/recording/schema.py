# SPDX-License-Identifier: Apache-2.0
"""Columns of a recording: the one definition that writer, reader and docs/recordings.md share.

A recording is one Arrow IPC stream. Each row is either a record out of the ring (``kind`` is the record's kind, all
number columns are those of struct uap_record) or another update (``kind`` is ``start``, ``map_reading``, ...; the number
columns are 0 but for ``time_ns`` and ``flags``; what the update says is in ``text`` and ``data``). Rows are in the order in which
the model was told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike

from uaptrace.abi.events import Kind

VERSION: Final = 1
"""Version that is written. Readers of all versions are in uaptrace.recording.reader."""

KEY_VERSION: Final = b"uaptrace.recording"
KEY_WRITER: Final = b"uaptrace.writer"
KEY_ID: Final = b"uaptrace.id"
"""Random, the same in all parts of one recording."""
KEY_PART: Final = b"uaptrace.part"
"""Number of this file among the parts of a rotated recording, from 0."""

NR_RECORD_KINDS: Final = 256
"""A record's kind is one byte; codes from here on are other updates."""

CODE_START: Final = 256
CODE_MAP_READING: Final = 257
CODE_CACHE_READING: Final = 258
CODE_COUNTERS_READING: Final = 259
CODE_SYMBOLS: Final = 260
CODE_CGROUPS: Final = 261

UPDATE_NAMES: Final = {
    CODE_START: "start",
    CODE_MAP_READING: "map_reading",
    CODE_CACHE_READING: "cache_reading",
    CODE_COUNTERS_READING: "counters_reading",
    CODE_SYMBOLS: "symbols",
    CODE_CGROUPS: "cgroups",
}

FLAG_REPEATED: Final = 1
"""``flags`` of a start row at the head of a part after the first: ``nr_pages`` says how many rows from here on stand there only so
that the part can be read without those before it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number column: name, type and what it means."""

    name: str
    dtype: DTypeLike
    description: str


COLUMNS: Final = (
    Column("time_ns", np.uint64, "CLOCK_MONOTONIC of the traced host, nanoseconds"),
    Column("pfn", np.uint64, "first page: number of the 4K page frame"),
    Column("nr_pages", np.uint32, "number of 4K pages"),
    Column("tid", np.uint32, "thread"),
    Column("tgid", np.uint32, "process"),
    Column("duration_ns", np.uint32, "duration of the call, nanoseconds; 4294967295: longer than that"),
    Column("cgroup_id", np.uint64, "cgroup"),
    Column("stack_id", np.uint32, "kernel stack; 0: none was taken"),
    Column("aux", np.int32, "return value, gfp or errors: depends on the kind, see bpf/events.h"),
    Column("order", np.uint8, "order of the block: 2^order pages"),
    Column("before", np.uint8, "of a split, what was split: 1 4K, 2 2M, 3 1G; +64 partly absent, +128 absent; else 0: not read"),
    Column("after", np.uint8, "mapping on exit, in the same way"),
    Column("nr_present", np.uint16, "pages of the block that are in the direct map"),
    Column("flags", np.uint16, "enum uap_flag of bpf/events.h"),
)
"""The number columns beside ``kind``. No column has nulls, so that integers stay integers in a data frame."""


def kind_names() -> list[str]:
    """Name for every code of the ``kind`` column: ``split``, ``alloc``, ..., ``kind_200`` where there is none, then the other updates."""
    known = {int(k): k.name.lower() for k in Kind}
    return [known.get(code, f"kind_{code}") for code in range(NR_RECORD_KINDS)] + [
        UPDATE_NAMES[code] for code in range(CODE_START, CODE_CGROUPS + 1)
    ]


def _field(name: str, type_: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"description": description})


def arrow_schema(metadata: dict[bytes, bytes] | None = None) -> pa.Schema:
    """Schema of version 1."""
    fields = [_field("kind", pa.dictionary(pa.int16(), pa.utf8()), "what the row says: kind of record, or of another update")]
    fields += [_field(c.name, pa.from_numpy_dtype(np.dtype(c.dtype)), c.description) for c in COLUMNS]
    fields.append(_field("text", pa.utf8(), "task: name; stack: addresses; other updates: JSON", nullable=True))
    fields.append(_field("data", pa.binary(), "bytes that belong to text: arrays of readings", nullable=True))
    return pa.schema(fields, metadata=metadata)
