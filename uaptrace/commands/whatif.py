# SPDX-License-Identifier: Apache-2.0
"""``uaptrace whatif``: the same requests under each design for grouping direct-map changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.files_given import check_files
from uaptrace.commands.progress_bar import progress_bar
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.types import Finite, Size
from uaptrace.process.plain import plain

if TYPE_CHECKING:
    from uaptrace.model.tlb import TlbPart
    from uaptrace.policies.physical_memory import Memory
    from uaptrace.policies.recorded import Facts
    from uaptrace.policies.requests import Requests
    from uaptrace.policies.simulation import Outcome

_POLICIES: Final = (
    "none",
    "migrate_unmapped",
    "grouped_vmalloc",
    "pks_tables",
    "secretmem_pool",
    "unmapped_alloc_published",
    "unmapped_alloc",
    "unmapped_alloc_whole",
    "freetype",
)
_KINDS: Final = ("secretmem", "modules", "bpf", "mixed")
_DEFAULT_MEMORY: Final = 4 << 30
_SLOW_FROM: Final = 100_000
"""Requests from which it matters that the engine is not compiled."""


seed_option: Final = click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True, help="Same seed, same answer, bit for bit."
)
policy_option: Final = click.option(
    "--policy", "policies", multiple=True, type=click.Choice(_POLICIES), help="Only this design; may be given several times. [default: all]"
)


@click.command(cls=StrictCommand)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--synthetic", type=click.Choice(_KINDS), help="Make requests of this kind instead of reading a recording.")
@click.option(
    "--requests", "count", type=click.IntRange(1, 50_000_000), default=100_000, show_default=True, help="Number of synthetic requests."
)
@seed_option
@policy_option
@click.option("--memory", type=Size(), help="Physical memory, such as 4G. [default: the recorded host's, else 4G]")
@click.option(
    "--fragmentation",
    type=Finite(0, 1),
    help="Share of the free memory that is in blocks below 2M. [default: the recorded buddyinfo, else 0.3]",
)
@click.option(
    "--map", "map_source", type=click.Choice(["fresh", "recorded"]), default="fresh", show_default=True, help="Direct map to begin with."
)
@click.option("--cpus", type=click.IntRange(1, 1 << 16), help="CPUs of the host, for interrupts by flushes. [default: the recorded host's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE", help="Write a chart to this .svg or .png file.")
def whatif(
    file: Path | None,
    synthetic: str | None,
    count: int,
    seed: int,
    policies: tuple[str, ...],
    memory: int | None,
    fragmentation: float | None,
    map_source: str,
    cpus: int | None,
    as_json: bool,
    chart: Path | None,
) -> None:
    """What would each design have kept of the direct map?

    Replays the requests of the recording FILE, or synthetic ones, against a model of each design for grouping
    direct-map changes, and prints splits, memory left in 2M and 1G mappings, and what it costs.
    """
    from uaptrace.reports import whatif_answer as report

    if (file is None) == (synthetic is None):
        raise UsageError("give either a recording or --synthetic KIND")
    if chart is not None and chart.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{chart}: a chart is an .svg or .png file; give it such a name")
    check_files([chart], recordings=[file])
    nr_cpus, tlb = 0, tuple["TlbPart", ...]()
    if synthetic is not None:
        if map_source == "recorded":
            raise UsageError("--map recorded needs a recording; leave it out with --synthetic")
        requests, physical = _synthetic(synthetic, count, seed, memory, fragmentation)
    else:
        assert file is not None
        requests, physical, facts = _recorded(file, seed, memory, fragmentation, map_source)
        nr_cpus, tlb = facts.nr_cpus, facts.tlb
    outcomes = tuple(_replay_all(policies, requests, physical))
    answer = report.WhatIf(requests, physical, seed, outcomes, map_source, nr_cpus if cpus is None else cpus, tlb)
    if chart is not None:
        report.write_chart(answer, chart)
    click.echo(json.dumps(report.as_json(answer)) if as_json else report.as_table(answer), nl=as_json)


def _synthetic(kind: str, count: int, seed: int, memory: int | None, fragmentation: float | None) -> tuple[Requests, Memory]:
    from uaptrace.policies.physical_memory import synthetic_memory
    from uaptrace.policies.recorded import DEFAULT_FRAGMENTATION
    from uaptrace.policies.synthetic import synthetic_requests

    physical = synthetic_memory(
        _DEFAULT_MEMORY if memory is None else memory, DEFAULT_FRAGMENTATION if fragmentation is None else fragmentation, seed
    )
    return synthetic_requests(kind, count, seed), physical


def _recorded(file: Path, seed: int, memory: int | None, fragmentation: float | None, map_source: str) -> tuple[Requests, Memory, Facts]:
    from uaptrace.policies.recorded import recorded_question
    from uaptrace.recording import read_updates

    with progress_bar("Reading") as progress:
        return recorded_question(
            read_updates(file, progress=progress),
            plain(file.name),
            seed=seed,
            memory=memory,
            fragmentation=fragmentation,
            keep_map=map_source == "recorded",
        )


def _replay_all(policies: tuple[str, ...], requests: Requests, memory: Memory) -> list[Outcome]:
    from uaptrace.policies import engine
    from uaptrace.policies.engine_layout import Design
    from uaptrace.policies.simulation import replay

    designs = [design for design in Design if not policies or design.label in policies]
    total = len(requests) * len(designs)
    if not engine.is_compiled() and total > _SLOW_FROM:
        click.echo("uaptrace: whatif runs uncompiled and takes about 20 times as long; see Speed in docs/whatif.md", err=True)
    done = 0
    with progress_bar("Replaying") as progress:

        def advance(number: int) -> None:
            nonlocal done
            done += number
            progress(done, total)

        return [replay(design, requests, memory, progress=advance) for design in designs]
