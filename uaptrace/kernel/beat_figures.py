# SPDX-License-Identifier: Apache-2.0
"""The kernel's own figures of the direct map, read at every beat: what can be told from them costs two short reads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SPLITS: Final = re.compile(rb"^direct_map_level[23]_splits (\d+)", re.MULTILINE)
_COLLAPSES: Final = re.compile(rb"^direct_map_level[23]_collapses (\d+)", re.MULTILINE)
_FAULTS: Final = re.compile(rb"^pgfault (\d+)", re.MULTILINE)
_DIRECT_MAP: Final = re.compile(rb"^DirectMap\w+:\s+(\d+) kB", re.MULTILINE)
_FILE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class MapFigures:
    """Sums since boot, and what the hooks counted since tracing began."""

    splits: int
    collapses: int
    mapped_kib: int
    """Sum of meminfo's DirectMap lines: moves only where memory comes or goes."""
    faults: int
    counted_splits: int
    cache_rows: tuple[tuple[int, ...], ...] = ()
    """The unmapped cache's own rows in debugfs; none where it has none."""
    counted_cache: int = 0
    """Operations of the cache that hooks counted."""

    def explained_since(self, earlier: MapFigures) -> bool:
        """Whether the hooks told of everything that the kernel counted."""
        told = self.splits - earlier.splits == self.counted_splits - earlier.counted_splits
        cache_told = self.cache_rows == earlier.cache_rows or self.counted_cache != earlier.counted_cache
        return told and cache_told and self.collapses == earlier.collapses and self.mapped_kib == earlier.mapped_kib


class FigureFiles:
    """/proc/vmstat and /proc/meminfo, kept open."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._vmstat = os.open(root / "proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
        self._meminfo = os.open(root / "proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, counted_splits: int, cache_rows: tuple[tuple[int, ...], ...] = (), counted_cache: int = 0) -> MapFigures:
        """The figures now."""
        vmstat, meminfo = (os.pread(fd, _FILE_BYTES, 0) for fd in (self._vmstat, self._meminfo))
        return MapFigures(
            splits=_sum(_SPLITS, vmstat),
            collapses=_sum(_COLLAPSES, vmstat),
            mapped_kib=_sum(_DIRECT_MAP, meminfo),
            faults=_sum(_FAULTS, vmstat),
            counted_splits=counted_splits,
            cache_rows=cache_rows,
            counted_cache=counted_cache,
        )

    def close(self) -> None:
        """Close both."""
        os.close(self._vmstat)
        os.close(self._meminfo)


def _sum(pattern: re.Pattern[bytes], text: bytes) -> int:
    return sum(int(number) for number in pattern.findall(text))
