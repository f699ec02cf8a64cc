# SPDX-License-Identifier: Apache-2.0
"""Rows that wait to be written: column buffers that are filled by strided copies, no Python object per record."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uaptrace.abi.events import Kind
from uaptrace.abi.wire import RECORD, RING_RECORD, Batch, comms, frames
from uaptrace.recording.codec import EncodedUpdate
from uaptrace.recording.schema import COLUMNS, arrow_schema, kind_names

BATCH_ROWS: Final = 1 << 16
"""Rows of the largest batch: 3.7 MB of columns, which compress and expand within the second-level cache's reach."""

TASK_BYTES: Final = 16
STACK_BYTES: Final = 32
TASK_COLUMNS: Final = ("pfn", "nr_pages", "tid")
STACK_COLUMNS: Final = ("pfn", "nr_pages", "tid", "tgid", "duration_ns", "cgroup_id")
"""The number columns that TASK and STACK records use for a name and for addresses: 0 in a recording, the bytes go to ``data``."""


class ColumnBuffer:
    """Up to BATCH_ROWS rows: records as they came (one copy of memory), turned into columns all at once when they are taken."""

    def __init__(self) -> None:
        self.nr_rows = 0
        self.nr_payload_bytes = 0
        self._records = np.zeros(BATCH_ROWS, RECORD)
        self._bytes = self._records.view(np.uint8).reshape(BATCH_ROWS, RECORD.itemsize)
        self._update_rows: list[tuple[int, int]] = []
        self._columns: dict[str, NDArray[np.generic]] = {c.name: np.zeros(BATCH_ROWS, c.dtype) for c in COLUMNS}
        self._payloads: list[tuple[int, bytes, bytes]] = []
        self._schema = arrow_schema()
        self._names = _strings(kind_names())

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return BATCH_ROWS - self.nr_rows

    @property
    def records(self) -> Batch:
        """The rows so far as records; those of other updates have the kind 0. Valid until the next ``take``."""
        return self._records[: self.nr_rows]

    def add_records(self, batch: Batch) -> None:
        """Copy records in; ``len(batch)`` must not be more than ``room``."""
        begin, end = self.nr_rows, self.nr_rows + len(batch)
        if batch.dtype == RING_RECORD:
            # The record is the tail of the ring's cache line: one strided copy instead of one for each field.
            raw = np.ascontiguousarray(batch).view(np.uint8).reshape(len(batch), RING_RECORD.itemsize)
            self._bytes[begin:end] = raw[:, RING_RECORD.itemsize - RECORD.itemsize :]
        else:
            self._records[begin:end] = batch
        self.nr_rows = end

    def add_update(self, row: EncodedUpdate, time_ns: int, *, flags: int = 0, nr_pages: int = 0) -> None:
        """One row that is not a record; there must be room."""
        i = self.nr_rows
        self._records[i] = 0
        self._records["time_ns"][i] = time_ns
        self._records["flags"][i] = flags
        self._records["nr_pages"][i] = nr_pages
        self._update_rows.append((i, row.code))
        self._add_payload(i, row.text.encode(), row.data)
        self.nr_rows = i + 1

    def take(self) -> pa.RecordBatch:
        """All rows as one Arrow batch that borrows the buffers: use it before the next row is added. The buffer is empty after it."""
        n = self.nr_rows
        records = self.records
        for name, column in self._columns.items():
            column[:n] = records[name]
        kinds = records["kind"].astype(np.int16)
        for kind, names in ((Kind.TASK, TASK_COLUMNS), (Kind.STACK, STACK_COLUMNS)):
            found = np.flatnonzero(kinds == kind)
            if len(found):
                self._move_overlay(records[found], found, kind, names)
        for row, code in self._update_rows:
            kinds[row] = code
        arrays = [pa.DictionaryArray.from_arrays(_borrowed(kinds), self._names, safe=False)]
        arrays += [_borrowed(column[:n]) for column in self._columns.values()]
        rows = np.array([row for row, _, _ in self._payloads], np.int64)
        arrays.append(_sparse(pa.utf8(), n, rows, [text for _, text, _ in self._payloads]))
        arrays.append(_sparse(pa.binary(), n, rows, [data for _, _, data in self._payloads]))
        self.nr_rows = self.nr_payload_bytes = 0
        self._payloads = []
        self._update_rows = []
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _move_overlay(self, records: Batch, rows: NDArray[np.int64], kind: Kind, names: tuple[str, ...]) -> None:
        size = TASK_BYTES if kind == Kind.TASK else STACK_BYTES
        packed = np.empty(len(records), np.dtype([(name, records.dtype[name]) for name in names]))
        for name in names:
            packed[name] = records[name]
            self._columns[name][rows] = 0
        raw = packed.tobytes()
        texts = comms(records) if kind == Kind.TASK else [" ".join(f"{a:#x}" for a in some if a) for some in frames(records).tolist()]
        for i, (row, text) in enumerate(zip(rows.tolist(), texts, strict=True)):
            self._add_payload(row, text.encode(), raw[i * size : (i + 1) * size])

    def _add_payload(self, row: int, text: bytes, data: bytes) -> None:
        self._payloads.append((row, text, data))
        self.nr_payload_bytes += len(text) + len(data)


# pa.array() is not used: it looks whether what it is given is of pandas, and imports pandas for that, which takes most of a second.


def _borrowed(values: NDArray[np.generic]) -> pa.Array:
    """An Arrow array on the memory of a numpy array, which must stay as it is."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _strings(values: list[str]) -> pa.Array:
    return _sparse(pa.utf8(), len(values), np.arange(len(values)), [value.encode() for value in values])


def _sparse(type_: pa.DataType, nr_rows: int, rows: NDArray[np.int64], values: list[bytes]) -> pa.Array:
    """An array of strings or bytes that is null but for ``rows``, built from its three buffers."""
    if not values:
        return pa.nulls(nr_rows, type_)
    order = np.argsort(rows, kind="stable")
    lengths = np.zeros(nr_rows + 1, np.int64)
    lengths[rows + 1] = [len(value) for value in values]
    offsets = np.cumsum(lengths)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError("more than 2 GiB in one batch")
    valid = np.zeros(nr_rows, np.bool_)
    valid[rows] = True
    buffers = [
        pa.py_buffer(np.packbits(valid, bitorder="little")),
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(b"".join([values[i] for i in order])),
    ]
    return pa.Array.from_buffers(type_, nr_rows, buffers, null_count=nr_rows - len(values))
