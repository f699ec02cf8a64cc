# SPDX-License-Identifier: Apache-2.0
"""Rows of panels become a dashboard: places, variables, marks of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana.generator.panels import BLUE, DATASOURCE, GRID_COLUMNS, PURPLE, SCHEMA_VERSION, YELLOW, Json, Panel, metric


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it from left to right; a panel that does not fit starts a new line."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def _variables(*, one_host: bool) -> list[Json]:
    datasource: Json = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "options": [],
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
    }
    instance: Json = {
        "type": "query",
        "name": "instance",
        "label": "Host",
        "datasource": DATASOURCE,
        "query": {"query": "label_values(uaptrace_build_info, instance)", "refId": "instance", "qryType": 1},
        "hide": 0,
        "refresh": 2,
        "regex": "",
        "sort": 7,
        "options": [],
        "multi": True,
        "includeAll": True,
        # Else Grafana names every host in every query: of a thousand that is 30 KB, and stores refuse it.
        "allValue": ".+",
        "skipUrlSync": False,
    }
    if not one_host:
        instance["current"] = {"text": ["All"], "value": ["$__all"]}
    return [datasource, instance]


def _annotation(name: str, color: str, expr: str, title: str, text: str, tags: str, *, value_is_time: bool) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": tags,
        "step": "60s",
        "useValueForTime": value_is_time,
    }


def _new_series(name: str, identity: str) -> str:
    """1 in the first minute of a series whose label ``identity`` is new on a host that was seen in the last three hours."""
    selector = metric(name)
    before = f"present_over_time({selector}[3h] offset 1m)"
    return f"{selector} unless on (instance, {identity}) {before} and on (instance) {before}"


def event_marks() -> list[Json]:
    """What explains a step in a graph: reboots (with the kernel), a new uaptrace, and attaching its hooks."""
    return [
        _annotation(
            "Kernel",
            PURPLE,
            # A boot id is never used again, so going back to an older kernel is seen as well.
            _new_series("host_info", "boot_id"),
            "{{instance}} booted {{kernel_release}}",
            "The direct map starts anew at every boot.",
            "instance,kernel_release",
            value_is_time=False,
        ),
        _annotation(
            "uaptrace version",
            BLUE,
            _new_series("build_info", "version"),
            "{{instance}} runs uaptrace {{version}}",
            "",
            "instance,version",
            value_is_time=False,
        ),
        _annotation(
            "Attached",
            YELLOW,
            f"{metric('tracing_start_timestamp_seconds')} * 1000",
            "uaptrace attached on {{instance}}",
            "Attaching splits a few mappings itself; counters start at zero here.",
            "instance",
            value_is_time=True,
        ),
    ]


def _place(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": GRID_COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        for panel, x, line in _flow(row.panels):
            placed.append(panel.json(len(placed) + 1, x, y + line))
        y += max((line + panel.height for panel, _, line in _flow(row.panels)), default=0)
    return placed


def _flow(panels: Sequence[Panel]) -> list[tuple[Panel, int, int]]:
    """Place of each panel in its row: the highest free place, leftmost first, as when filling shelves."""
    skyline = [0] * GRID_COLUMNS
    places = []
    for panel in panels:
        candidates = range(GRID_COLUMNS - panel.width + 1)
        top, x = min((max(skyline[x : x + panel.width]), x) for x in candidates)
        skyline[x : x + panel.width] = [top + panel.height] * panel.width
        places.append((panel, x, top))
    return places


def dashboard(uid: str, title: str, description: str, rows: Sequence[Row], *, one_host: bool = True, time_from: str = "now-6h") -> Json:
    """A dashboard, ready for import and for provisioning."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["uaptrace"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "weekStart": "",
        "refresh": "1m",
        "time": {"from": time_from, "to": "now"},
        "timepicker": {},
        "templating": {"list": _variables(one_host=one_host)},
        "annotations": {"list": event_marks() if one_host else []},
        "links": [
            {
                "type": "dashboards",
                "title": "uaptrace",
                "tags": ["uaptrace"],
                "icon": "external link",
                "tooltip": "",
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "panels": _place(rows),
    }
