# SPDX-License-Identifier: Apache-2.0
"""What a report tells of one recording: snapshots all along it, played back by the same model that ``top`` has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from uaptrace.abi.units import LEVELS, Level
from uaptrace.model.snapshot import Cause, DirectMapView, Snapshot
from uaptrace.process.plain import plain
from uaptrace.recording.info import RecordingInfo, recording_info
from uaptrace.session.replay import ReplaySource, first_map_s

NR_POINTS: Final = 240
NR_FRAMES: Final = 12
SPLIT_LEVELS: Final = (Level.M2, Level.G1)


@dataclass(frozen=True, slots=True)
class Point:
    """Figures at one time. Of the direct map None where it was not read yet."""

    time_s: float
    """Since the start of the recording."""
    exact: bool
    present_bytes: Mapping[Level, int] | None
    absent_bytes: int | None
    splits: Mapping[tuple[Level, Cause], int]
    unexplained: int
    cache_free: tuple[int, ...] | None
    """Free blocks by order."""
    handed_out_pages: int | None
    requests: int
    refills: int
    events_lost: int

    def splits_by(self, cause: Cause) -> int:
        """Splits of both sizes so far."""
        return sum(number for (_, by), number in self.splits.items() if by == cause)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recording as a report tells it. ``begin`` is the first snapshot with a map (or the first at all), ``end`` the last."""

    path: Path
    info: RecordingInfo
    begin: Snapshot
    end: Snapshot
    frames: tuple[tuple[float, Snapshot], ...]
    """Seconds since the start, and the snapshot with its regions: evenly spread from ``begin`` to ``end``."""
    points: tuple[Point, ...]
    begin_s: float
    length_s: float

    @property
    def name(self) -> str:
        """Of the file, as it is shown."""
        return plain(self.path.name)

    @property
    def watched_s(self) -> float:
        """Seconds from ``begin`` to ``end``."""
        return self.length_s - self.begin_s


def gather(
    path: str | os.PathLike[str],
    *,
    nr_points: int = NR_POINTS,
    nr_frames: int = NR_FRAMES,
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Plays a recording once. RecordingError where it cannot be read or played. ``progress(done, total)``."""
    total = nr_points + nr_points // 4
    info = recording_info(
        path, progress=None if progress is None else lambda done, of: progress(done * (nr_points // 4) // max(of, 1), total)
    )
    with contextlib.closing(ReplaySource(path, None, budget_s=None, keep_checkpoints=False)) as source:
        source.pause()
        begin_s = min(first_map_s(path, source.start_ns), source.length_s)
        length_s = source.length_s
        frame_at = {round(i * (nr_points - 1) / (nr_frames - 1)) for i in range(nr_frames)}
        points: list[Point] = []
        frames: list[tuple[float, Snapshot]] = []
        for i in range(nr_points):
            position_s = length_s if i == nr_points - 1 else begin_s + (length_s - begin_s) * i / (nr_points - 1)
            source.jump(position_s)
            source.want_regions(i in frame_at)
            snapshot = source.latest()
            assert snapshot is not None, "without a budget the way is always covered"
            if not info.has_baseline:
                snapshot = _without_map(snapshot)
            points.append(_point(position_s, snapshot))
            if i in frame_at:
                frames.append((position_s, snapshot))
            if progress is not None:
                progress(nr_points // 4 + i + 1, total)
    return Recorded(Path(path), info, frames[0][1], frames[-1][1], tuple(frames), tuple(points), begin_s, length_s)


def _without_map(snapshot: Snapshot) -> Snapshot:
    """Nobody read the page tables: the few mappings that records told of are not the direct map."""
    nothing = DirectMapView(dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, 0), 0, 0, 0, 0, snapshot.direct_map.kernel_bytes)
    return replace(snapshot, direct_map=nothing, regions=None)


def _point(time_s: float, snapshot: Snapshot) -> Point:
    view, cache = snapshot.direct_map, snapshot.cache
    known = view.total_bytes > 0
    return Point(
        time_s=time_s,
        exact=snapshot.exactness.exact,
        present_bytes={level: view.present_bytes.get(level, 0) for level in LEVELS} if known else None,
        absent_bytes=view.absent_bytes if known else None,
        splits={key: n for key, n in snapshot.splits.by_cause.items() if n},
        unexplained=sum(snapshot.splits.unexplained.values()),
        cache_free=cache.free if cache is not None else None,
        handed_out_pages=cache.handed_out_pages if cache is not None else None,
        requests=cache.requests if cache is not None else 0,
        refills=cache.refills if cache is not None else 0,
        events_lost=snapshot.loss.total,
    )
