# SPDX-License-Identifier: Apache-2.0
"""uaptrace cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from uaptrace.abi.errors import NotProvenError
from uaptrace.abi.units import Level
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import COMPILE_HELP
from uaptrace.commands.types import MAX_COUNT, seconds
from uaptrace.cost.measure import measure
from uaptrace.cost.pages import CHAIN_READS
from uaptrace.cost.result import Conditions, Cost, Spread
from uaptrace.cost.walks import count_walks
from uaptrace.kernel.processor import Processor, read_processor
from uaptrace.model.walks import WalkCounts

_MAX_PAGES: Final = 1 << 20


@click.command(cls=StrictCommand)
@click.option(
    "--rounds",
    "nr_rounds",
    type=click.IntRange(10, 100_000),
    default=50,
    show_default=True,
    help="Number of rounds; each reads all pages once.",
)
@click.option(
    "--pages",
    "max_pages",
    type=click.IntRange(CHAIN_READS, _MAX_PAGES),
    default=32768,
    show_default=True,
    help="Pages to read at each level in a round, if there are as many: far more than a TLB has entries.",
)
@click.option(
    "--walks",
    "walks_s",
    type=seconds(0.1),
    help="Count the kernel's page walks on all CPUs for so long, with the processor's counters, instead of timing reads.",
)
@click.option("--seed", type=click.IntRange(0, MAX_COUNT), help="Seed for the choice and the order of the pages.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--compile", "fresh", is_flag=True, help=COMPILE_HELP)
def cost(nr_rounds: int, max_pages: int, walks_s: float | None, seed: int | None, as_json: bool, fresh: bool) -> None:
    """What a read of split memory costs on this host, in nanoseconds.

    Reads pages of the direct map in the kernel, in random order, each read after the one before: as many pages of as many 2M regions
    in 4K mappings, in 2M mappings and in 1G ones, in turn. Nothing is attached and nothing is changed.

    Exit status: 0 the difference is larger than its spread, 1 nothing can be concluded, 2 this host cannot be measured.
    """
    if walks_s is not None:
        processor, counts = read_processor(Path("/")), count_walks(walks_s)
        click.echo(json.dumps(walks_to_json(processor, walks_s, counts)) if as_json else walks_to_text(processor, walks_s, counts))
        return
    found = measure(nr_rounds, max_pages, seed, fresh=fresh)
    click.echo(json.dumps(found.to_json()) if as_json else _text(found))
    if found.doubt:
        raise NotProvenError(f"no conclusion: {found.doubt}")


def walks_to_json(processor: Processor, counted_s: float, counts: WalkCounts) -> dict[str, Any]:
    """As docs/cost.md describes it."""
    return {
        "processor": processor.name,
        "virtual": processor.virtual,
        "emulated": processor.emulated,
        "seconds": counted_s,
        "nr_cpus": counts.nr_cpus,
        "counted_share": round(counts.counted_share, 4),
        "cycles": counts.cycles,
        "walks": counts.walks,
        "walk_cycles": counts.walk_cycles,
        "walk_share": counts.walk_share,
    }


def walks_to_text(processor: Processor, counted_s: float, counts: WalkCounts) -> str:
    """A line for each figure."""
    share = "this processor does not count the cycles of walks" if counts.walk_share is None else f"{counts.walk_share:.2%} of these cycles"
    per_million = f", {counts.walks / counts.cycles * 1e6:,.1f} a million cycles" if counts.cycles else ""
    return "\n".join(
        [
            f"{'processor':<11}{processor.name}{_where(processor)}",
            f"{'counted':<11}{counted_s:g} s on {counts.nr_cpus} CPUs, {counts.counted_share:.0%} of the time",
            f"{'cycles':<11}{counts.cycles:,} in kernel mode",
            f"{'walks':<11}{counts.walks:,} for data{per_million}",
            f"{'in walks':<11}{share}",
        ]
    )


def _where(conditions: Processor | Conditions) -> str:
    return ", emulated" if conditions.emulated else ", in a virtual machine" if conditions.virtual else ""


def _text(found: Cost) -> str:
    conditions = found.conditions
    where = _where(conditions)
    regions = ", ".join(f"{nr:,} in {_name(level)}" for level, nr in sorted(conditions.nr_regions.items(), reverse=True))
    lines = [
        f"{'processor':<11}{conditions.processor}{where}, CPU {conditions.cpu}",
        f"{'regions':<11}{regions} mappings (2M each)",
    ]
    if not found.reads:
        return "\n".join(lines)
    lines += [
        f"{'read':<11}{conditions.nr_pages:,} pages at each level, {conditions.nr_rounds} rounds",
        "",
        f"{'mapping':<11}{'ns a read':>10}{'middle 80%':>18}{'added ns':>12}{'middle 80%':>18}",
    ]
    for level in sorted(found.reads, reverse=True):
        added = found.added.get(level)
        line = f"{_name(level):<11}{found.reads[level].median_ns:>10.1f}{_range(found.reads[level]):>18}"
        lines.append(line + (f"{added.median_ns:>+12.1f}{_range(added):>18}" if added else ""))
    if not found.doubt:
        lines += ["", _sentence(found)]
    return "\n".join(lines)


def _name(level: Level) -> str:
    return level.label.upper()


def _range(spread: Spread) -> str:
    return f"{spread.low_ns:.1f} to {spread.high_ns:.1f}"


def _sentence(found: Cost) -> str:
    assert found.reference is not None
    added, whole = found.added[Level.K4], found.reads[found.reference]
    more = "longer" if added.median_ns > 0 else "less"
    return (
        f"A read of a page in split memory takes {abs(added.median_ns):.1f} ns ({abs(added.median_ns) / whole.median_ns:.0%}) {more} than"
        f" one in a {_name(found.reference)} mapping.\nThe program's own work is part of every read, so the share is the least it can be."
    )
