# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md is what the endpoint has, no more and no less: names, kinds, labels, label values and conditions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from uaptrace.abi.hooks import HOOKS, Hook
from uaptrace.exporter.rendering import HttpStatistics, Renderer, ScrapeCollector
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.walks import WalkCounts

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>[a-z0-9_]+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*) \| (?P<unit>[^|]*)\| (?P<when>\w+) \|"
    r" (?P<meaning>[^|]+) \| (?P<source>[^|]*)\|$"
)


def documented() -> dict[str, tuple[str, frozenset[str], str]]:
    """Kind, labels and condition of each metric in the tables."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        row = ROW.match(line.replace("| |", "|  |").replace("| |", "|  |"))
        if row is None:
            assert not line.startswith(("| `uaptrace_", "| `process_")), f"a row that this test cannot read: {line}"
            continue
        assert row["name"] not in found, f"{row['name']} is described twice"
        found[row["name"]] = (row["kind"], frozenset(re.findall(r"`(\w+)`", row["labels"])), row["when"])
    return found


def row_of(hook: Hook) -> str:
    """A hook in the document's table."""
    function = hook.tracepoint or f"{hook.symbols[-1]}()"
    lacks = ["the state is not exact"] if hook.unseen else []
    lacks += [f"not known: {', '.join(hook.figures)}"] if hook.figures else []
    lacks += [f"not judged: {', '.join(map(str, sorted(hook.invariants)))}"] if hook.invariants else []
    return f"| `{hook.label}` | `{function}` | {hook.purpose} | {'; '.join(lacks)} |"


def test_hooks_are_those_of_the_table() -> None:
    text = DOCUMENT.read_text()
    rows = text.partition("| Hook | Function | What for | Without it |\n|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert rows == [row_of(hook) for hook in HOOKS]


def families(snapshot: Snapshot | None) -> dict[str, Metric]:
    walks = WalkCounts(3, 2, 1, 1, 1.0) if snapshot == largest_snapshot() else None
    collector = ScrapeCollector(snapshot, HttpStatistics(), ProcessCollector(registry=None), walks)
    suffix = {"counter": "_total", "info": "_info"}
    return {family.name + suffix.get(family.type, ""): family for family in collector.collect()}


def labels(family: Metric) -> frozenset[str]:
    return frozenset().union(*(sample.labels for sample in family.samples)) - {"le"}


def test_names_kinds_and_labels_are_those_of_the_document() -> None:
    served = {name: (family.type, labels(family)) for name, family in families(largest_snapshot()).items()}
    assert served == {name: (kind, label_names) for name, (kind, label_names, _) in documented().items()}


def test_each_metric_is_there_when_the_document_says_so() -> None:
    conditions = {name: when for name, (_, _, when) in documented().items()}
    assert set(conditions.values()) == {"always", "snapshot", "series", "known"}

    def expected(*allowed: str) -> set[str]:
        return {name for name, when in conditions.items() if when in allowed}

    assert set(families(None)) == expected("always")
    # Operations and latencies are "snapshot": there as families even where the small snapshot knows no figure of them.
    assert set(families(small_snapshot())) == expected("always", "snapshot")


def test_label_values_are_those_of_the_document() -> None:
    text = DOCUMENT.read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text.split("The label values:")[1].split("\n## ")[0], re.MULTILINE))
    for family in families(largest_snapshot()).values():
        for sample in family.samples:
            for label in ("level", "cause", "mechanism", "kind", "reason"):
                if label in sample.labels:
                    assert f"`{sample.labels[label]}`" in table[label], f"{label}={sample.labels[label]} of {family.name}"
    operations = "".join(re.findall(r"^\| `operation` of .*$", text, re.MULTILINE))
    for family in families(largest_snapshot()).values():
        for sample in family.samples:
            assert "operation" not in sample.labels or f"`{sample.labels['operation']}`" in operations


def test_no_label_name_that_prometheus_or_kubernetes_setups_use_themselves() -> None:
    used = frozenset().union(*(label_names for _, label_names, _ in documented().values()))
    assert not used & {"pid", "tgid", "type", "zone", "stage", "service", "env", "instance", "job", "node", "host", "region"}


@pytest.mark.prometheus
@pytest.mark.parametrize("snapshot", [None, small_snapshot(), largest_snapshot()], ids=["none", "small", "largest"])
def test_promtool_has_nothing_to_say_about_the_endpoint(snapshot: Snapshot | None) -> None:
    body, _ = Renderer(HttpStatistics()).scrape(lambda: snapshot, "", "")
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
