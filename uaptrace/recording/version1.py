# SPDX-License-Identifier: Apache-2.0
"""Version 1: from one Arrow batch to updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from uaptrace.abi.events import Kind
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.updates import Records, Update
from uaptrace.recording import schema
from uaptrace.recording.checks import BadValueError, check_rows
from uaptrace.recording.codec import decode
from uaptrace.recording.waiting_rows import STACK_COLUMNS, TASK_COLUMNS

SCHEMA: Final = schema.arrow_schema()


class Rows:
    """One batch, decoded: ``nr_rows``, ``codes`` int16 (schema.CODE_*), and ``updates()`` in order."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """ValueError (or Arrow's own) where the batch is damaged, BadValueError where it says what cannot be."""
        self._text = batch.column("text")
        self._data = batch.column("data")
        self.nr_rows = int(batch.num_rows)
        self.codes: NDArray[np.int16] = _numbers(batch.column("kind").indices, np.int16)
        self._columns = {column.name: _numbers(batch.column(column.name), column.dtype) for column in schema.COLUMNS}
        check_rows(self.codes, self.time_ns, self._columns["order"], self._columns["flags"])
        self._update_rows = np.flatnonzero(self.codes >= schema.NR_RECORD_KINDS)
        if len(self._update_rows) or np.isin(self.codes, (Kind.TASK, Kind.STACK)).any():
            # The offsets of strings come from the file: an unchecked one would be read outside the buffer. Most batches have
            # none that anyone reads.
            self._text.validate(full=True)
            self._data.validate(full=True)

    @property
    def nr_repeated(self) -> int:
        """Rows at the beginning of a part that only repeat what earlier parts said, counted from this batch's first row."""
        if self.nr_rows and self.codes[0] == schema.CODE_START and self._value("flags", 0) & schema.FLAG_REPEATED:
            return self._value("nr_pages", 0)
        return 0

    @property
    def time_ns(self) -> NDArray[np.uint64]:
        """Times of all rows."""
        return self._columns["time_ns"]

    def updates(self, skip: int = 0) -> Iterator[Update]:
        """Updates in order, without the first ``skip`` rows. Neighbouring records are one Records."""
        records: Batch | None = None
        begin = skip
        for row in [*self._update_rows[self._update_rows >= skip].tolist(), self.nr_rows]:
            if row > begin:
                records = self._records() if records is None else records
                yield Records(records[begin:row])
            if row < self.nr_rows:
                text, data = self._text[row].as_py(), self._data[row].as_buffer()
                if text is None or data is None:
                    raise BadValueError(f"row {row}: {schema.UPDATE_NAMES[int(self.codes[row])]} says nothing")
                yield decode(int(self.codes[row]), text, memoryview(data))
            begin = row + 1

    def _value(self, column: str, row: int) -> int:
        return int(self._columns[column][row])

    def _records(self) -> Batch:
        records = np.empty(self.nr_rows, RECORD)
        # Codes of other updates wrap to some byte here; those rows are never handed out.
        records["kind"] = self.codes.astype(np.uint8)
        for name, column in self._columns.items():
            records[name] = column
        for kind, names in ((Kind.TASK, TASK_COLUMNS), (Kind.STACK, STACK_COLUMNS)):
            rows = np.flatnonzero(self.codes == kind)
            if not len(rows):
                continue
            overlay = np.dtype([(name, RECORD[name]) for name in names])
            overlay_bytes = overlay.itemsize
            # One by one: take() of the rows imports all of Arrow's functions, which takes longer than reading most recordings.
            raw = [self._data[row].as_py() for row in rows.tolist()]
            if any(value is None or len(value) != overlay_bytes for value in raw):
                raise BadValueError(f"a {kind.name.lower()} has not {overlay_bytes} bytes")
            packed = np.frombuffer(b"".join(raw), overlay)
            for name in names:
                column_of = records[name]
                column_of[rows] = packed[name]
        return records


def _numbers(array: pa.Array, dtype: DTypeLike) -> NDArray[Any]:
    """The numbers of an Arrow array where they lie; its to_numpy() would import pandas. ValueError where some are missing."""
    wanted = np.dtype(dtype)
    buffer = array.buffers()[1]
    if array.null_count or (buffer is None and len(array)):
        raise ValueError("numbers are missing")
    return np.frombuffer(buffer, wanted, len(array), array.offset * wanted.itemsize) if len(array) else np.empty(0, wanted)
