# SPDX-License-Identifier: Apache-2.0
"""uaptrace map."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import click
import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import UsageError
from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.commands.files_given import check_files
from uaptrace.commands.sources import SnapshotSource, source_options
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import tracing_options
from uaptrace.commands.types import MAX_COUNT, MAX_PFN, seconds
from uaptrace.commands.watching import watched_snapshot
from uaptrace.kernel.zones import zone_ranges
from uaptrace.model.state import KernelState

WINDOW_REGIONS: Final = 16
"""How many 2M regions --around shows."""


@click.command(cls=StrictCommand)
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Write a picture.")
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="Write a picture.")
@click.option("--json", "as_json", is_flag=True, help="Ranges and figures as JSON.")
@click.option("--zone", "zones", multiple=True, metavar="NAME", help="Only this zone (DMA32, Normal, ...); may be repeated.")
@click.option("--node", "nodes", multiple=True, type=click.IntRange(0, MAX_COUNT), help="Only this node; may be repeated.")
@click.option("--around", "around_pfn", type=click.IntRange(0, MAX_PFN), metavar="PFN", help="Page by page around this page.")
@click.option("--duration", "duration_s", type=seconds(), default=0.0, show_default=True, help="Seconds to trace first.")
@source_options
@tracing_options
@click.pass_context
def map(
    ctx: click.Context,
    png: Path | None,
    svg: Path | None,
    as_json: bool,
    zones: tuple[str, ...],
    nodes: tuple[int, ...],
    around_pfn: int | None,
    duration_s: float,
    source: SnapshotSource,
) -> None:
    """The direct map as a picture: what is in 1G, 2M and 4K mappings, and what is absent."""
    from uaptrace.reports.map_picture import MapPicture, NamedRange

    check_files([png, svg], recordings=[source.replay])
    ranges = []
    if zones or nodes:
        if not source.live:
            raise UsageError("--zone and --node are of this host: they do not go with --replay or --connect")
        ranges = [NamedRange(*found) for found in zone_ranges(zones, nodes)]
    pages: list[tuple[int, NDArray[np.uint8]]] = []

    def keep_pages(state: KernelState) -> None:
        if around_pfn is not None:
            first = max(0, around_pfn // PAGES_PER_2M - WINDOW_REGIONS)
            pages.append((first * PAGES_PER_2M, state.direct_map.page_states(first, 2 * WINDOW_REGIONS)))

    snapshot = watched_snapshot(ctx, duration_s, source, regions=True, outputs=[png, svg], on_state=keep_pages)
    picture = MapPicture(snapshot, ranges=ranges, around_pfn=around_pfn, pages=pages[0] if pages else None, window_regions=WINDOW_REGIONS)
    if png:
        picture.write_png(png)
    if svg:
        picture.write_svg(svg)
    if as_json:
        click.echo(json.dumps(picture.to_json()))
    elif not png and not svg:
        columns, rows = shutil.get_terminal_size((80, 24))
        tty = sys.stdout.isatty()
        click.echo(picture.to_text(columns, rows - 1 if tty else None, color=tty and "NO_COLOR" not in os.environ))
