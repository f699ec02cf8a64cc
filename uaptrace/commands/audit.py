# SPDX-License-Identifier: Apache-2.0
"""uaptrace audit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from uaptrace.abi.errors import AuditFoundError
from uaptrace.abi.hooks import PageAllocHook
from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file_option
from uaptrace.commands.sources import SnapshotSource, source_options
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import tracing_options
from uaptrace.commands.types import seconds
from uaptrace.commands.watching import watched_snapshot


@click.command(cls=StrictCommand)
@click.option("--duration", "duration_s", type=seconds(), help="Seconds to trace; without it until SIGINT or SIGTERM.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@source_options
@ready_file_option
@tracing_options
@click.pass_context
def audit(ctx: click.Context, duration_s: float | None, as_json: bool, source: SnapshotSource, ready_path: Path | None) -> None:
    """Check the unmapped cache's invariants against the page tables. Exit status: 0 clean, 3 broken."""
    from uaptrace.reports.documents import audit_to_json
    from uaptrace.reports.text import audit_to_text

    check_files(recordings=[source.replay], ready_file=ready_path)
    snapshot = watched_snapshot(ctx, duration_s, source, ready_path=ready_path, auto_hook=PageAllocHook.CALLERS)
    if as_json:
        click.echo(json.dumps(audit_to_json(snapshot)))
    else:
        click.echo(audit_to_text(snapshot, shutil.get_terminal_size((80, 24)).columns))
    broken = [row for row in snapshot.audit if row.violated]
    if broken:
        numbers = ", ".join(str(row.number) for row in broken)
        raise AuditFoundError(f"{len(broken)} invariants are broken (numbers {numbers}): the pages and stacks are above")
