# SPDX-License-Identifier: Apache-2.0
"""Parts of Grafana dashboards as JSON-ready dictionaries: queries, panels, rows, and the dashboard around them.

Only options that differ from Grafana's own defaults, or that Grafana would add on save, are written, so that the
files stay small and a change of them can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
GRID_COLUMNS: Final = 24
SCHEMA_VERSION: Final = 39
"""Grafana 10.4: read by every later version, which migrates it on load."""

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, TEXT = "green", "yellow", "orange", "red", "blue", "purple", "text"


def metric(name: str, /, **labels: str) -> str:
    """Selector of ``uaptrace_<name>`` (or a ``process_`` metric) on the chosen hosts; a label value is a regular expression."""
    full = name if name.startswith("process_") else f"uaptrace_{name}"
    matchers = ['instance=~"$instance"', *(f'{key}=~"{value}"' for key, value in labels.items())]
    return f"{full}{{{','.join(matchers)}}}"


def rate(selector: str) -> str:
    """Per second, over a window that always holds enough scrapes."""
    return f"rate({selector}[$__rate_interval])"


def in_range(selector: str) -> str:
    """Increase over the time that the dashboard shows."""
    return f"increase({selector}[$__range])"


def total(expr: str, *by: str) -> str:
    """Sum over hosts, or by the labels given."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def quantile(share: float, selector: str, *by: str) -> str:
    """Duration that ``share`` of the calls do not exceed, from the buckets; no calls, no value (not NaN, which is drawn as zero)."""
    return f"histogram_quantile({share:g}, {total(rate(selector), 'le', *by)}) >= 0"


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel. ``instant``: only its value now; ``table``: as rows; ``heatmap``: as buckets."""

    expr: str
    legend: str = ""
    instant: bool = False
    table: bool = False
    heatmap: bool = False

    def json(self, ref_id: str) -> Json:
        """Target of a panel."""
        target: Json = {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": "table" if self.table else "heatmap" if self.heatmap else "time_series",
            "instant": self.instant,
            "range": not self.instant,
            "refId": ref_id,
        }
        if not self.table:
            target["legendFormat"] = self.legend or "__auto"
        return target


@dataclass(frozen=True)
class Panel:
    """A panel without its place. ``width`` and ``height`` are in Grafana's grid (24 columns)."""

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    width: int
    height: int
    options: Json
    defaults: Json
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def json(self, panel_id: int, x: int, y: int) -> Json:
        """The panel at its place."""
        panel: Json = {
            "id": panel_id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [query.json(chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            "options": self.options,
            "fieldConfig": {"defaults": self.defaults, "overrides": list(self.overrides)},
        }
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel


def thresholds(base: str, *steps: tuple[float, str]) -> Json:
    """Colour ``base`` below the first step, then the colour of each step from its value on."""
    return {"mode": "absolute", "steps": [{"color": base, "value": None}, *({"color": color, "value": value} for value, color in steps)]}


ZERO_IS_GOOD: Final = thresholds(GREEN, (1, RED))
"""For counts of what must not happen."""
NEUTRAL: Final = thresholds(TEXT)


def count_of(selector: str, *by: str) -> str:
    """Events in the time shown, as a whole number. ``increase()`` extrapolates upwards only, so rounding never hides an event."""
    return f"round({total(in_range(selector), *by)})"


def named_color(name: str, color: str) -> Json:
    """Override: the series with this legend has this colour."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }


def _defaults(unit: str, decimals: int | None, minimum: float | None, maximum: float | None, no_value: str | None) -> Json:
    defaults: Json = {"unit": unit}
    for key, value in (("decimals", decimals), ("min", minimum), ("max", maximum), ("noValue", no_value)):
        if value is not None:
            defaults[key] = value
    return defaults


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 4,
    height: int = 4,
    steps: Json = NEUTRAL,
    background: bool = False,
    sparkline: bool = False,
    decimals: int | None = None,
    mappings: Sequence[Json] = (),
    no_value: str | None = None,
    overrides: Sequence[Json] = (),
) -> Panel:
    """Large figures; with several queries, each with its name."""
    several = len(queries) > 1
    defaults = _defaults(unit, decimals, 0 if sparkline else None, None, no_value)
    defaults |= {"color": {"mode": "thresholds"}, "thresholds": steps, "mappings": list(mappings)}
    options = {
        "colorMode": "background" if background else "value",
        "graphMode": "area" if sparkline else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if several else "value",
        "wideLayout": True,
        "percentChangeColorMode": "standard",
    }
    return Panel("stat", title, description, queries, width, height, options, defaults, overrides)


def timeseries(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    stepped: bool = False,
    decimals: int | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    no_value: str | None = None,
    legend_table: bool = False,
    log: bool = False,
    fill: int = 10,
    overrides: Sequence[Json] = (),
) -> Panel:
    """Lines over time, or areas on top of each other."""
    defaults = _defaults(unit, decimals, minimum, maximum, no_value)
    defaults["color"] = {"mode": "palette-classic"}
    defaults["custom"] = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if stepped else "linear",
        "lineWidth": 1,
        "fillOpacity": 50 if stacked else 0 if log else fill,
        "gradientMode": "none",
        # A duration is there only while somebody calls: a single one must be seen.
        "showPoints": "auto" if log else "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
    }
    options = {
        "legend": {
            "displayMode": "table" if legend_table else "list",
            "placement": "right" if legend_table else "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"] if legend_table else [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, queries, width, height, options, defaults, overrides)


def bars(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    height: int = 8,
    steps: Json | None = None,
    decimals: int | None = None,
    maximum: float | None = None,
    no_value: str | None = None,
    title_size: int | None = None,
    overrides: Sequence[Json] = (),
) -> Panel:
    """Horizontal bars, one for each series. ``title_size``: for few bars, whose names would become large."""
    defaults = _defaults(unit, decimals, 0, maximum, no_value)
    defaults |= {"color": {"mode": "thresholds"}, "thresholds": steps or thresholds(BLUE)}
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "valueMode": "text",
        "namePlacement": "left",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "text": {"valueSize": 15} | ({"titleSize": title_size} if title_size else {}),
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    }
    return Panel("bargauge", title, description, queries, width, height, options, defaults, overrides)


def heatmap(title: str, description: str, query: Query, *, width: int = 12, height: int = 8) -> Panel:
    """Durations in the power-of-two buckets of the kernel, over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "cps"},
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": False},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "unit": "s", "reverse": False},
    }
    return Panel("heatmap", title, description, [query], width, height, options, {"unit": "s"})


@dataclass(frozen=True)
class Column:
    """A column of a table: where it comes from, its heading, and how it looks."""

    source: str
    heading: str
    unit: str | None = None
    width: int | None = None
    decimals: int | None = None
    steps: Json | None = None
    mappings: Sequence[Json] = ()
    links: Sequence[Json] = ()
    gauge: bool = False

    def override(self) -> Json | None:
        """Field override for this column, None where it needs none."""
        properties: list[Json] = []
        plain = (("unit", self.unit), ("custom.width", self.width), ("decimals", self.decimals))
        properties += [{"id": key, "value": value} for key, value in plain if value is not None]
        if self.steps is not None:
            cell = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"} if self.gauge else {"type": "color-text"}
            properties += [{"id": "thresholds", "value": self.steps}, {"id": "custom.cellOptions", "value": cell}]
            if self.gauge:
                properties += [{"id": "min", "value": 0}, {"id": "max", "value": 1}]
        if self.mappings:
            properties.append({"id": "mappings", "value": list(self.mappings)})
        if self.links:
            properties.append({"id": "links", "value": list(self.links)})
        return {"matcher": {"id": "byName", "options": self.heading}, "properties": properties} if properties else None


def table(
    title: str,
    description: str,
    *queries: Query,
    by: str,
    columns: Sequence[Column],
    hidden: Iterable[str] = (),
    width: int = 24,
    height: int = 10,
    unit: str = "short",
    sort: tuple[str, bool] | None = None,
    numeric: str | None = None,
    no_value: str = "–",
) -> Panel:
    """Rows joined by the label ``by``, columns in the order given; ``sort``: heading and whether descending;
    ``numeric``: a label whose values are numbers, by which rows are listed that are equal otherwise.
    """
    joined: list[Json] = [{"id": "joinByField", "options": {"byField": by, "mode": "outer"}}] if len(queries) > 1 else []
    if numeric:
        conversion = {"targetField": numeric, "destinationType": "number"}
        joined += [
            {"id": "convertFieldType", "options": {"conversions": [conversion], "fields": {}}},
            {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": numeric, "desc": False}]}},
        ]
    # After a join, fields of the same name get the number of their frame: every one of them is a time, and not shown.
    times = ["Time", *(f"Time {i + 1}" for i in range(len(queries)))]
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": dict.fromkeys([*times, *hidden], True),
            "indexByName": {column.source: i for i, column in enumerate(columns)},
            "renameByName": {column.source: column.heading for column in columns},
        },
    }
    defaults = _defaults(unit, None, None, None, no_value)
    defaults |= {
        "color": {"mode": "thresholds"},
        "thresholds": NEUTRAL,
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
    }
    options: Json = {"cellHeight": "sm", "showHeader": True, "frameIndex": 0}
    if sort:
        options["sortBy"] = [{"displayName": sort[0], "desc": sort[1]}]
    overrides = [override for column in columns if (override := column.override())]
    return Panel("table", title, description, queries, width, height, options, defaults, overrides, [*joined, organize])


def value_names(names: dict[float, tuple[str, str]]) -> Json:
    """Value mapping: number -> (text, colour)."""
    mapped = {f"{value:g}": {"text": text, "color": color, "index": i} for i, (value, (text, color)) in enumerate(names.items())}
    return {"type": "value", "options": mapped}
