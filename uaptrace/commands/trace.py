# SPDX-License-Identifier: Apache-2.0
"""uaptrace trace."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from uaptrace.commands.files_given import check_files
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import live_session, loader_options, stopped_by_signals, tracing_options
from uaptrace.commands.types import seconds
from uaptrace.model.updates import Records
from uaptrace.reports.event_lines import EventPrinter


@click.command(cls=StrictCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each event.")
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="Print a recording's events.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only these kinds (alloc, free, split, ...); may be repeated.")
@click.option("--duration", "duration_s", type=seconds(), help="Seconds to trace; without it until SIGINT or SIGTERM.")
@tracing_options
@click.pass_context
def trace(ctx: click.Context, as_json: bool, replay: Path | None, kinds: tuple[str, ...], duration_s: float | None) -> None:
    """One line for each event, like strace."""
    check_files(recordings=[replay])
    printer = EventPrinter(sys.stdout, as_json=as_json, kinds=kinds)
    if replay is not None:
        from uaptrace.recording import read_updates

        for update in read_updates(replay):
            printer.take(update)
        return
    import time

    with live_session(loader_options(ctx), on_records=lambda records: printer.take(Records(records.batch))) as session:
        with stopped_by_signals(session.stop):
            deadline = None if duration_s is None else time.monotonic() + duration_s
            session.run(0.5, until=lambda: deadline is not None and time.monotonic() >= deadline)
        lost = session.finish().loss.total
        if lost:
            click.echo(f"uaptrace: {lost} events were lost: a larger --ring-size helps", err=True)
