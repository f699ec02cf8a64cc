# SPDX-License-Identifier: Apache-2.0
"""The overview: panels in one, two or three columns, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence

from uaptrace.model.snapshot import Snapshot
from uaptrace.views import panels
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
        return _columns(snapshot, rates, samples, width, height, 3, keys)
    if width >= TWO_COLUMNS:
        return _columns(snapshot, rates, samples, width, height, 2, keys)
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
        panels.splits_panel(snapshot, width),
        panels.processes_panel(snapshot, width, keys=keys),
        panels.ledger_panel(snapshot, width, keys=keys),
        panels.health_panel(snapshot, width),
        panels.history_panel(samples, width) if samples else [],
        panels.audit_panel(snapshot, width, keys=keys) if snapshot.audit else [],
    ]
    _fill(out, further, height)
    return out


def _columns(
    snapshot: Snapshot, rates: Rates | None, samples: Sequence[Sample], width: int, height: int | None, number: int, keys: bool
) -> list[Line]:
    gap = 2
    column = (width - gap * (number - 1)) // number
    last = width - (column + gap) * (number - 1)
    left = [*panels.direct_map_panel(snapshot, column), (), *panels.cache_panel(snapshot, column, full=True), ()]
    activity = [*panels.activity_panel(snapshot, rates, column if number == 3 else last), ()]
    if number == 2:
        left += panels.splits_panel(snapshot, column)
        right = [*activity, *panels.history_panel(samples, last), ()]
        _fill(
            right,
            [
                [*panels.processes_panel(snapshot, last, rows=6, keys=keys), ()],
                [*panels.audit_panel(snapshot, last, keys=keys), ()],
            ],
            height - 1 if height is not None else None,
        )
        _fill(left, [[(), *panels.health_panel(snapshot, column)]], height - 1 if height is not None else None)
        body = beside([(left, column), (right, last)], gap)
        return _with_status(body, panels.status_line(snapshot, width, keys=keys), height)
    middle = [*activity, *panels.history_panel(samples, column), (), *panels.health_panel(snapshot, column)]
    left += [*panels.splits_panel(snapshot, column), ()]
    _fill(left, [panels.ledger_panel(snapshot, column, rows=20, keys=keys)], height - 1 if height is not None else None)
    right = [*panels.processes_panel(snapshot, last, rows=12, keys=keys), ()]
    _fill(right, [panels.audit_panel(snapshot, last, keys=keys)], height - 1 if height is not None else None)
    return _with_status(
        beside([(left, column), (middle, column), (right, last)], gap), panels.status_line(snapshot, width, keys=keys), height
    )


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
