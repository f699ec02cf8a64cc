# SPDX-License-Identifier: Apache-2.0
"""``uaptrace report``: one page for people who look rather than read, or figures for a CI log."""

from __future__ import annotations

import json
from pathlib import Path

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.progress_bar import progress_bar
from uaptrace.commands.strict import StrictCommand
from uaptrace.process.plain import plain

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".json": "json"}


@click.command(cls=StrictCommand)
@click.argument("recordings", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write; standard output without it, or with -."
)
@click.option("--format", "format_", type=click.Choice(["html", "md", "json"]), help="Without it, by the name of the output.")
def report(recordings: tuple[Path, ...], output: Path | None, format_: str | None) -> None:
    """A self-contained HTML report of one recording, or of two compared.

    The page has the direct map as a picture and as a film, mappings and splits over time, stacks, the unmapped cache, latencies, the
    audit, and what was lost. It works offline. The output appears whole or not at all.
    """
    if len(recordings) > 2:
        raise UsageError("give one recording, or two to compare")
    if format_ is None:
        format_ = "html" if output is None else SUFFIXES.get(output.suffix.lower(), "html")
    if output is None and format_ == "html":
        raise UsageError("where should the page go? Give -o report.html, or --format md or json")
    check_files([output], recordings=recordings)

    from uaptrace.process.files import write_whole
    from uaptrace.reports.page.gather import gather
    from uaptrace.reports.page.page import page
    from uaptrace.reports.page.texts import report_to_json, report_to_markdown

    recordeds = []
    for path in recordings:
        with progress_bar(f"reading {plain(path.name)}") as progress:
            recordeds.append(gather(path, progress=progress))
    match format_:
        case "html":
            made = page(recordeds)
        case "md":
            made = report_to_markdown(recordeds)
        case _:
            made = json.dumps(report_to_json(recordeds), indent=1, allow_nan=False) + "\n"
    if output is None:
        click.echo(made, nl=False)
    else:
        write_whole(output, made.encode(errors="replace"))
