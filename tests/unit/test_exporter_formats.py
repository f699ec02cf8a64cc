# SPDX-License-Identifier: Apache-2.0
"""Formats and encodings of /metrics: what the client wants most, and the bytes of the library."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from tests.unit.metric_series import OPENMETRICS, series, value
from uaptrace.exporter.negotiation import accepts_gzip, compressed, negotiated
from uaptrace.exporter.rendering import HttpStatistics, Renderer, ScrapeCollector
from uaptrace.model.snapshot import InvariantRow, Snapshot


@pytest.mark.parametrize("snapshot", [None, small_snapshot(), largest_snapshot()])
def test_the_faster_openmetrics_rendering_is_the_librarys_own_byte_by_byte(snapshot: Snapshot | None) -> None:
    class Frozen(ProcessCollector):
        def collect(self) -> list[object]:  # type: ignore[override]
            return []

    collector = ScrapeCollector(snapshot, HttpStatistics(), Frozen(registry=None))
    for accept in (OPENMETRICS, "application/openmetrics-text", "text/plain; version=1.0.0", "*/*", ""):
        library, library_type = choose_encoder(accept)
        ours, content_type = negotiated(accept)
        assert content_type == library_type
        assert ours(collector) == library(collector)


TEXT = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
OPENMETRICS_OLD = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS_1 = OPENMETRICS_OLD + "; escaping=underscores"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # As Prometheus 2.x and 3.x ask.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
            OPENMETRICS_1,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OPENMETRICS_1.replace("underscores", "allow-utf-8"),
        ),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.8,text/plain;q=0.2", TEXT),
        # Weights, and 0 is never.
        ("text/plain;version=0.0.4;q=1, application/openmetrics-text;version=1.0.0;q=0", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0, text/plain;version=0.0.4;q=1", TEXT),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;q=0.9, text/plain;q=0.5", OPENMETRICS_OLD),
        ("text/plain;q=0, */*", OPENMETRICS_OLD),
        ("*/*;q=0.1, application/openmetrics-text;q=0.2", OPENMETRICS_OLD),
        ("application/*, text/*;q=0.5", OPENMETRICS_OLD),
        ("text/plain;version=0.0.4;q=0, text/plain", TEXT_1.partition("; escaping")[0]),
        ("text/plain, application/openmetrics-text", TEXT),
        ("application/openmetrics-text, text/plain", OPENMETRICS_OLD),
        ("Application/OpenMetrics-Text; Version=1.0.0; Q=1, text/plain; q=0.5", OPENMETRICS_1),
        ("application/openmetrics-text;q=2, text/plain;q=0.5", OPENMETRICS_OLD),
        # What is no weight, or no version of ours, is neither taken nor said again.
        ("application/openmetrics-text;q=nan, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=-1, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text; version=banana", TEXT),
        ("application/openmetrics-text; version=1.0.1", TEXT),
        ("application/openmetrics-text; version=2.0.0, text/plain;q=0.1", TEXT),
        ("text/plain; version=9.9.9", TEXT),
        ("application/openmetrics-text; version=1.0.0; escaping=spells", OPENMETRICS_1),
        # Nothing of what there is: the format that everyone reads.
        ("image/png", TEXT),
        ("*/*;q=0", TEXT),
        ("", TEXT),
        (";;;,,,", TEXT),
    ],
)
def test_the_format_is_what_the_client_wants_most(accept: str, expected: str) -> None:
    assert negotiated(accept)[1] == expected


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=80))
def test_no_accept_header_gets_anything_but_a_format_of_ours(accept: str) -> None:
    assert negotiated(accept)[1].partition("; escaping=")[0] in {TEXT, *(t.partition("; escaping=")[0] for t in (TEXT_1, OPENMETRICS_1))}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("GZIP", True),
        ("x-gzip", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("gzip;q=much", False),
        ("gzip;q=nan", False),
        ("gzip;q=0.2, identity;q=0.8", False),
        ("gzip;q=0.8, identity;q=0.2", True),
        ("gzip;q=0.5, *;q=0", True),
    ],
)
def test_gzip_only_for_those_who_take_it(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected
    body, headers = compressed(b"x" * 5000, header)
    assert (dict(headers).get("Content-Encoding") == "gzip") is expected
    assert (gzip.decompress(body) if expected else body) == b"x" * 5000


def test_scrapes_are_counted_with_their_time() -> None:
    ticks = iter([10.0, 10.5, 20.0, 20.25])
    statistics = HttpStatistics()
    renderer = Renderer(statistics, clock=lambda: next(ticks))
    renderer.scrape(small_snapshot, "", "")
    assert (statistics.scrapes, statistics.scrape_seconds) == (1, 0.5)
    body, _ = renderer.scrape(small_snapshot, "", "")
    assert "uaptrace_scrape_duration_seconds_count 1.0\nuaptrace_scrape_duration_seconds_sum 0.5\n" in body.decode()


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_from_the_host_arrives_as_it_was(hostname: str, title: str) -> None:
    base = small_snapshot()
    row = InvariantRow(1, title, 0, 0)
    found = series(replace(base, host=replace(base.host, hostname=hostname), audit=(row,)), OPENMETRICS)
    (host,) = [dict(labels) for name, labels in found if name == "uaptrace_host_info"]
    assert host["hostname"] == hostname
    assert value(found, "uaptrace_audit_invariant_info", invariant="1", title=title) == 1
