# SPDX-License-Identifier: Apache-2.0
"""A BPF ring buffer as numpy arrays: whole batches of records, without a copy and without Python per record.

The layout is the kernel's (Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c)::

    file offset 0          consumer page: u64 position, written by us
    4096                   producer page: u64 position, written by the kernel
    8192                   data, size_bytes (a power of two)
    8192 + size_bytes      the same data again, so that a record that wraps is contiguous

    a record:  u32 length | busy (bit 31) | discard (bit 30), u32 page offset, length bytes, padding to 8

Only the first page of the second copy is mapped here: that is enough for every record of ours, and the
kernel charges each mapped page to the resident size (a ring of 8 MiB mapped twice counts 16).

Memory order. The kernel publishes a record by an exchange of its header (a full barrier) after it wrote the body, and
the producer position by a release store after it wrote the (busy) header. We load the producer position, then the
headers, then the bodies; x86 never reorders a load with an earlier load, so a header that is seen as done has its body,
and every position below the producer's has a header. We store the consumer position last; x86 never moves a store
before an earlier load, so the kernel cannot reuse room that is still to be read. The one order x86 does not keep is
a store followed by a load of another address: whoever empties the ring and goes to sleep must see a record that the
kernel put in without waking anyone, because it still read the old consumer position. So a locked instruction (a
lock that is taken and released) stands between the store of the consumer position and the load of the producer position.
Positions and headers are aligned words; each is one load or one store.
"""

from __future__ import annotations

import mmap
import select
import threading
import time
from typing import Final

import numpy as np

from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.wire import RECORD, RING_RECORD, Batch
from uaptrace.ebpf.headers import plain_records

RING_PAGE_BYTES: Final = mmap.PAGESIZE
HEADER_BYTES: Final = 8
BUSY_BIT: Final = 1 << 31
DISCARD_BIT: Final = 1 << 30
LENGTH_MASK: Final = DISCARD_BIT - 1

BATCH_BYTES: Final = 1 << 20
"""Default size of a batch: small against the ring, whose room a batch keeps until the next one is asked for."""

_STEP: Final = RING_RECORD.itemsize
_LENGTH: Final = RECORD.itemsize
_FILLING: Final = 8
"""rest() ends when this part of the ring is full: the kernel goes on while what is there is taken in."""
_LOOK_S: Final = 0.01
"""How often rest() looks."""
_CHUNK_BYTES: Final = 256 << 10
"""Records that others lie between are put together from this many bytes at a time."""
_KEPT_BYTES: Final = 1 << 20
"""Room for the records of a batch that had to be put together because others lay between them."""
_SHORT_RUN_BYTES: Final = 64 << 10
"""A run of plain records at least this long is handed out where it lies, whatever comes after it."""


class MappedRing:
    """A BPF_MAP_TYPE_RINGBUF of ``size_bytes`` behind ``fd``, read through memory.

    Needs no privilege: the descriptor may have been handed over by the process that made the map. It stays the
    caller's, who closes it after this. Raises CannotTraceError where the descriptor is not a ring of exactly that size.

    ``decode_errors`` counts records that were stepped over because their length is not that of wire.RECORD.
    Not for use by two threads at once.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        if size_bytes < RING_PAGE_BYTES or size_bytes & (size_bytes - 1):
            raise CannotTraceError(f"the ring buffer is {size_bytes} bytes: it must be a power of two of at least one page")
        self.size_bytes = size_bytes
        self.decode_errors = 0
        self._fd = fd
        self._mask = size_bytes - 1
        # What is mapped of the data: one page more than there is, for the record that wraps.
        self._mapped_bytes = size_bytes + RING_PAGE_BYTES
        try:
            self._consumer_map = mmap.mmap(fd, RING_PAGE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
            self._data_map = mmap.mmap(fd, RING_PAGE_BYTES + self._mapped_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=RING_PAGE_BYTES)
        except (OSError, ValueError) as error:
            raise CannotTraceError(
                f"cannot map descriptor {fd} as a ring buffer of {size_bytes} bytes ({error}): is it one, and of that size?"
            ) from error
        if _can_map(fd, RING_PAGE_BYTES + 2 * size_bytes + RING_PAGE_BYTES):
            self._data_map.close()
            self._consumer_map.close()
            raise CannotTraceError(f"the ring buffer behind descriptor {fd} is larger than {size_bytes} bytes: pass its real size")
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._data_map).cast("Q")
        self._data = np.frombuffer(self._data_map, np.uint8, self._mapped_bytes, offset=RING_PAGE_BYTES)
        self._words = self._data.data.cast("I")
        self._kept: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None
        self._fence = threading.Lock()
        self._position: int = self._consumer[0]
        """Up to where records have been handed out; the kernel's consumer position follows at release()."""

    def fileno(self) -> int:
        """The descriptor, for epoll or poll: readable while there is something in the ring.

        Drain until a batch is empty before waiting: the kernel wakes a reader only when it had taken everything.
        """
        return self._fd

    @property
    def used_bytes(self) -> int:
        """Bytes of the ring that are taken: not yet drained, or handed out and not yet released."""
        # The consumer position first: it only grows, so the difference is never negative.
        consumer: int = self._consumer[0]
        return int(self._producer[0]) - consumer

    def rest(self, timeout_s: float, wake_fd: int) -> bool:
        """Sleep until the time is over, an eighth of the ring is full, or ``wake_fd`` can be read: whether it can."""
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0 and self.used_bytes * _FILLING < self.size_bytes:
            # Looking at how full the ring is takes no system call: it is shared memory.
            if select.select([wake_fd], [], [], min(left_s, _LOOK_S))[0]:
                return True
        return False

    def release(self) -> None:
        """Give the room of the last batch back to the kernel. That batch must not be read any more."""
        if self._consumer[0] != self._position:
            self._consumer[0] = self._position
        with self._fence:  # the locked instruction of "Memory order" above
            pass

    def drain(self, limit_bytes: int | None = BATCH_BYTES) -> Batch:
        """The next records, in order: wire.RING_RECORD, shape (n,), read only; empty where there are none.

        A view of the ring itself: valid until the next drain(), release() or close(), which gives its room back to
        the kernel. At most ``limit_bytes`` of the ring are taken (at least one record); None: all there is up to the end of the
        ring. Less where discarded or odd records lie between. Stops at a record that is reserved and not yet submitted. An
        empty batch means that there is nothing more to be had now.
        """
        limit = self.size_bytes if limit_bytes is None else max(_STEP, limit_bytes)
        while True:
            self.release()
            begin = self._position
            available = int(self._producer[0]) - begin
            if available <= 0:
                return self._view(0, 0)
            offset = begin & self._mask
            # A record that begins in the data may end in the page after it; the next one begins at the front again.
            window = min(available, self.size_bytes - offset + _STEP - HEADER_BYTES, limit)
            count = plain_records(self._words, offset // 4, window // _STEP, _STEP // 4, _LENGTH)
            if count and count * _STEP >= min(_SHORT_RUN_BYTES, window - window % _STEP):
                self._position = begin + count * _STEP
                return self._view(offset, count)
            batch = self._gather(available, limit)
            # Where there were only records to step over, go on: an empty batch says that there is nothing more.
            if len(batch) or self._position == begin:
                return batch

    def close(self) -> None:
        """Release the last batch and unmap. Batches that are still referred to keep their mapping alive."""
        if self._consumer_map.closed:
            return
        self.release()
        self._consumer.release()
        self._consumer_map.close()
        self._producer.release()
        # The mapping goes when the last view of it does: closing it here would fail while a batch is alive.
        self._words.release()
        self._data = np.empty(0, np.uint8)
        self._kept = None
        del self._data_map

    def __enter__(self) -> MappedRing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _view(self, offset: int, count: int) -> Batch:
        return self._data[offset : offset + count * _STEP].view(RING_RECORD)

    def _gather(self, available: int, limit: int) -> Batch:
        """The slow path: records with others between them, put together in the kept buffer."""
        if self._kept is None:
            # Of its own pages: glibc's copy is five times slower to a place that is not aligned, measured on an AMD EPYC.
            self._kept = np.frombuffer(mmap.mmap(-1, max(_KEPT_BYTES, RING_PAGE_BYTES)), np.uint8)
        kept = self._kept
        used = 0
        position = self._position
        end = position + available
        stop = position + min(available, limit)
        while position < stop and used + _STEP <= _KEPT_BYTES:
            offset = position & self._mask
            header = int(self._data[offset : offset + 4].view(np.uint32)[0])
            if header & BUSY_BIT:
                break
            length = header & LENGTH_MASK
            if length != _LENGTH:
                # The kernel writes lengths; one that led past the producer would mean that sync is lost: start afresh there.
                position = min(position + ((length + HEADER_BYTES + 7) & ~7), end)
                self.decode_errors += not header & DISCARD_BIT
                continue
            # A run of our length, discarded ones among them, as far as the mapping and the kept buffer go.
            window = min(end - position, self.size_bytes - offset + _STEP - HEADER_BYTES, _KEPT_BYTES - used, _CHUNK_BYTES)
            window = max(_STEP, min(window, stop - position))
            run = self._data[offset : offset + window // _STEP * _STEP].view(RING_RECORD)
            headers = run["length"].copy()
            others = (headers & ~np.uint32(DISCARD_BIT)) != _LENGTH
            count = int(others.argmax()) if others.any() else len(run)
            taken = run[:count][headers[:count] == _LENGTH].view(np.uint8)
            kept[used : used + len(taken)] = taken
            used += len(taken)
            position += count * _STEP
        self._position = position
        batch = kept[:used].view(RING_RECORD)
        batch.flags.writeable = False
        return batch


def _can_map(fd: int, length: int) -> bool:
    try:
        mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=RING_PAGE_BYTES).close()
    except (OSError, ValueError):
        return False
    return True
