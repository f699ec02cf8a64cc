# SPDX-License-Identifier: Apache-2.0
"""Bytes of the ring buffer and structured numpy arrays, without a copy and without a Python object per record."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import RECORD_FIELDS

RECORD: Final = np.dtype(list(RECORD_FIELDS))
"""struct uap_record of bpf/events.h, 56 bytes."""

RING_RECORD: Final = np.dtype([("length", "<u4"), ("page_offset", "<u4"), *((n, RECORD[n]) for n in RECORD.names or ())])
"""A record with the ring buffer's 8 byte header in front: 64 bytes."""

Batch = NDArray[np.void]
"""A structured array of RECORD or RING_RECORD; models use field names only, so both fit."""


def comms(batch: Batch) -> list[str]:
    """Process names out of TASK records (16 bytes at offset 8 of the record, NUL padded)."""
    return [_overlay(r)[:16].split(b"\0", 1)[0].decode(errors="replace") for r in batch]


def frames(batch: Batch) -> NDArray[np.uint64]:
    """Frames out of STACK records: shape (n, 4), uint64 addresses, 0 where there is none."""
    out = np.zeros((len(batch), 4), np.uint64)
    for i, record in enumerate(batch):
        out[i] = np.frombuffer(_overlay(record), "<u8", 4)
    return out


def _overlay(record: np.void) -> bytes:
    """The 32 bytes from offset 8 of a record, whichever of the two layouts it has."""
    raw = record.tobytes()
    start = len(raw) - RECORD.itemsize + 8
    return raw[start : start + 32]
