# SPDX-License-Identifier: Apache-2.0
"""uaptrace top."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file, ready_file_option
from uaptrace.commands.sources import SnapshotSource, source_options
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import (
    live_session,
    loader_options,
    running,
    stopped_by_signals,
    tracing_options,
)
from uaptrace.commands.types import SPEED, seconds
from uaptrace.commands.watching import present
from uaptrace.exporter.listening import bind
from uaptrace.process.streams import check_terminal

if TYPE_CHECKING:
    from uaptrace.model.snapshot import Snapshot


@click.command(cls=StrictCommand)
@click.option("--once", is_flag=True, help="Print one snapshot after --interval, for scripts.")
@click.option("--json", "as_json", is_flag=True, help="With --once: as JSON (docs/json.md).")
@click.option("--interval", "interval_s", type=seconds(0.1), default=1.0, show_default=True, help="Seconds between snapshots.")
@source_options
@click.option("--speed", type=SPEED, default=1.0, show_default=True, help="With --replay: recorded seconds a second.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Serve the scrape endpoint as well.")
@ready_file_option
@tracing_options
@click.pass_context
def top(
    ctx: click.Context,
    once: bool,
    as_json: bool,
    interval_s: float,
    source: SnapshotSource,
    speed: float,
    listen: str | None,
    ready_path: Path | None,
) -> None:
    """The direct map by mapping size, the unmapped cache by order, who did it, and whether the figures are exact."""
    if as_json and not once:
        raise UsageError("--json goes with --once")
    source.check(ready_file=ready_path)
    if listen and not source.live:
        raise UsageError("--listen goes with tracing; uaptrace serve --replay serves a recording")
    check_files(recordings=[source.replay], ready_file=ready_path)
    if not once:
        check_terminal()
    if source.live:
        _live(ctx, interval_s, once, as_json, listen, ready_path)
    elif once:
        _print_once(source, interval_s, as_json)
    else:
        with source.opened(speed, screen=True) as feed:
            _screen(feed, feed if source.replay is not None else None, interval_s)


def _live(ctx: click.Context, interval_s: float, once: bool, as_json: bool, listen: str | None, ready_path: Path | None) -> None:
    shown_by = ("uaptrace.reports.documents" if as_json else "uaptrace.reports.text") if once else "uaptrace.tui.app"
    meanwhile = [shown_by, *(["uaptrace.exporter.server"] if listen else [])]
    with (
        ready_file(ready_path) as ready,
        contextlib.ExitStack() as stack,
    ):
        listener = stack.enter_context(contextlib.closing(bind(listen))) if listen is not None else None
        session = stack.enter_context(live_session(loader_options(ctx), meanwhile=meanwhile))
        stack.enter_context(_endpoint(session, listener))
        if once:
            first = session.latest()
            deadline = time.monotonic() + interval_s
            with stopped_by_signals(session.stop):
                ready()
                session.run(interval_s, until=lambda: time.monotonic() >= deadline)
                _print(session.finish(), first, as_json)
            return
        with running(session, interval_s):
            from uaptrace.session.loop import LiveFeed

            ready()
            _screen(LiveFeed(session), None, interval_s)


def _print_once(source: SnapshotSource, interval_s: float, as_json: bool) -> None:
    with source.opened() as feed:
        first = None
        if source.connect is not None:
            # Rates need two snapshots of a daemon that goes on; a recording stands where --at put it.
            first = feed.latest()
            time.sleep(interval_s)
        _print(feed.latest() or first, first, as_json)


def _screen(feed: Any, control: Any, interval_s: float) -> None:
    from uaptrace.tui.app import show

    show(feed, control, refresh_s=min(interval_s, 0.5))


def _print(snapshot: Snapshot | None, earlier: Snapshot | None, as_json: bool) -> None:
    shown = present(snapshot)
    if as_json:
        from uaptrace.reports.documents import snapshot_to_json

        click.echo(json.dumps(snapshot_to_json(shown, earlier)))
    else:
        from uaptrace.reports.text import snapshot_to_text

        width = shutil.get_terminal_size((80, 24)).columns
        click.echo(snapshot_to_text(shown, earlier, width=width))


@contextlib.contextmanager
def _endpoint(session: Any, listener: socket.socket | None) -> Iterator[None]:
    if listener is None:
        yield
        return
    from uaptrace.exporter.server import serve

    region_feed, figures_feed = partial(session.fresh, regions=True), partial(session.fresh, rows=False)
    with serve(session.fresh, listener, region_feed=region_feed, figures_feed=figures_feed):
        yield
