# SPDX-License-Identifier: Apache-2.0
"""uaptrace verify."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from uaptrace.abi.errors import NotProvenError, UsageError, VerifyFoundError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.ready import ready_file, ready_file_option
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import live_session, loader_options, stopped_by_signals, tracing_options
from uaptrace.commands.types import seconds
from uaptrace.session.verification import Verdict, counters_verdict, map_verdict


@click.command(cls=StrictCommand)
@click.option(
    "--oracle", type=click.Choice(["kcore", "ptdump", "counters"]), default="kcore", show_default=True, help="What to compare with."
)
@click.option("--duration", "duration_s", type=seconds(), default=0.0, show_default=True, help="Seconds to trace first.")
@click.option("--until", "until_file", type=click.Path(path_type=Path), metavar="FILE", help="Trace until this file exists.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ready_file_option
@tracing_options
@click.pass_context
def verify(ctx: click.Context, oracle: str, duration_s: float, until_file: Path | None, as_json: bool, ready_path: Path | None) -> None:
    """Compare the live state with an independent reading.

    Exit status: 0 only if all pages were compared, none differs and the state is exact; 5 if pages differ; 1 if nothing is proven.

    \b
    kcore     a fresh reading of the page tables
    ptdump    the kernel's own dump of them (CONFIG_PTDUMP_DEBUGFS)
    counters  meminfo's DirectMap changes, vmstat's splits, debugfs' rows
    """
    check_files(others=[until_file], ready_file=ready_path)
    with ready_file(ready_path) as ready, live_session(loader_options(ctx)) as session:
        if oracle == "ptdump" and session.source.read_ptdump() is None:
            raise UsageError("this kernel has no page table dump (CONFIG_PTDUMP_DEBUGFS): use --oracle kcore")
        with stopped_by_signals(session.stop):
            ready()
            deadline = time.monotonic() + duration_s

            def over() -> bool:
                return until_file.exists() if until_file is not None else time.monotonic() >= deadline

            session.run(0.25, until=over)
        verdict = counters_verdict(session) if oracle == "counters" else map_verdict(session, oracle)
    click.echo(json.dumps(verdict.to_json()) if as_json else _text(verdict))
    if verdict.differing:
        raise VerifyFoundError(f"{verdict.differing} of {verdict.compared} {verdict.unit} differ from {oracle}")
    if verdict.doubts:
        raise NotProvenError("no page differs, but that is not conclusive: " + "; ".join(verdict.doubts))


def _text(verdict: Verdict) -> str:
    document: dict[str, Any] = verdict.to_json()
    lines = [
        f"{verdict.compared} {verdict.unit} compared with {verdict.oracle}: {verdict.differing} differ",
        f"state: {'exact' if document['exact'] else 'inexact: ' + '; '.join(document['reasons'])}",
    ]
    lines += [f"  {first['what']}: here {first['ours']}, there {first['theirs']}" for first in document["first"]]
    if verdict.untold:
        lines.append(
            f"  {verdict.untold} pages are in absent entries of 2M or 1G, about which {verdict.oracle} says nothing: "
            "--oracle kcore compares them"
        )
    if verdict.rereads:
        lines.append(
            f"  page tables were read again {verdict.rereads} times while it traced: equal pages may be due to those readings "
            "and not to events"
        )
    if not verdict.settled:
        lines.append("  the map kept changing while it was read: pages that changed meanwhile may be among those that differ")
    return "\n".join(lines)
