# SPDX-License-Identifier: Apache-2.0
"""Holds the state against what needs no event, so that hooks which the kernel no longer calls are noticed.

Every BEAT_S seconds: the known switches; vmstat's and meminfo's figures of the direct map; and a part of the page tables, all of
them where those figures moved otherwise than the hooks told. A difference is believed when it is still there at the third look within
a second: a call may be between its change and its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from uaptrace.kernel.beat_figures import MapFigures
from uaptrace.model.compare import Changes, changes
from uaptrace.model.direct_map import DirectMap
from uaptrace.model.updates import MapReading

BEAT_S: Final = 2.0
LOOK_S: Final = 0.5
"""Between two looks at the same difference."""
NR_LOOKS: Final = 3
IDLE_TABLES: Final = 24
"""Page tables that are read at a beat while the host is idle."""
MOVING_TABLES: Final = 384
"""The same while it works: whatever changes the map allocates and maps pages, so page faults tell."""
MOVING_FAULTS: Final = 100
"""Page faults from beat to beat above which the host works."""
_MAX_SUSPECTS: Final = 32
_QUIET_TRIES: Final = 3
_EVERYTHING: Final = 1 << 40
_REREAD_SHARE: Final = 20
"""While a switch is off all tables are read again and again, in at most 1/20 of the time."""


class Watched(Protocol):
    """What the heartbeat needs of a source (uaptrace.session.live.LiveSource)."""

    unseen_pages: int

    def hooks_off(self) -> Mapping[str, str]:
        """Switches that are off now."""

    def figures(self) -> MapFigures:
        """The kernel's own figures, with what the hooks counted."""

    def look(self, first_region: int, max_tables: int, end_region: int) -> tuple[MapReading, bool]:
        """A part of the tables (PageTableReader.read_part), and whether nothing was counted meanwhile."""

    def unhooked_regions(self) -> list[int]:
        """Regions that the kernel changes where nothing can be hooked."""


class Heartbeat:
    """For the thread that runs the session. ``direct_map`` gives the model's, ``take_records`` takes in what is in the ring,
    ``take_counters`` what the kernel counted, ``load`` what was read. ``clock``: seconds, monotonic."""

    def __init__(
        self,
        source: Watched,
        direct_map: Callable[[], DirectMap],
        take_records: Callable[[], object],
        take_counters: Callable[[], object],
        load: Callable[[MapReading], object],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._direct_map = direct_map
        self._take_records = take_records
        self._take_counters = take_counters
        self._load = load
        self._clock = clock
        self._next_s = clock() + BEAT_S
        self._off: Mapping[str, str] = {}
        self._figures: MapFigures | None = None
        self._at = 0
        self._suspects: list[int] = []
        self._looks = 0
        self._reread_s = 0.0

    @property
    def next_s(self) -> float:
        """When to beat next."""
        return self._next_s

    def beat(self) -> bool:
        """Whether the counters should be compared with the state now."""
        before_s = self._clock()
        self._next_s = before_s + BEAT_S
        off = self._source.hooks_off()
        switched = off != self._off
        self._off = off
        figures, earlier = self._source.figures(), self._figures
        self._figures = figures
        moved = earlier is not None and not figures.explained_since(earlier)
        if off:
            self._suspects = []
            if before_s >= self._reread_s:
                moved = bool(self._reread()) or moved
                self._reread_s = before_s + max(BEAT_S, _REREAD_SHARE * (self._clock() - before_s)) - BEAT_S / 2
        elif self._suspects:
            moved = self._look_again() or moved
        else:
            busy = earlier is None or figures.faults - earlier.faults > MOVING_FAULTS
            moved = self._look_on(_EVERYTHING if moved else MOVING_TABLES if busy else IDLE_TABLES) or moved
        return switched or moved or self._direct_map().uncertain_ranges() is not None

    def _look_on(self, max_tables: int) -> bool:
        """Look at the next part. Whether the map was found to be larger or smaller."""
        first = 0 if max_tables == _EVERYTHING else self._at
        end = self._direct_map().nr_regions()
        seen = self._quiet_look(first if first < end else 0, max_tables)
        if seen is None:
            return False
        reading, found = seen
        self._at = reading.first_region + len(reading.levels)
        if self._at >= end:
            self._at = 0
        if not len(found.regions):
            return False
        return self._suspect(found)

    def _suspect(self, found: Changes) -> bool:
        unhooked = np.array(self._source.unhooked_regions(), np.int64)
        for region in found.regions[np.isin(found.regions, unhooked)].tolist():
            self._load(self._source.look(region, 1, 0)[0])
        found = found.without(unhooked)
        if found.resized.any():
            # Memory that came or went is no call that was missed.
            return bool(self._reread(counted=False))
        self._suspects = found.regions[:_MAX_SUSPECTS].tolist()
        self._looks = 1
        if self._suspects:
            self._next_s = self._clock() + LOOK_S
        return False

    def _look_again(self) -> bool:
        """Look at the suspects once more. Whether hooks were found to be silent."""
        still = []
        for region in self._suspects:
            seen = self._quiet_look(region, 1)
            # What could not be seen at a quiet moment was changed again meanwhile, which was told.
            if seen is not None and region in seen[1].regions:
                still.append(region)
        self._suspects = still
        self._looks += 1
        if not still:
            return False
        if self._looks < NR_LOOKS:
            self._next_s = self._clock() + LOOK_S
            return False
        healed = self._reread()
        if healed is None:
            self._looks -= 1
            self._next_s = self._clock() + LOOK_S
            return False
        self._suspects = []
        return healed

    def _quiet_look(self, first_region: int, max_tables: int) -> tuple[MapReading, Changes] | None:
        """A part of the tables at a moment in which nothing was counted, and what in it the model does not know; None where there is no
        such moment."""
        for _ in range(_QUIET_TRIES):
            self._take_records()
            reading, quiet = self._source.look(first_region, max_tables, self._direct_map().nr_regions())
            if quiet and not self._direct_map().is_overfull and self._direct_map().uncertain_ranges() is None:
                found = changes(self._direct_map(), reading)
                return reading, found.without(np.array(reading.unreadable, np.int64))
        return None

    def _reread(self, *, counted: bool = True) -> bool | None:
        """Read everything, and take it in where it is not what the model holds. Whether it was; None: there was no quiet moment.
        ``counted``: as missed by hooks."""
        if counted:
            # What the ring had no room for was told all the same: the counters say so, and make the map uncertain.
            self._take_counters()
        seen = self._quiet_look(0, _EVERYTHING)
        if seen is None:
            return None
        whole, found = seen
        if not len(found.regions):
            return False
        if counted:
            self._source.unseen_pages += int(found.changed.sum())
        self._load(replace(whole, complete=True))
        return True
