# SPDX-License-Identifier: Apache-2.0
"""The overview: panels in one, two or three columns, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence

from uaptrace.model.snapshot import Snapshot
from uaptrace.views import panels, split_panels
from uaptrace.views.lines import Line, beside
from uaptrace.views.rates import Rates, Sample

TWO_COLUMNS = 112
THREE_COLUMNS = 180


def overview(
    snapshot: Snapshot, rates: Rates | None, samples: Sequence[Sample], width: int, height: int | None = None, *, keys: bool = True
) -> list[Line]:
    """The overview in ``width`` columns.

    What matters most comes first: direct map, cache, activity, one line on events and audit. Where ``height`` (lines; None: no
    limit) leaves room, more panels follow. ``keys``: name the keys that show more.
    """
    if width >= THREE_COLUMNS:
        return _three_columns(snapshot, rates, samples, width, height, keys)
    if width >= TWO_COLUMNS:
        return _two_columns(snapshot, rates, samples, width, height, keys)
    direct_map = panels.direct_map_panel(snapshot, width)
    cache = panels.cache_panel(snapshot, width)
    activity = panels.activity_panel(snapshot, rates, width)
    status = [panels.status_line(snapshot, width, keys=keys)]
    if height is not None and len(direct_map) + len(cache) + len(activity) + 1 > height:
        cache = panels.cache_panel(snapshot, width, facts=False)
    if height is not None and len(direct_map) + len(cache) + len(activity) + 1 > height:
        # It has to be scrolled now: what says whether the figures can be believed must not be below the edge.
        return [*status, *direct_map, *cache, *activity]
    out = [*direct_map, *cache, *activity, *status]
    further = [
        split_panels.splits_panel(snapshot, width),
        panels.processes_panel(snapshot, width, keys=keys),
        split_panels.ledger_panel(snapshot, width, keys=keys),
        panels.health_panel(snapshot, width),
        panels.history_panel(samples, width) if samples else [],
        panels.audit_panel(snapshot, width, keys=keys) if snapshot.audit else [],
    ]
    _fill(out, further, height)
    return out


GAP = 2
CACHE_WIDTH = 67
"""From here on the table by order has five characters a column; it is worth taking them from the neighbours."""


def _two_columns(
    snapshot: Snapshot, rates: Rates | None, samples: Sequence[Sample], width: int, height: int | None, keys: bool
) -> list[Line]:
    room = height - 1 if height is not None else None
    half = (width - GAP) // 2
    first = max(half, min(CACHE_WIDTH, width - GAP - 56))
    second = width - GAP - first
    left = [*_top_left(snapshot, first), *split_panels.splits_panel(snapshot, first)]
    _fill(left, [[(), *panels.health_panel(snapshot, first)]], room)
    right = [*panels.activity_panel(snapshot, rates, second), (), *panels.history_panel(samples, second), ()]
    further = [
        [*panels.processes_panel(snapshot, second, rows=6, keys=keys), ()],
        [*panels.audit_panel(snapshot, second, keys=keys), ()],
    ]
    _fill(right, further, room)
    return _with_status(beside([(left, first), (right, second)], GAP), panels.status_line(snapshot, width, keys=keys), height)


def _three_columns(
    snapshot: Snapshot, rates: Rates | None, samples: Sequence[Sample], width: int, height: int | None, keys: bool
) -> list[Line]:
    room = height - 1 if height is not None else None
    third = (width - 2 * GAP) // 3
    first = max(third, min(CACHE_WIDTH, width - 2 * (GAP + 62)))
    second = (width - first - 2 * GAP) // 2
    last = width - first - second - 2 * GAP
    left = [*_top_left(snapshot, first), *split_panels.splits_panel(snapshot, first), ()]
    _fill(left, [split_panels.ledger_panel(snapshot, first, rows=20, keys=keys)], room)
    middle = [*panels.activity_panel(snapshot, rates, second), (), *panels.history_panel(samples, second), ()]
    middle += panels.health_panel(snapshot, second)
    right = [*panels.processes_panel(snapshot, last, rows=12, keys=keys), ()]
    _fill(right, [panels.audit_panel(snapshot, last, keys=keys)], room)
    body = beside([(left, first), (middle, second), (right, last)], GAP)
    return _with_status(body, panels.status_line(snapshot, width, keys=keys), height)


def _top_left(snapshot: Snapshot, width: int) -> list[Line]:
    return [*panels.direct_map_panel(snapshot, width), (), *panels.cache_panel(snapshot, width, full=True), ()]


def _with_status(body: list[Line], status: Line, height: int | None) -> list[Line]:
    if height is not None:
        body = body[: max(0, height - 1)]
        body += [()] * (height - 1 - len(body))
    return [*body, status]


def _fill(out: list[Line], further: Sequence[list[Line]], height: int | None) -> None:
    """Appends panels while there is room; the last one may be cut, which is marked."""
    for panel in further:
        room = len(panel) if height is None else height - len(out)
        if len(panel) <= room:
            out.extend(panel)
        elif room >= 5:
            out.extend([*panel[: room - 1], ((" …", "dim"),)])
