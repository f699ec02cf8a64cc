# SPDX-License-Identifier: Apache-2.0
"""What the loop needs of a kernel that is traced: the running one, or a made-up one in tests.

This is the protocol below the model: updates, and readings when the loop asks for them. What views need, above the model, is
uaptrace.model.feed.SnapshotFeed. A recording has no kernel that could answer a reading: session.replay plays its updates, in their
order, into the model itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from uaptrace.model.updates import CacheReading, CountersReading, MapReading, Start, Update
from uaptrace.session.heartbeat import Watched


class Feed(Watched, Protocol):
    """First ``start()``; then batches, names and readings, each an Update and each only when it is asked for.

    All but ``wake()`` are called by the thread that runs the loop. Whatever they raise ends it.
    """

    def start(self) -> Start:
        """Host, hooks and the moment at which tracing began."""

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until there are records, ``wake()`` is called or the time is up. Whether something came."""

    def rest(self, timeout_s: float) -> None:
        """Let records gather, no longer than the ring has room for them."""

    def wake(self) -> None:
        """End a wait(); from any thread."""

    def records(self) -> Iterator[Update]:
        """All that is in the ring, in order. A batch may be a view of the ring: it is valid until the next is asked for."""

    def names(self) -> Iterator[Update]:
        """Symbols for addresses in stacks that were seen since the last call."""

    def cgroups(self, ids: Iterable[int]) -> Iterator[Update]:
        """Paths of cgroups, those that are known."""

    def read_map(self, ranges: Sequence[tuple[int, int]] | None = None) -> Sequence[MapReading]:
        """Page tables of (first region, number of regions), or of the whole direct map."""

    def read_cache(self, regions: Iterable[int]) -> CacheReading | None:
        """Free blocks of the unmapped cache in these regions; None where no quiet moment was found."""

    def read_counters(self, pageblocks: Iterable[int] = ()) -> CountersReading:
        """The kernel's counters and figures, with the pageblock bits of these regions."""
