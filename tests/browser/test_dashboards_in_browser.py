# SPDX-License-Identifier: Apache-2.0
"""Grafana's own libraries, in Chromium, show every panel of every dashboard with data from Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import harness, history, judge
from tests.browser.harness import HERE, Job
from tests.dashboards import queries
from tests.dashboards.queries import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.prometheus, pytest.mark.slow]

ALL = queries.load_all()
HOST_DASHBOARDS = sorted(uid for uid in ALL if uid != "uaptrace-fleet")


@dataclass(frozen=True)
class Rendered:
    """What became of each dashboard, and its picture."""

    outcomes: dict[str, dict[str, Any]]
    pictures: Path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rendered]:
    pictures = tmp_path_factory.mktemp("pictures")
    with history.prometheus_with_history(tmp_path_factory.mktemp("prometheus")) as server:
        jobs = [Job("broken", json.loads((HERE / "broken.json").read_text()), pictures / "broken.png")]
        for uid, dashboard in ALL.items():
            chosen = harness.with_hosts(dashboard, [history.HOST]) if uid in HOST_DASHBOARDS else dashboard
            jobs.append(Job(uid, chosen, pictures / f"{uid}.png"))
        jobs.append(Job("as imported", ALL["uaptrace-direct-map"]))
        end_s = history.BEGIN_S + history.LENGTH_S
        yield Rendered(harness.render(jobs, server, history.BEGIN_S, end_s, history.STEP_S), pictures)


@pytest.mark.parametrize("uid", sorted(ALL))
def test_every_target_is_shown(rendered: Rendered, uid: str) -> None:
    assert judge.faults(uid, rendered.outcomes[uid]) == []
    shown = {panel["title"]: len(panel["targets"]) for panel in rendered.outcomes[uid]["report"]["panels"]}
    assert shown == {panel["title"]: len(panel["targets"]) for panel in queries.panels(ALL[uid])}


def test_a_dashboard_as_imported_shows_the_first_host(rendered: Rendered) -> None:
    outcome = rendered.outcomes["as imported"]
    (instance,) = [variable for variable in outcome["report"]["variables"] if variable["name"] == "instance"]
    assert instance["value"] == ["build-1:9970"]
    assert judge.faults("uaptrace-direct-map", outcome) == []


@pytest.mark.parametrize("uid", sorted(ALL))
def test_picture_is_of_a_whole_page(rendered: Rendered, uid: str) -> None:
    with Image.open(rendered.pictures / f"{uid}.png") as picture:
        width, height = picture.size
        assert width == 1600
        assert height > 1000
        # A page that was not drawn, or only half of it, has large parts in one colour.
        for part in range(4):
            crop = picture.crop((0, height * part // 4, width, height * (part + 1) // 4))
            assert len(crop.convert("RGB").getcolors(maxcolors=1 << 24) or ()) > 100, f"part {part} of 4 is blank"


@pytest.mark.parametrize("uid", HOST_DASHBOARDS)
def test_reboot_and_attaching_are_marked(rendered: Rendered, uid: str) -> None:
    events = {one["name"]: one["events"] for one in rendered.outcomes[uid]["report"]["annotations"]}
    assert events == {"Kernel": 1, "uaptrace version": 0, "Attached": 2}


def test_fleet_is_worst_first_with_links_to_the_hosts(rendered: Rendered) -> None:
    panels = {panel["title"]: panel for panel in rendered.outcomes["uaptrace-fleet"]["report"]["panels"]}
    table = panels["Hosts, worst first"]
    hosts = [re.search(r"var-instance=([^&]*)", link)[1] for link in table["links"]]  # type: ignore[index]
    assert [host.split(":")[0].split("%3A")[0] for host in hosts] == ["db-2", "db-1", "build-1", "web-2", "web-1", "idle-1"]
    assert all(link.startswith("/d/uaptrace-direct-map?var-datasource=prometheus&") for link in table["links"])
    assert all("from=" in link and "to=" in link for link in table["links"])


def test_a_fleet_is_asked_for_as_a_whole_and_not_host_by_host(rendered: Rendered) -> None:
    asked = [query["expr"] for query in rendered.outcomes["uaptrace-fleet"]["report"]["queries"]]
    assert len(asked) > 10
    assert not [expr for expr in asked if "db-2" in expr]
    assert any('instance=~".+"' in expr for expr in asked)


def test_the_judge_finds_every_fault_of_a_broken_dashboard(rendered: Rendered) -> None:
    found = judge.faults("broken", rendered.outcomes["broken"])
    for expected in (
        r"variable nobody: has nothing to choose from",
        r"panel syntax error: is Error",
        r"panel syntax error: .*parse error",
        r"panel misspelt metric: target B has no data",
        r"panel undefined variable: target A has no data",
        r"query A: no value for \['host'\]",
        r"panel unknown kind: no panel of the kind flamechart",
        r"annotation bad annotation: ",
    ):
        assert any(re.match(expected, fault) for fault in found), (expected, found)
    assert not any("panel works" in fault or "misspelt metric: target A" in fault for fault in found)


def test_schema_and_units_are_those_of_the_packages() -> None:
    """Written by: node schema.mjs schema > tests/dashboards/schema.json (and units), in the built page's folder."""
    for what in ("schema", "units"):
        assert json.loads((ROOT / f"tests/dashboards/{what}.json").read_text()) == harness.grafana_says(what)


def test_lock_file_names_no_registry() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)
