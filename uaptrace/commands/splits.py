# SPDX-License-Identifier: Apache-2.0
"""uaptrace splits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import click

from uaptrace.commands.live import tracing_options
from uaptrace.commands.outputs import check_files
from uaptrace.commands.ready import ready_file_option
from uaptrace.commands.remote import connect_option
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.types import seconds
from uaptrace.commands.watching import watched_snapshot


@click.command(cls=StrictCommand)
@click.option("--duration", "duration_s", type=seconds(), help="Seconds; until SIGINT or SIGTERM without it.")
@click.option(
    "--group-by",
    type=click.Choice(["row", "cause", "process", "cgroup", "stack"]),
    default="row",
    show_default=True,
    help="Put equal ones together.",
)
@click.option("--stacks", is_flag=True, help="With whole stacks.")
@click.option("--folded", type=click.Path(path_type=Path), metavar="FILE", help="Write folded stacks for a flame graph.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@connect_option
@click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="From a recording.")
@click.option("--at", "at_text", metavar="TIME", help="With --replay: at 90, 1:30, 50% or end.")
@ready_file_option
@tracing_options
@click.pass_context
def splits(
    ctx: click.Context,
    duration_s: float | None,
    group_by: str,
    stacks: bool,
    folded: Path | None,
    as_json: bool,
    connect: str | None,
    replay: Path | None,
    at_text: str | None,
    ready_path: Path | None,
) -> None:
    """Who split large mappings, when, and by which call path."""
    from uaptrace.process.files import write_whole
    from uaptrace.reports.documents import GroupBy, splits_to_json
    from uaptrace.reports.text import folded_stacks, splits_to_text

    check_files([folded], recordings=[replay], ready_file=ready_path)
    snapshot = watched_snapshot(ctx, duration_s, replay, at_text, connect, ready_path=ready_path, outputs=[folded])
    grouping = cast("GroupBy", group_by)
    if folded:
        write_whole(folded, folded_stacks(snapshot).encode(errors="replace"))
    if as_json:
        document: dict[str, Any] = splits_to_json(snapshot, grouping)
        click.echo(json.dumps(document))
    elif not folded:
        click.echo(splits_to_text(snapshot, grouping, shutil.get_terminal_size((80, 24)).columns, stacks=stacks))
