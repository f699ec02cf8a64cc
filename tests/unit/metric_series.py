# SPDX-License-Identifier: Apache-2.0
"""What /metrics says, by name and labels. For tests."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from uaptrace.exporter.rendering import HttpStatistics, Renderer
from uaptrace.model.snapshot import Snapshot

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(snapshot: Snapshot | None, accept: str = "") -> str:
    body, _ = Renderer(HttpStatistics()).scrape(lambda: snapshot, accept, "")
    return body.decode()


def series(snapshot: Snapshot | None, accept: str = "") -> Series:
    parse = parse_openmetrics if accept == OPENMETRICS else parse_text
    found: Series = {}
    for family in parse(scrape(snapshot, accept)):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice: Prometheus would refuse the scrape"
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]
