# SPDX-License-Identifier: Apache-2.0
"""Writes updates to a recording, so that whatever stops the writer costs at most the last second.

Rows are collected in memory and written as one complete Arrow message by one system call, at the latest ``flush_interval_s`` after the
first of them. A second thread asks the kernel to bring each message to the disk, so that a slow disk does not hold up the consumer.
"""

from __future__ import annotations

import math
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

import pyarrow as pa

import uaptrace
from uaptrace.abi.errors import ReaderGoneError, RecordingError, UaptraceError
from uaptrace.abi.wire import Batch
from uaptrace.model.updates import CacheReading, Cgroups, Records, Start, Symbols, Update
from uaptrace.process.files import write_some
from uaptrace.recording import schema
from uaptrace.recording.codec import EncodedUpdate, encode
from uaptrace.recording.errors import RecordingStoppedError
from uaptrace.recording.output import PartFiles
from uaptrace.recording.part_names import part_path
from uaptrace.recording.remembered import Remembered
from uaptrace.recording.waiting_rows import ColumnBuffer

PAYLOAD_BYTES: Final = 4 << 20
"""Bytes of readings that wait in memory before a batch is written early."""

POSTPONED_S: Final = 1.0
MAX_POSTPONED: Final = 30
"""The next part waits so long, and so often at most, for a moment at which the cache can be read as a whole. A host that never has
such a moment gets its part all the same, which says by itself that the cache was not read."""


class RecordingWriter:
    """Writes one recording, in parts if asked to.

    ``max_bytes``, ``max_age_s``: begin the next part (FILE.1, FILE.2, ...) once a part has reached this; None: never.
    ``max_parts``: remove the oldest part when there are more; None: keep all.
    ``baseline``: called for each part after the first; gives the readings (MapReading of all of the direct map, CacheReading,
    CountersReading) that the part begins with, so that it can be read on its own. Start, symbols, cgroups, names of processes
    and stacks are repeated by the writer itself.
    ``sync``: also bring each batch to the disk (fdatasync in a second thread), so that a power cut costs no more than a kill.
    ``clock``: seconds, monotonic.

    Every method but ``close`` raises RecordingStoppedError when the file cannot be written (ReaderGoneError: it is a pipe, and nobody
    reads it any more); the file then ends with its last complete batch, is closed, and later calls raise the same error. ``path`` may
    be ``-``, standard output.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        max_bytes: int | None = None,
        max_age_s: float | None = None,
        max_parts: int | None = None,
        baseline: Callable[[], Iterable[Update]] | None = None,
        flush_interval_s: float = 1.0,
        sync: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path: Final = Path(path)
        self.nr_records = 0
        self.nr_bytes = 0
        """Bytes of all parts so far."""
        self.part = 0
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._max_parts = max_parts
        self._baseline = baseline
        self._flush_interval_s = flush_interval_s
        self._clock = clock
        self._id = uuid.uuid4().hex.encode()
        self._failed: UaptraceError | None = None
        self._fd = -1
        self._regular = True
        self._good_bytes = 0
        self._columns = ColumnBuffer()
        self._chunks: list[bytes] = []
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self._first_row_s: float | None = None
        self._part_begin_s = 0.0
        self._nr_postponed = 0
        self._not_before_s = -math.inf
        self._last_time_ns = 0
        self._rotates = max_bytes is not None or max_age_s is not None
        self._remembered = Remembered() if self._rotates else None
        self._syncing: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, "recording-sync") if sync else None
        self._files = PartFiles(self.path, overwrite=overwrite, rotates=self._rotates)
        try:
            self._open_part()
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write(self, update: Update) -> None:
        """Take in one update. Arrays are copied, so their owner may reuse them."""
        self._check()
        if isinstance(update, Records):
            self._add_records(update.batch)
        else:
            if self._remembered is not None:
                self._remembered.see(update)
            self._add_row(encode(update))
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write what waits if its first row is older than ``flush_interval_s``: call it when idle too."""
        self._check()
        now_s = self._clock()
        if self._first_row_s is not None and now_s - self._first_row_s >= self._flush_interval_s:
            self._write_batch()
        too_old = self._max_age_s is not None and now_s - self._part_begin_s >= self._max_age_s
        too_large = self._max_bytes is not None and self._good_bytes >= self._max_bytes
        if (too_old or too_large) and now_s >= self._not_before_s:
            self._rotate(now_s)

    def flush(self) -> None:
        """Write what waits as one batch; an empty one is not written."""
        self._check()
        self._write_batch()
        self.flush_if_due()

    def close(self, *, complete: bool = True) -> None:
        """Write what waits and, if it is ``complete``, the mark that says that the recording was ended on purpose. Safe to call twice."""
        if self._failed is None and self._fd >= 0:
            self._write_batch()
            if not complete:
                self._stream = None
            self._close_part()
        self._files.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        if self._fd < 0:
            raise RecordingError(f"{self.path}: the recording is closed")

    def _add_records(self, batch: Batch) -> None:
        if not len(batch):
            return
        self.nr_records += len(batch)
        self._last_time_ns = int(batch["time_ns"][-1])
        while len(batch):
            self._note_row()
            some = batch[: self._columns.room]
            self._columns.add_records(some)
            batch = batch[len(some) :]
            if self._columns.room == 0:
                self._write_batch()

    def _add_row(self, row: EncodedUpdate, *, flags: int = 0, nr_pages: int = 0) -> None:
        self._note_row()
        self._last_time_ns = self._last_time_ns if row.time_ns is None else row.time_ns
        self._columns.add_update(row, self._last_time_ns, flags=flags, nr_pages=nr_pages)
        if self._columns.room == 0 or self._columns.nr_payload_bytes >= PAYLOAD_BYTES:
            self._write_batch()

    def _note_row(self) -> None:
        if self._first_row_s is None:
            self._first_row_s = self._clock()

    def _write_batch(self) -> None:
        if self._columns.nr_rows == 0 or self._stream is None:
            return
        self._first_row_s = None
        if self._remembered is not None:
            self._remembered.see_records(self._columns.records)
        self._stream.write_batch(self._columns.take())
        self._emit()

    def _emit(self) -> None:
        """Everything that Arrow has made since the last call, by one system call; on failure cut back to the last complete batch."""
        raw = memoryview(b"".join(self._chunks))
        self._chunks.clear()
        written = 0
        try:
            while written < len(raw):
                written += write_some(self._fd, raw[written:])
        except BrokenPipeError:
            self._end(ReaderGoneError())
        except OSError as error:
            self._stop(error)
        self._good_bytes += written
        self.nr_bytes += written
        self._sync()

    def _sync(self) -> None:
        if self._pool is None or not self._regular or (self._syncing is not None and not self._syncing.done()):
            return
        try:
            if self._syncing is not None:
                self._syncing.result()
        except OSError as error:
            self._stop(error)
        self._syncing = self._pool.submit(os.fdatasync, self._fd)

    def _stop(self, error: OSError) -> None:
        name = part_path(self.path, self.part)
        try:
            os.ftruncate(self._fd, self._good_bytes)
            os.fsync(self._fd)
        except OSError:
            pass  # the reader finds the end of the last complete batch by itself
        reason = error.strerror or str(error)
        self._end(
            RecordingStoppedError(
                f"{name}: recording stopped: {reason}; its first {self._good_bytes} bytes stay readable, make room and record again"
            )
        )

    def _end(self, reason: UaptraceError) -> NoReturn:
        """Nothing more can be written; every later call says why."""
        self._wait_for_sync()
        os.close(self._fd)
        self._fd = -1
        self._stream = None
        self._failed = reason
        raise reason from None

    def _wait_for_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.exception()
            self._syncing = None

    def _open_part(self) -> None:
        try:
            self._fd = self._files.open(self.part)
        except UaptraceError as error:
            if self.part:
                self._failed = error
            raise
        self._regular = not self._files.given and stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._good_bytes = 0
        self._part_begin_s = self._clock()
        metadata = {
            schema.KEY_VERSION: str(schema.VERSION).encode(),
            schema.KEY_WRITER: f"uaptrace {uaptrace.__version__}".encode(),
            schema.KEY_ID: self._id,
            schema.KEY_PART: str(self.part).encode(),
        }
        # One thread: the daemon's cost stays on the core it runs on, and compression keeps up by an order of magnitude.
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1), use_threads=False)
        self._stream = pa.ipc.new_stream(_Chunks(self._chunks), schema.arrow_schema(metadata), options=options)

    def _close_part(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._emit()
            self._stream = None
        self._wait_for_sync()
        try:
            if self._pool is not None and self._regular:
                os.fsync(self._fd)
        except OSError as error:
            self._stop(error)
        os.close(self._fd)
        self._fd = -1

    def _rotate(self, now_s: float) -> None:
        self._write_batch()
        if self._good_bytes == 0:
            return
        # The readings are taken before the old part ends: what happens meanwhile waits in the ring and comes after them.
        readings = list(self._baseline()) if self._baseline is not None else []
        if self._nr_postponed < MAX_POSTPONED and any(isinstance(r, CacheReading) and not r.atomic for r in readings):
            # A part that begins with the cache at no single moment would be inexact by itself.
            self._nr_postponed += 1
            self._not_before_s = now_s + POSTPONED_S
            return
        self._nr_postponed = 0
        self._close_part()
        self.part += 1
        self._open_part()
        self._write_head(readings)
        if self._max_parts is not None:
            self._files.remove_before(self.part - self._max_parts + 1)

    def _write_head(self, readings: list[Update]) -> None:
        seen = self._remembered
        if seen is None or seen.start is None:
            return
        updates: list[Update] = [seen.start, Symbols(seen.symbols), Cgroups(seen.cgroups)]
        updates += [r for r in readings if not isinstance(r, Records | Start)]
        records = seen.records()
        for i, update in enumerate(updates):
            if i == 0:
                self._add_row(encode(update), flags=schema.FLAG_REPEATED, nr_pages=len(updates) + len(records))
            else:
                self._add_row(encode(update))
        last_time_ns = self._last_time_ns
        while len(records):
            self._note_row()
            some = records[: self._columns.room]
            self._columns.add_records(some)
            records = records[len(some) :]
            if self._columns.room == 0:
                self._write_batch()
        self._last_time_ns = last_time_ns
        self._write_batch()


class _Chunks:
    """The file that Arrow writes to: pieces of bytes in memory, since only whole batches go to the disk."""

    closed = False

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def write(self, data: bytes) -> int:
        raw = bytes(data)
        self._chunks.append(raw)
        return len(raw)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
