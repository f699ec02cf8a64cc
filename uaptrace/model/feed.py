# SPDX-License-Identifier: Apache-2.0
"""What a view needs of whatever makes snapshots: a live trace, a recording that is played, a daemon elsewhere, a list in tests.

The screen calls these from its own thread. An implementation returns at once, or says in ``waiting_for()`` what takes its time.
"""

from __future__ import annotations

from typing import Protocol

from uaptrace.abi.errors import UaptraceError
from uaptrace.model.snapshot import Snapshot


class FeedEndedError(UaptraceError):
    """There will be no other snapshot. The message says what ended the feed."""


class SnapshotFeed(Protocol):
    """Where snapshots come from."""

    def latest(self) -> Snapshot | None:
        """The newest snapshot; the same object as before where there is no newer one; None before the first.

        May raise UaptraceError (the connection to a daemon is lost): a screen says so, keeps its last picture and asks again.
        After FeedEndedError it ends.
        """

    def waiting_for(self) -> str:
        """What the first snapshot waits for, as a short phrase: ``the page tables are being read``."""

    def want_regions(self, wanted: bool) -> None:
        """Whether the next snapshots have ``regions``, the direct map region by region."""

    def close(self) -> None:
        """Release what the feed holds. It gives nothing afterwards."""
