# SPDX-License-Identifier: Apache-2.0
"""What a report says is what the model says, and what is not known or was lost is said, not smoothed over."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.unit.recording_pieces import task
from tests.unit.simulated_host import host_updates
from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.units import Level
from uaptrace.commands.progress_bar import progress_bar
from uaptrace.commands.report import report
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CountersReading, MapReading, Records, Update
from uaptrace.recording import RecordingWriter
from uaptrace.reports.page.figures import comparison, differences, figures, sentence
from uaptrace.reports.page.flame import difference, difference_graph, tree
from uaptrace.reports.page.gather import Recorded, gather
from uaptrace.reports.page.page import page
from uaptrace.reports.page.texts import report_to_json, report_to_markdown


def write(path: Path, updates: list[Update]) -> Path:
    with RecordingWriter(path, sync=False) as writer:
        for update in updates:
            writer.write(update)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``plain.rec`` and ``series.rec``: the same requests on a kernel without and with the unmapped cache."""
    path = tmp_path_factory.mktemp("report")
    write(path / "plain.rec", host_updates(series=False, seconds=6))
    write(path / "series.rec", host_updates(series=True, seconds=6))
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> Recorded:
    return gather(folder / "plain.rec")


@pytest.fixture(scope="module")
def series(folder: Path) -> Recorded:
    return gather(folder / "series.rec")


def last(updates: list[Update]) -> Snapshot:
    state = KernelState()
    for update in updates:
        state.update(update)
    return state.snapshot(0, 0.0)


def test_figures_are_those_of_the_model(plain: Recorded) -> None:
    recorded = plain
    expected = last(host_updates(series=False, seconds=6))
    said = {figure.key: figure.value for figure in figures(recorded)}
    assert said["splits_2m"] == expected.splits.by_level(Level.M2) > 100
    assert said["splits_1g"] == expected.splits.by_level(Level.G1) > 0
    assert said["large_share"] == expected.direct_map.large_share
    assert said["regions_stranded"] == expected.direct_map.nr_regions_stranded
    assert said["cache_requests"] is None
    assert recorded.end.exactness.exact
    # All along: what is present and absent is all of the direct map, and splits only grow.
    totals = {sum(p.present_bytes.values()) + (p.absent_bytes or 0) for p in recorded.points if p.present_bytes}
    assert totals == {expected.direct_map.total_bytes}
    counts = [sum(p.splits.values()) for p in recorded.points]
    assert counts == sorted(counts)
    assert counts[-1] == said["splits_2m"] + said["splits_1g"]
    assert recorded.begin.direct_map.large_share is not None


def test_two_recordings_are_compared(plain: Recorded, series: Recorded) -> None:
    by_key = {d.first.key: d for d in differences(plain, series)}
    assert by_key["splits_2m"].verdict == "better"
    assert by_key["large_share"].verdict == "better"
    assert by_key["cache_requests"].change is None
    assert "fewer splits" in comparison(plain, series)
    assert {d.first.key: d for d in differences(series, plain)}["splits_2m"].verdict == "worse"
    assert {d.text for d in differences(plain, plain)} == {"the same"}


def test_the_flame_graph_adds_up(series: Recorded) -> None:
    root = tree(series.end)
    assert root.count == sum(series.end.splits.by_cause.values())
    nodes = [root]
    while nodes:
        node = nodes.pop()
        assert not node.children or sum(child.count for child in node.children.values()) == node.count
        nodes += node.children.values()
    assert "load_module" in str(root)


def test_the_difference_of_two_flame_graphs_is_that_of_the_two(plain: Recorded, series: Recorded) -> None:
    root = difference(plain.end, series.end)
    assert (root.before, root.after) == (tree(plain.end).count, tree(series.end).count)
    nodes = [root]
    while nodes:
        node = nodes.pop()
        for side in ("before", "after", "width"):
            assert not node.children or sum(getattr(child, side) for child in node.children.values()) == getattr(node, side)
        assert node.width >= max(node.before, node.after)
        nodes += node.children.values()
    other = difference(series.end, plain.end)
    assert (other.before, other.after, other.width) == (root.after, root.before, root.width)
    assert {box.class_ for box in difference_graph(series.end, series.end).boxes} == {"same"}


@pytest.mark.parametrize("files", [["series.rec"], ["plain.rec", "series.rec"]])
def test_the_page_needs_nothing_else(folder: Path, tmp_path: Path, files: list[str]) -> None:
    out = tmp_path / "report.html"
    result = CliRunner().invoke(report, [*(str(folder / f) for f in files), "-o", str(out)])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert len(text) < 2_000_000
    assert "default-src 'none'" in unescape(text)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)[^\"']+", text)
    assert not re.findall(r"@import|url\((?!data:)", text)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_names_of_the_traced_host_are_text_not_markup(tmp_path: Path) -> None:
    updates = host_updates(seconds=3)
    evil = task(500, b"<img src=x><b>")
    updates.append(Records(np.concatenate([evil, evil])))
    recorded = gather(write(tmp_path / "a|b`<i>.rec", updates))
    assert "<img src=x" not in page([recorded])
    assert "&lt;img src=x&gt;" in page([recorded])
    markdown = report_to_markdown([recorded])
    assert "a\\|b\\`&lt;i&gt;.rec" in markdown
    assert "<i>" not in markdown


def test_losses_and_doubt_are_said_in_every_form(tmp_path: Path) -> None:
    updates = host_updates(seconds=3)
    final = updates[-1]
    assert isinstance(final, CountersReading)
    words = final.words.copy()
    words[Counter.LOST + Kind.SET_DIRECT_MAP] = 23
    updates.append(replace(final, words=words, time_ns=final.time_ns + 1000))
    recorded = gather(write(tmp_path / "lossy.rec", updates))
    assert not recorded.end.exactness.exact
    html, markdown, said = page([recorded]), report_to_markdown([recorded]), report_to_json([recorded])
    assert ">not exact<" in html
    assert "23 events lost" in html
    assert "23 events found no room in the ring (set_direct_map 23)" in html
    assert "not exact" in markdown
    assert "23 events lost" in markdown
    assert said["recordings"][0]["exact"] is False
    assert said["recordings"][0]["figures"]["events_lost"] == 23


def test_a_map_that_was_not_read_is_not_drawn_as_empty(tmp_path: Path) -> None:
    updates: list[Update] = [u for u in host_updates(seconds=3) if not isinstance(u, MapReading)]
    recorded = gather(write(tmp_path / "a.rec", updates))
    assert "there is no map to show" in page([recorded])
    said = report_to_json([recorded])["recordings"][0]
    assert said["figures"]["large_share"] is None
    assert {p["present_bytes"] is None for p in said["points"]} == {True}
    assert "its layout is not known" in sentence(recorded)


def test_a_recording_of_nothing_but_its_start_is_a_report_too(tmp_path: Path) -> None:
    recorded = gather(write(tmp_path / "a.rec", host_updates(seconds=1)[:1]))
    assert "<!doctype html>" in page([recorded])
    assert "no invariant" not in report_to_markdown([recorded])
    json.dumps(report_to_json([recorded]), allow_nan=False)


def test_markdown_and_json_for_ci(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    markdown = runner.invoke(report, [str(folder / "plain.rec"), str(folder / "series.rec"), "--format", "md"])
    assert markdown.exit_code == 0
    assert re.search(r"^\| 2M mappings split \| [\d,]+ \| [\d,]+ \| .*better \|$", markdown.output, re.M)
    out = tmp_path / "report.json"
    assert runner.invoke(report, [str(folder / "plain.rec"), "-o", str(out)]).exit_code == 0
    said = json.loads(out.read_text())
    assert said["schema"] == 1
    assert said["recordings"][0]["figures"]["splits_2m"] > 0
    assert len(said["recordings"][0]["points"]) == 240


def test_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("yesterday's report")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    failed = CliRunner().invoke(report, [str(folder / "plain.rec"), str(foreign), "-o", str(out)])
    assert isinstance(failed.exception, RecordingError)
    assert out.read_text() == "yesterday's report"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign", "report.html"]
    nowhere = CliRunner().invoke(report, [str(folder / "plain.rec"), "-o", str(tmp_path / "missing" / "r.html")])
    assert isinstance(nowhere.exception, UsageError)


def test_what_cannot_be_meant_is_said(folder: Path) -> None:
    recording = str(folder / "plain.rec")
    for arguments, said in (([recording] * 3, "two to compare"), ([recording], "-o report.html")):
        failed = CliRunner().invoke(report, arguments)
        assert isinstance(failed.exception, UsageError)
        assert said in str(failed.exception)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds_each", "drawn"), [(0.1, False), (0.9, True)])
def test_a_bar_is_drawn_only_for_a_wait_of_two_seconds(monkeypatch: pytest.MonkeyPatch, seconds_each: float, drawn: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    now = [0.0]
    with progress_bar("reading", clock=lambda: now[0]) as progress:
        for done in range(1, 11):
            now[0] += seconds_each
            progress(done, 10)
    assert ("reading" in terminal.getvalue()) == drawn
    assert ("100%" in terminal.getvalue()) == drawn
