# SPDX-License-Identifier: Apache-2.0
"""uaptrace splits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import click

from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file_option
from uaptrace.commands.sources import SnapshotSource, source_options
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import tracing_options
from uaptrace.commands.types import seconds
from uaptrace.commands.watching import watched_snapshot


@click.command(cls=StrictCommand)
@click.option("--duration", "duration_s", type=seconds(), help="Seconds to trace; without it until SIGINT or SIGTERM.")
@click.option(
    "--group-by",
    type=click.Choice(["row", "cause", "process", "cgroup", "stack"]),
    default="row",
    show_default=True,
    help="Add up rows that have this in common.",
)
@click.option("--stacks", is_flag=True, help="Print whole stacks.")
@click.option("--folded", type=click.Path(path_type=Path), metavar="FILE", help="Write folded stacks for a flame graph.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@source_options
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
    source: SnapshotSource,
    ready_path: Path | None,
) -> None:
    """Who split large mappings, when, and by which call path."""
    from uaptrace.process.files import write_whole
    from uaptrace.reports.documents import GroupBy, splits_to_json
    from uaptrace.reports.text import folded_stacks, splits_to_text

    check_files([folded], recordings=[source.replay], ready_file=ready_path)
    snapshot = watched_snapshot(ctx, duration_s, source, ready_path=ready_path, outputs=[folded])
    grouping = cast("GroupBy", group_by)
    if folded:
        write_whole(folded, folded_stacks(snapshot).encode(errors="replace"))
    if as_json:
        document: dict[str, Any] = splits_to_json(snapshot, grouping)
        click.echo(json.dumps(document))
    elif not folded:
        click.echo(splits_to_text(snapshot, grouping, shutil.get_terminal_size((80, 24)).columns, stacks=stacks))
