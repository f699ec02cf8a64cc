# SPDX-License-Identifier: Apache-2.0
"""What a dashboard asks of Prometheus: its targets and annotations, with variables and macros put in as Grafana would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "grafana/dashboards"
RECORDINGS = sorted((ROOT / "tests/data").glob("*.uaptrace"))
"""Recordings of real runs."""

_VARIABLE = re.compile(r"\$\{([^}:]+)(?::[^}]*)?\}|\$([A-Za-z_]\w*)|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(r"label_values\((?:(?P<selector>.+),)?\s*(?P<label>\w+)\)")

MAY_BE_EMPTY: Mapping[tuple[str, str, str], str] = {
    ("uaptrace-direct-map", "Large mappings used up in", "A"): "only while large mappings shrink",
    ("uaptrace-direct-map", "Kernel's cycles in page walks", "A"): "only where serve counts walks, on processors that tell their cycles",
    ("uaptrace-direct-map", "Kernel's page walks", "A"): "only where serve counts walks",
    ("uaptrace-direct-map", "Served without a refill", "A"): "nobody has asked the cache for pages in this time",
    ("uaptrace-direct-map", "Requests for each split", "A"): "nothing was split for the cache in this time",
    ("uaptrace-unmapped-cache", "Served without a refill", "A"): "nobody has asked the cache for pages in this time",
    ("uaptrace-unmapped-cache", "Refills of whole 2M", "A"): "the cache was not refilled in this time",
    ("uaptrace-splits", "Splits for each thousand calls", "A"): "no call changed the direct map in this time",
    ("uaptrace-direct-map", "Slowest calls (99 % are faster)", "A"): "nobody has called any of them in this time",
    ("uaptrace-unmapped-cache", "Time of a call: median and 99 %", "A"): "nobody has called any of them in this time",
    ("uaptrace-unmapped-cache", "Time of a call: median and 99 %", "B"): "nobody has called any of them in this time",
    ("uaptrace-splits", "Time of a call (99 % are faster)", "A"): "nobody has called any of them in this time",
    ("uaptrace-itself", "Lost, per second", "A"): "kinds of records that were lost, so none where nothing is lost",
    ("uaptrace-fleet", "Hosts, worst first", "E"): "nobody has asked any cache for pages in this time",
}
"""Targets (dashboard, panel, refId) that may have no data on a host that is well, and why."""


@dataclass(frozen=True)
class Target:
    """One expression of a dashboard. ``panel`` is the annotation's name for annotations."""

    dashboard: str
    panel: str
    ref_id: str
    expr: str
    instant: bool
    is_annotation: bool = False

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.ref_id}"


def load_all() -> dict[str, dict[str, Any]]:
    """The committed dashboards by uid."""
    loaded = [json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))]
    return {dashboard["uid"]: dashboard for dashboard in loaded}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those in rows too, without the rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def targets(dashboard: Mapping[str, Any]) -> list[Target]:
    """Everything a dashboard asks."""
    uid = dashboard["uid"]
    asked = [
        Target(uid, panel["title"], target["refId"], target["expr"], target["instant"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]
    annotations = dashboard.get("annotations", {}).get("list", [])
    return asked + [Target(uid, one["name"], "Anno", one["expr"], instant=False, is_annotation=True) for one in annotations]


def variables_in(text: str) -> set[str]:
    """Names of the variables and macros that a text uses."""
    return {braced or bare or old for braced, bare, old in _VARIABLE.findall(text)}


def macros(range_s: int, step_s: int, scrape_interval_s: int) -> dict[str, str]:
    """Grafana's macros for a time range and a step."""
    return {
        "__rate_interval": f"{max(step_s + scrape_interval_s, 4 * scrape_interval_s)}s",
        "__interval": f"{step_s}s",
        "__interval_ms": str(step_s * 1000),
        "__range": f"{range_s}s",
        "__range_s": str(range_s),
        "__range_ms": str(range_s * 1000),
    }


def all_value(dashboard: Mapping[str, Any]) -> str:
    """What Grafana puts in for ``$instance`` where all hosts are chosen. ValueError: a list of them all."""
    (variable,) = [one for one in dashboard["templating"]["list"] if one["name"] == "instance"]
    if not variable.get("allValue"):
        raise ValueError(f"{dashboard['uid']} names every host in every query")
    return str(variable["allValue"])


def as_matcher(values: Sequence[str]) -> str:
    """Values of a multi-value variable as the regular expression that Grafana's Prometheus data source makes of them.

    A backslash is one for PromQL's string and one for the expression.
    """
    escaped = [re.sub(r"([\\^$*+?.()|\[\]{}])", r"\\\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def substitute(expr: str, values: Mapping[str, str]) -> str:
    """The expression as it is sent; KeyError for a variable that nobody defines."""

    def value(match: re.Match[str]) -> str:
        return values[match.group(1) or match.group(2) or match.group(3)]

    return _VARIABLE.sub(value, expr)


def label_values_query(query: str) -> tuple[str, str]:
    """Selector and label of ``label_values(selector, label)``."""
    match = _LABEL_VALUES.fullmatch(query)
    if match is None or match["selector"] is None:
        raise ValueError(f"not label_values(selector, label): {query}")
    return match["selector"].strip(), match["label"]


def selectors(expr: str) -> Iterator[promql_parser.VectorSelector]:
    """All vector selectors of an expression (macros already put in)."""
    yield from _walk(promql_parser.parse(expr))


def _walk(node: Any) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    if isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
        return
    if isinstance(node, promql_parser.Call):
        children = list(node.args)
    elif isinstance(node, promql_parser.BinaryExpr):
        children = [node.lhs, node.rhs]
    elif isinstance(node, promql_parser.AggregateExpr):
        children = [node.expr, *([node.param] if node.param is not None else [])]
    elif isinstance(node, (promql_parser.ParenExpr, promql_parser.SubqueryExpr, promql_parser.UnaryExpr)):
        children = [node.expr]
    else:
        assert isinstance(node, (promql_parser.NumberLiteral, promql_parser.StringLiteral)), f"unknown part of an expression: {node}"
        children = []
    for child in children:
        yield from _walk(child)


def documented_metrics() -> dict[str, set[str]]:
    """Names of all series in docs/metrics.md and the labels they have."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        match = re.match(r"\| `(\w+)` \| (counter|gauge|info|histogram|summary) \|([^|]*)\|", line)
        if match is None:
            continue
        name, kind, labels = match[1], match[2], set(re.findall(r"`(\w+)`", match[3]))
        if kind in ("histogram", "summary"):
            found[f"{name}_sum"] = found[f"{name}_count"] = labels
        if kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
        if kind not in ("histogram", "summary"):
            found[name] = labels
    assert len(found) > 50, "docs/metrics.md is not in the form that this test reads"
    return found
