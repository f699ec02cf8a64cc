# SPDX-License-Identifier: Apache-2.0
"""What each design would have kept on many hosts, as text for a terminal and as JSON. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from uaptrace.abi.units import format_bytes
from uaptrace.archive.designs import RecordingDesigns, total_of
from uaptrace.process.plain import plain
from uaptrace.reports.whatif_answer import TITLES
from uaptrace.views import words

SCHEMA: Final = 1
COLUMNS: Final = 80


def designs_to_json(recordings: Sequence[RecordingDesigns], seed: int) -> dict[str, Any]:
    """Plain data for json.dumps; docs/archive.md describes the fields."""
    return {
        "schema_version": SCHEMA,
        "seed": seed,
        "recordings": [asdict(recording) for recording in recordings],
        "designs": [asdict(figures) for figures in total_of(recordings)],
    }


def designs_to_text(recordings: Sequence[RecordingDesigns]) -> str:
    """A table of the sums, and what they are sums of."""
    hosts = {recording.hostname for recording in recordings}
    kernels = {recording.kernel_release for recording in recordings}
    nr_requests, size_bytes = (sum(getattr(recording, name) for recording in recordings) for name in ("nr_requests", "size_bytes"))
    said = (
        f"What if: {words.plural(nr_requests, 'request')} of {words.plural(len(recordings), 'recording')}, "
        f"{words.plural(len(hosts), 'host')}, {words.plural(len(kernels), 'kernel')}; {format_bytes(size_bytes)} of memory in all"
    )
    titles = {design.label: title for design, title in TITLES.items()}
    lines = [
        *textwrap.wrap(plain(said), COLUMNS, subsequent_indent="  "),
        "",
        "                               splits    2M and 1G   direct-map         TLB",
        "design                      1G       2M       left        calls     flushes",
    ]
    totals = total_of(recordings)
    for each in totals:
        lines.append(
            f"{titles[each.design]:<25}{each.splits_1g:>5,}{each.splits_2m:>9,}{each.large_bytes / size_bytes:>11.1%}"
            f"{each.direct_map_operations:>13,}{each.tlb_flushes:>12,}"
        )
    exposed = [f"{words.plural(each.exposed_pages, 'page')} by {titles[each.design]}" for each in totals if each.exposed_pages]
    if exposed:
        said = f"Handed out while still in the direct map, to requests that need them absent: {'; '.join(exposed)}."
        lines += ["", *textwrap.wrap(said, COLUMNS, subsequent_indent="  ")]
    return "\n".join(lines) + "\n"
