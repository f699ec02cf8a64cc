# SPDX-License-Identifier: Apache-2.0
"""A recording as rows of an archive: one for each of its parts and each day (UTC) that the part covers.

It is played by the model that every view has, and looked at when it begins, on each full hour, and at the end of each part. A row has
what was counted from the end of the row before it to its own, so the rows add up to the recording. A recorder that rotates removes old
parts and begins new ones: what it has is then added again and again, and each part keeps its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from uaptrace.abi.units import LEVELS, Level
from uaptrace.archive.answer import DAY_S, HOUR_S
from uaptrace.model.snapshot import Snapshot, SplitRow
from uaptrace.session.replay import ReplaySource, first_map_s

UNEXPLAINED: Final = "unexplained"
"""In place of a cause: the kernel counted a split, and no record tells of it."""
NO_NAME: Final = "[no name]"
"""A frame that had only an address, which an archive does not keep."""
FRAME_SEPARATOR: Final = ";"
"""Between the frames of a stack, outermost first, as flame-graph tools have it."""


@dataclass(frozen=True, slots=True)
class HostDay:
    """One row: its place, ``day`` and ``hostname``, and the columns of ``archive.schema``, times in microseconds since the epoch."""

    day: date
    hostname: str
    id: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Look:
    part: int
    """Of those that are played: the one that was being written."""
    time_s: float
    """Since the epoch."""
    snapshot: Snapshot


def day_rows(path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None) -> list[HostDay]:
    """The rows of a file and the parts that follow it. RecordingError where it cannot be read or played. ``progress(done, total)``."""
    with contextlib.closing(ReplaySource(path, None, budget_s=None, keep_checkpoints=False)) as source:
        source.pause()
        looks = []
        times = list(_times(source, min(first_map_s(path, source.start_ns), source.length_s)))
        for position_s, time_s, part in times:
            source.jump(position_s)
            snapshot = source.latest()
            assert snapshot is not None, "without a budget the way is always covered"
            looks.append(_Look(part, time_s, snapshot))
            if progress is not None:
                progress(len(looks), len(times))
        host = source.start.host
        told = source.recording_id or f"{host.boot_id} {source.start.time_ns}"
        first, writer = source.first_part, source.writer
    days = list(_days(looks))
    # A recording counts from its own beginning: its first row begins with nothing, not with what was counted before the first look.
    before = [None, *(within[0].snapshot for within in days[1:])]
    rows = []
    for within, counted in zip(days, before, strict=True):
        id_ = hashlib.sha256(f"{told} {first + within[-1].part}".encode(errors="replace")).hexdigest()[:32]
        day = datetime.fromtimestamp(within[0].time_s, UTC).date()
        rows.append(HostDay(day, _text(host.name), id_, _columns(id_, writer, within, counted)))
    return rows


def _times(source: ReplaySource, begin_s: float) -> Iterator[tuple[float, float, int]]:
    """When to look: at the beginning, on full hours, and at the end of each part. Seconds since the start, the same since the epoch (in
    which a float of the one is not exact in the other), and the part."""
    offset_s = source.wall_time_s(source.start_ns)
    yield begin_s, offset_s + begin_s, 0
    at_s = begin_s
    for part, end_ns in enumerate(source.part_ends_ns):
        end_s = (end_ns - source.start_ns) / 1e9
        for hour in range(math.floor((offset_s + at_s) / HOUR_S) + 1, math.ceil((offset_s + end_s) / HOUR_S)):
            yield hour * HOUR_S - offset_s, float(hour * HOUR_S), part
        if end_s > at_s:
            yield end_s, offset_s + end_s, part
            at_s = end_s


def _days(looks: Sequence[_Look]) -> Iterator[Sequence[_Look]]:
    """Looks of each day and part; the last of one is also the first of the next."""
    first = 0
    for i in range(1, len(looks)):
        last = i == len(looks) - 1
        if last or looks[i + 1].part != looks[i].part or looks[i + 1].time_s > _midnight_after(looks[first].time_s):
            yield looks[first : i + 1]
            first = i
    if len(looks) == 1:
        yield looks


def _midnight_after(time_s: float) -> float:
    return (math.floor(time_s / DAY_S) + 1) * DAY_S


def _columns(id_: str, writer: str, looks: Sequence[_Look], before: Snapshot | None) -> dict[str, Any]:
    """``before``: what was counted in the rows before this one."""
    begin, end = looks[0].snapshot, looks[-1].snapshot
    host = end.host
    return {
        "id": id_,
        "hostname": _text(host.name),
        "boot_id": _text(host.boot_id),
        "kernel_release": _text(host.kernel_release),
        "nr_cpus": host.nr_cpus or None,
        "memory_bytes": host.memory_bytes,
        "has_series": host.has_series,
        "writer": _text(writer),
        "begin_time": _microseconds(looks[0].time_s),
        "end_time": _microseconds(looks[-1].time_s),
        "watched_s": looks[-1].time_s - looks[0].time_s,
        "exact": end.exactness.exact,
        "reasons": [_text(reason) for reason in end.exactness.reasons],
        "events_lost": end.loss.total - (before.loss.total if before is not None else 0),
        "direct_map_bytes": end.direct_map.total_bytes if end.direct_map.is_read else None,
        "large_begin_bytes": _large_bytes(begin),
        "large_end_bytes": _large_bytes(end),
        "causes": _causes(before, end),
        "stacks": _stacks(before, end),
        "stacks_complete": end.ledger_is_complete,
        "samples": [_sample(look) for look in looks],
        "cache": _cache(before, end),
        "audit": _audit(before, end),
    }


def _large_bytes(snapshot: Snapshot) -> int | None:
    """Bytes that are present in 2M and 1G mappings; None where the page tables were not read."""
    if not snapshot.direct_map.is_read:
        return None
    return sum(snapshot.direct_map.present_bytes.get(level, 0) for level in (Level.M2, Level.G1))


def _causes(before: Snapshot | None, end: Snapshot) -> list[dict[str, Any]]:
    """All splits by level and cause."""
    counts: Counter[tuple[str, str]] = Counter()
    for snapshot, sign in ((end, 1), *([(before, -1)] if before is not None else [])):
        for (level, cause), number in snapshot.splits.by_cause.items():
            counts[level.label, cause.value] += sign * number
        # Not the undecided ones: their records come in the next row, or they are unexplained then.
        for level, number in snapshot.splits.unexplained.items():
            counts[level.label, UNEXPLAINED] += sign * number
    return [{"level": level, "cause": cause, "splits": n} for (level, cause), n in sorted(counts.items()) if n > 0]


def _stacks(before: Snapshot | None, end: Snapshot) -> list[dict[str, Any]]:
    """Splits by level, cause, process name, cgroup and stack; process numbers mean nothing on another host."""
    counted = {_group(row): row.count for row in before.split_rows} if before is not None else {}
    counts: Counter[tuple[str, str, str, str, str]] = Counter()
    for row in end.split_rows:
        key = (row.level.label, row.cause.value, _text(row.comm), _text(row.cgroup), _stack(row.stack))
        counts[key] += row.count - counted.get(_group(row), 0)
    names = ("level", "cause", "comm", "cgroup", "stack", "splits")
    return [dict(zip(names, (*key, n), strict=True)) for key, n in sorted(counts.items()) if n > 0]


def _group(row: SplitRow) -> tuple[object, ...]:
    """What tells a row of the ledger from others at any time: names may become known later."""
    return (row.level, row.cause, row.tgid, row.started_ns, row.cgroup_id, row.stack_id)


def _stack(frames: Sequence[str]) -> str:
    """Names of functions, outermost first. Neither addresses nor offsets: they differ from boot to boot and from build to build."""
    names = (_text(frame.split("+0x", 1)[0]).replace(FRAME_SEPARATOR, ":") for frame in reversed(frames))
    return FRAME_SEPARATOR.join(NO_NAME if name.startswith("0x") else name for name in names)


def _sample(look: _Look) -> dict[str, Any]:
    view, cache = look.snapshot.direct_map, look.snapshot.cache
    present = {f"present_{level.label}_bytes": view.present_bytes.get(level, 0) if view.is_read else None for level in LEVELS}
    return {
        "time": _microseconds(look.time_s),
        "exact": look.snapshot.exactness.exact,
        **present,
        "absent_bytes": view.absent_bytes if view.is_read else None,
        "cache_free_pages": None if cache is None else cache.free_pages,
        "cache_handed_out_pages": None if cache is None else cache.handed_out_pages,
    }


def _cache(before: Snapshot | None, end: Snapshot) -> dict[str, int] | None:
    """What was asked of the unmapped cache; None on a kernel without it."""
    counted, after = before.cache if before is not None else None, end.cache
    if after is None:
        return None
    names = ("requests", "hits", "refills", "failures")
    return {name: getattr(after, name) - (getattr(counted, name) if counted is not None else 0) for name in names}


def _audit(before: Snapshot | None, end: Snapshot) -> list[dict[str, Any]]:
    """How often each invariant was checked and broken."""
    counted = {row.number: (row.checked, row.violated) for row in before.audit} if before is not None else {}
    rows = []
    for row in end.audit:
        checked, violated = counted.get(row.number, (0, 0))
        rows.append({"number": row.number, "title": row.title, "checked": row.checked - checked, "violated": row.violated - violated})
    return [row for row in rows if row["checked"] or row["violated"]]


def _microseconds(time_s: float) -> int:
    return round(time_s * 1e6)


def _text(text: str) -> str:
    """As Parquet can hold it: UTF-8."""
    return text.encode(errors="replace").decode()
