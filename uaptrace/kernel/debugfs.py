# SPDX-License-Identifier: Apache-2.0
"""The unmapped cache's own figures (debugfs: unmapped_alloc; format in docs/kernel.md, section 1)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from uaptrace.abi.errors import UaptraceError


@dataclass(frozen=True, slots=True)
class CacheRows:
    """Numbers of blocks by order: free now, refilled and released since boot."""

    free: tuple[int, ...]
    cached: tuple[int, ...]
    released: tuple[int, ...]


def parse_unmapped_alloc(text: str) -> CacheRows:
    """The rows ``Free:``, ``Cached:`` and ``Released:``. Raises UaptraceError where one is missing or not of numbers."""
    rows: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        label, colon, rest = line.partition(":")
        if colon and label.strip() in ("Free", "Cached", "Released"):
            try:
                rows[label.strip()] = tuple(int(word) for word in rest.split())
            except ValueError as error:
                raise UaptraceError(f"debugfs unmapped_alloc has a row that is not of numbers: {line.strip()!r}") from error
    try:
        found = CacheRows(rows["Free"], rows["Cached"], rows["Released"])
    except KeyError as error:
        raise UaptraceError(f"debugfs unmapped_alloc has no row {error}") from error
    if not len(found.free) == len(found.cached) == len(found.released):
        raise UaptraceError("debugfs unmapped_alloc has rows of different lengths")
    return found


def read_fd(fd: int) -> str:
    """All of a small file behind a descriptor that others opened, from its beginning."""
    parts = []
    offset = 0
    while data := os.pread(fd, 1 << 16, offset):
        parts.append(data)
        offset += len(data)
    return b"".join(parts).decode(errors="replace")
