# SPDX-License-Identifier: Apache-2.0
"""Bytes of the ring buffer and structured numpy arrays, without a copy and without a Python object per record."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

RECORD: Final = np.dtype(
    [
        ("time_ns", "<u8"),
        ("pfn", "<u8"),
        ("nr_pages", "<u4"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("duration_ns", "<u4"),
        ("cgroup_id", "<u8"),
        ("stack_id", "<u4"),
        ("aux", "<i4"),
        ("kind", "u1"),
        ("order", "u1"),
        ("before", "u1"),
        ("after", "u1"),
        ("nr_present", "<u2"),
        ("flags", "<u2"),
    ]
)
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
