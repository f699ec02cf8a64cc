# SPDX-License-Identifier: Apache-2.0
"""Where zones and nodes lie in physical memory, from /proc/zoneinfo."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from uaptrace.abi.errors import UsageError

_HEAD: Final = re.compile(r"Node (\d+), zone\s+(\S+)")
_NUMBER: Final = re.compile(r"\s+(spanned|start_pfn:)\s+(\d+)")


def parse_zoneinfo(text: str) -> list[tuple[int, str, int, int]]:
    """(node, zone, first pfn, end pfn) of every zone that spans memory."""
    zones: list[tuple[int, str, int, int]] = []
    node, zone, spanned = 0, "", 0
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            node, zone, spanned = int(head[1]), head[2], 0
            continue
        number = _NUMBER.match(line)
        if number and number[1] == "spanned":
            spanned = int(number[2])
        elif number and zone and spanned:
            zones.append((node, zone, int(number[2]), int(number[2]) + spanned))
    return zones


def zone_ranges(zones: Sequence[str], nodes: Sequence[int], root: Path = Path("/")) -> list[tuple[str, int, int]]:
    """(name, first pfn, end pfn) of what was asked for. Raises UsageError for a zone or node that this host has not."""
    known = parse_zoneinfo((root / "proc/zoneinfo").read_text())
    names = {zone.lower(): zone for _, zone, _, _ in known}
    for zone in zones:
        if zone.lower() not in names:
            raise UsageError(f"this host has no zone {zone}: it has {', '.join(sorted(set(names.values())))}")
    for node in nodes:
        if node not in {n for n, _, _, _ in known}:
            raise UsageError(f"this host has no node {node}: it has {', '.join(sorted({str(n) for n, _, _, _ in known}))}")
    wanted = {zone.lower() for zone in zones}
    return [
        (f"node {node} {zone}", first, end)
        for node, zone, first, end in known
        if (not wanted or zone.lower() in wanted) and (not nodes or node in nodes)
    ]
