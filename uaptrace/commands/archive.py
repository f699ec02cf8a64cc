# SPDX-License-Identifier: Apache-2.0
"""``uaptrace archive``: recordings of many hosts in one place, and what they answer together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.progress_bar import progress_bar
from uaptrace.commands.report import SUFFIXES
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.types import MAX_COUNT
from uaptrace.commands.whatif import policy_option, seed_option
from uaptrace.process.plain import plain

Result = TypeVar("Result")
_DAY = click.DateTime(["%Y-%m-%d"])


def _player_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where recordings are read."""
    jobs = click.option(
        "--jobs", type=click.IntRange(1, MAX_COUNT), default=1, show_default=True, help="Recordings that are read at a time."
    )
    dask = click.option("--dask", metavar="ADDRESS", help="Read them on the Dask cluster of this scheduler (tcp://HOST:8786).")
    return jobs(dask(command))


@click.group()
def archive() -> None:
    """Recordings of many hosts as one Parquet data set (docs/archive.md)."""


@archive.command(cls=StrictCommand)
@click.argument("recordings", metavar="RECORDING...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "place", required=True, metavar="DIR|s3://...", help="The archive: a folder, or a bucket and a path in it.")
@_player_options
def add(recordings: tuple[Path, ...], place: str, jobs: int, dask: str | None) -> None:
    """Add each RECORDING (and the parts that follow it) to an archive.

    A recording that is added again replaces its rows, also when it has grown. One that cannot be read is named and left out, and the
    exit status is then 4. With --dask the workers need uaptrace, and the recordings under the same paths.
    """
    player = _player(jobs, dask)
    from uaptrace.archive.players import rows_of
    from uaptrace.archive.store import Archive

    to = Archive(place)
    chains, refused = _chains(recordings)
    nr_added = nr_rows = nr_bytes = 0
    with progress_bar("reading") as progress:
        for done, (path, rows) in enumerate(player(rows_of, list(chains)) if chains else ()):
            if isinstance(rows, RecordingError):
                refused.append(rows)
            else:
                nr_bytes += sum(map(to.add, rows))
                nr_rows += len(rows)
                nr_added += chains[path]
            progress(done + 1, len(chains))
    if nr_added:
        click.echo(plain(f"{to.place}: files read: {nr_added:,}, rows written: {nr_rows:,} ({nr_bytes:,} bytes)"))
    _say_refused(refused)


@archive.command(cls=StrictCommand)
@click.argument("recordings", metavar="RECORDING...", nargs=-1, required=True, type=click.Path(path_type=Path))
@seed_option
@policy_option
@_player_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, each recording by itself too.")
def whatif(recordings: tuple[Path, ...], seed: int, policies: tuple[str, ...], jobs: int, dask: str | None, as_json: bool) -> None:
    """What would each design have kept on all these hosts?

    Replays the requests of each RECORDING (and the parts that follow it) as "uaptrace whatif" does, and prints the sums. A recording
    that has no request is named and left out, and the exit status is then 4.
    """
    player = _player(jobs, dask)
    from uaptrace.archive.designs import RecordingDesigns, designs_of
    from uaptrace.reports.archive_designs import designs_to_json, designs_to_text

    chains, refused = _chains(recordings)
    found: dict[Path, RecordingDesigns] = {}
    with progress_bar("replaying") as progress:
        task = partial(designs_of, seed=seed, labels=policies)
        for done, (path, designs) in enumerate(player(task, list(chains)) if chains else ()):
            if isinstance(designs, RecordingError):
                refused.append(designs)
            else:
                found[path] = designs
            progress(done + 1, len(chains))
    if found:
        in_order = [found[path] for path in sorted(found)]
        click.echo(json.dumps(designs_to_json(in_order, seed)) if as_json else designs_to_text(in_order), nl=as_json)
    _say_refused(refused)


def _player(jobs: int, dask: str | None) -> Callable[[Callable[[str], Result], Sequence[Path]], Iterator[tuple[Path, Result]]]:
    """What plays a task for each of the files. UsageError where two ways are asked for."""
    if dask is not None and jobs != 1:
        raise UsageError("give --jobs or --dask, not both")
    from uaptrace.archive.players import play_here, play_in_processes, play_on_dask

    if dask is not None:
        return partial(play_on_dask, address=dask)
    return partial(play_in_processes, nr_processes=jobs) if jobs > 1 else play_here


def _say_refused(refused: Sequence[RecordingError]) -> None:
    """A line for each; the last one ends the command."""
    for reason in refused[:-1]:
        click.echo(f"uaptrace: {plain(str(reason))}", err=True)
    if refused:
        raise refused[-1]


def _chains(recordings: Sequence[Path]) -> tuple[dict[Path, int], list[RecordingError]]:
    """The first file of each recording with the number of its files, and why others are none."""
    from uaptrace.recording.reader import open_parts

    found: list[list[Path]] = []
    refused: list[RecordingError] = []
    for recording in recordings:
        try:
            files = open_parts(recording)
        except RecordingError as error:
            refused.append(error)
            continue
        for file in files:
            file.close()
        found.append([file.path.resolve() for file in files])
    chains: dict[Path, int] = {}
    known: set[Path] = set()
    # The longest first: whoever names all parts names those that the first one brings.
    for chain in sorted(found, key=len, reverse=True):
        if chain[0] not in known:
            known.update(chain)
            chains[chain[0]] = len(chain)
    return chains, refused


@archive.command(cls=StrictCommand)
@click.argument("place", metavar="DIR|s3://...")
@click.option("--since", type=_DAY, metavar="YYYY-MM-DD", help="Days from this one on, UTC.")
@click.option("--until", type=_DAY, metavar="YYYY-MM-DD", help="Days to this one, UTC; it is included.")
@click.option("--host", metavar="PATTERN", help="Hosts whose name is like this, as a shell matches files.")
@click.option("--kernel", metavar="PATTERN", help="Kernels whose release is like this.")
@click.option("--limit", type=click.IntRange(1, MAX_COUNT), default=10, show_default=True, help="Rows of each table, of text and page.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write; standard output without it.")
@click.option("--format", "format_", type=click.Choice(["text", "json", "html"]), help="Without it, by the name of the output; else text.")
def report(
    place: str,
    since: datetime | None,
    until: datetime | None,
    host: str | None,
    kernel: str | None,
    limit: int,
    output: Path | None,
    format_: str | None,
) -> None:
    """What the archive says: causes, kernels, kernel updates, hosts, processes, stacks, audit.

    It needs DuckDB: pipx inject uaptrace duckdb, or pip install duckdb.
    """
    if format_ is None:
        format_ = SUFFIXES.get(output.suffix.lower(), "text") if output is not None else "text"
        format_ = format_ if format_ in ("json", "html") else "text"
    check_files([output])
    days = _day(since), _day(until)
    if days[0] is not None and days[1] is not None and days[0] > days[1]:
        raise UsageError("--since is after --until: no day is between them")

    from uaptrace.archive.questions import Scope, ask
    from uaptrace.archive.store import Archive
    from uaptrace.process.files import write_whole

    of = Archive(place)
    with progress_bar("copying") as progress, of.local(*days, progress) as folders:
        answer = ask(of.place, folders, Scope(host, kernel))
    match format_:
        case "html":
            from uaptrace.reports.page.archive_page import archive_page

            made = archive_page(answer, limit)
        case "json":
            from uaptrace.reports.archive_text import archive_to_json

            made = json.dumps(archive_to_json(answer), indent=1, allow_nan=False) + "\n"
        case _:
            from uaptrace.reports.archive_text import archive_to_text

            made = archive_to_text(answer, limit)
    if output is None:
        click.echo(made, nl=False)
    else:
        write_whole(output, made.encode(errors="replace"))


def _day(given: datetime | None) -> date | None:
    return None if given is None else given.date()
