# SPDX-License-Identifier: Apache-2.0
"""The kernel's own figures in /proc. Parsers take text, readers take a root."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from uaptrace.abi.units import Level

_SPLITS: Final = {Level.M2: "direct_map_level2_splits", Level.G1: "direct_map_level3_splits"}
"""vmstat, since 575299ea18a8 ("x86/mm: Tracking linear mapping split events")."""
_COLLAPSES: Final = {Level.M2: "direct_map_level2_collapses", Level.G1: "direct_map_level3_collapses"}
_DIRECT_MAP: Final = {Level.K4: "DirectMap4k", Level.M2: "DirectMap2M", Level.G1: "DirectMap1G"}


def parse_vmstat(text: str) -> dict[str, int]:
    """/proc/vmstat: ``name value`` on each line."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines() if line)}


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo: bytes (or counts) by name."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words:
            found[name] = int(words[0]) * (1024 if words[-1] == "kB" else 1)
    return found


def read_split_counters(root: Path = Path("/")) -> dict[Level, int] | None:
    """Splits of 2M and 1G mappings since boot; None where this kernel does not count them."""
    return _levels(parse_vmstat((root / "proc/vmstat").read_text()), _SPLITS)


def split_counters(vmstat: dict[str, int]) -> dict[Level, int] | None:
    return _levels(vmstat, _SPLITS)


def collapse_counters(vmstat: dict[str, int]) -> dict[Level, int] | None:
    """Collapses since boot (6.15 and backports); None where this kernel does not count them."""
    return _levels(vmstat, _COLLAPSES)


def direct_map_bytes(meminfo: dict[str, int]) -> dict[Level, int] | None:
    """DirectMap4k, 2M and 1G in bytes. 1G is 0 where the processor has no such pages and the line is missing."""
    if _DIRECT_MAP[Level.K4] not in meminfo:
        return None
    return {level: meminfo.get(name, 0) for level, name in _DIRECT_MAP.items()}


def _levels(figures: dict[str, int], names: dict[Level, str]) -> dict[Level, int] | None:
    found = {level: figures[name] for level, name in names.items() if name in figures}
    return found or None
