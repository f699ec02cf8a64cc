# SPDX-License-Identifier: Apache-2.0
"""uaptrace cost."""

from __future__ import annotations

import json
from typing import Final

import click

from uaptrace.abi.errors import NotProvenError
from uaptrace.abi.units import Level
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import COMPILE_HELP
from uaptrace.commands.types import MAX_COUNT
from uaptrace.cost.measure import measure
from uaptrace.cost.pages import CHAIN_READS
from uaptrace.cost.result import Cost, Spread

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
@click.option("--seed", type=click.IntRange(0, MAX_COUNT), help="Seed for the choice and the order of the pages.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--compile", "fresh", is_flag=True, help=COMPILE_HELP)
def cost(nr_rounds: int, max_pages: int, seed: int | None, as_json: bool, fresh: bool) -> None:
    """What a read of split memory costs on this host, in nanoseconds.

    Reads pages of the direct map in the kernel, in random order, each read after the one before: as many pages of as many 2M regions
    in 4K mappings, in 2M mappings and in 1G ones, in turn. Nothing is attached and nothing is changed.

    Exit status: 0 the difference is larger than its spread, 1 nothing can be concluded.
    """
    found = measure(nr_rounds, max_pages, seed, fresh=fresh)
    click.echo(json.dumps(found.to_json()) if as_json else _text(found))
    if found.doubt:
        raise NotProvenError(f"no conclusion: {found.doubt}")


def _text(found: Cost) -> str:
    conditions = found.conditions
    where = ", emulated" if conditions.emulated else ", in a virtual machine" if conditions.virtual else ""
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
