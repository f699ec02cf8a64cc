# SPDX-License-Identifier: Apache-2.0
"""uaptrace record."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file, ready_file_option
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import folder_of, live_session, loader_options, return_memory, stopped_by_signals, tracing_options
from uaptrace.commands.types import MAX_COUNT, Size, seconds
from uaptrace.process.plain import plain
from uaptrace.process.service_manager import ServiceManager, notify_address

if TYPE_CHECKING:
    from uaptrace.recording import RecordingWriter
    from uaptrace.session.live import LiveSource


@click.command(cls=StrictCommand)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to write (-: standard output).")
@click.option("--overwrite", is_flag=True, help="Replace a recording of that name.")
@click.option("--duration", "duration_s", type=seconds(), help="Seconds to trace; without it until SIGINT or SIGTERM.")
@click.option("--max-size", "max_bytes", type=Size(), help="Begin the next part (FILE.1, ...) at this size.")
@click.option("--max-age", "max_age_s", type=seconds(1), help="Begin the next part after this number of seconds.")
@click.option("--max-parts", type=click.IntRange(2, MAX_COUNT), help="Number of parts to keep.")
@ready_file_option
@tracing_options
@click.pass_context
def record(
    ctx: click.Context,
    output: Path,
    overwrite: bool,
    duration_s: float | None,
    max_bytes: int | None,
    max_age_s: float | None,
    max_parts: int | None,
    ready_path: Path | None,
) -> None:
    """Record until --duration is over, or until SIGINT or SIGTERM. The file can be read at any moment."""
    check_files([output], ready_file=ready_path)
    if str(output) == "-" and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: give -o FILE, or send it to a file or a pipe")
    if output.is_file() and not overwrite:
        raise UsageError(f"{output} exists: choose another name, or allow it to be overwritten")
    writers: list[RecordingWriter] = []

    def make_writer(source: LiveSource) -> RecordingWriter:
        from uaptrace.recording import RecordingWriter

        writer = RecordingWriter(
            output,
            overwrite=overwrite,
            max_bytes=max_bytes,
            max_age_s=max_age_s,
            max_parts=max_parts,
            baseline=source.baseline if max_bytes or max_age_s else None,
        )
        writers.append(writer)
        return writer

    # A recorder makes new parts in its folder while it runs, so it becomes the user that may write there, without any capability.
    with (
        ready_file(ready_path) as ready,
        contextlib.closing(ServiceManager(notify_address(os.environ), time.monotonic)) as manager,
        live_session(loader_options(ctx), make_writer, privileges_of=folder_of(output), meanwhile=["uaptrace.recording"]) as session,
    ):
        writer = writers[0]
        with contextlib.closing(writer), stopped_by_signals(session.stop):
            ready()
            deadline = None if duration_s is None else time.monotonic() + duration_s
            click.echo(f"recording to {plain(str(output))}; Ctrl-C ends it", err=True)

            part = writer.part

            def turn() -> None:
                nonlocal part
                # Also while nothing happens: what waits is written within a second.
                writer.flush_if_due()
                manager.turn(session.state.reasons)
                if writer.part != part:
                    # A part begins with all names: what that took for a moment is megabytes.
                    part = writer.part
                    return_memory()

            session.run(1.0, until=lambda: deadline is not None and time.monotonic() >= deadline, on_turn=turn)
            manager.stopping()
            last = session.finish()
        click.echo(f"{writer.nr_records} records in {writer.nr_bytes} bytes, {last.loss.total} lost", err=True)
