# SPDX-License-Identifier: Apache-2.0
"""What map, splits and audit share: a snapshot after watching for a while, or out of a recording, or from a daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uaptrace.abi.errors import UsageError
from uaptrace.abi.hooks import PageAllocHook
from uaptrace.commands.ready import ready_file
from uaptrace.commands.sources import SnapshotSource
from uaptrace.commands.tracing import folder_of, live_session, loader_options, stopped_by_signals

if TYPE_CHECKING:
    from uaptrace.model.snapshot import Snapshot
    from uaptrace.model.state import KernelState


def watched_snapshot(
    ctx: click.Context,
    duration_s: float | None,
    source: SnapshotSource,
    *,
    regions: bool = False,
    ready_path: Path | None = None,
    outputs: Iterable[Path | None] = (),
    auto_hook: PageAllocHook = PageAllocHook.AUTO,
    on_state: Callable[[KernelState], None] | None = None,
) -> Snapshot:
    """The snapshot to show. Live: after ``duration_s`` seconds (None: until SIGINT or SIGTERM), and then
    ``on_state`` is given the model behind it. ``auto_hook``: see loader_options(). ``outputs``: what its user will write afterwards."""
    source.check(ready_file=ready_path)
    snapshot: Snapshot | None
    if not source.live:
        with source.opened() as feed:
            feed.want_regions(regions)
            snapshot = feed.latest()
    else:
        with (
            ready_file(ready_path) as ready,
            live_session(loader_options(ctx, auto_hook), privileges_of=folder_of(*outputs)) as session,
        ):
            session.keep_regions = regions
            with stopped_by_signals(session.stop):
                ready()
                deadline = None if duration_s is None else time.monotonic() + duration_s
                session.run(1.0, until=lambda: deadline is not None and time.monotonic() >= deadline)
                snapshot = session.finish()
            if on_state is not None:
                on_state(session.state)
    return present(snapshot)


def present(snapshot: Snapshot | None) -> Snapshot:
    """The snapshot. Raises UsageError where there is none yet."""
    if snapshot is None:
        raise UsageError("there is no snapshot yet: the daemon is still reading the page tables; try again")
    return snapshot
