# SPDX-License-Identifier: Apache-2.0
"""Hosts behind an agent: what it sends to a long-term store answers the fleet dashboard, and alerts come through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.store import FAILING, Measured, measure
from tests.dashboards import queries

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

NR_HOSTS = 12
INTERVAL_S = 5
RUNBOOK = (Path(__file__).parents[2] / "docs/runbook.md").read_text()


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(NR_HOSTS, 45, INTERVAL_S)


def test_nothing_that_the_agent_scraped_is_given_up(measured: Measured) -> None:
    assert measured.failed == 0
    assert measured.nr_samples > NR_HOSTS * 200 * 3


def test_the_store_answers_each_panel_of_the_fleet_dashboard(measured: Measured) -> None:
    assert len(measured.panels) == len(queries.targets(queries.load_all()["uaptrace-fleet"]))
    empty = {panel.name for panel in measured.panels if not panel.nr_series}
    may_be = {f"{dashboard} / {panel} / {ref}" for dashboard, panel, ref in queries.MAY_BE_EMPTY}
    assert {name for name in empty if not name.endswith("/ Anno")} <= may_be


def test_an_alert_arrives_with_the_host_and_its_section_of_the_runbook(measured: Measured) -> None:
    (alert, *_) = [alert for alert in measured.alerts if alert["labels"]["alertname"] == "UaptraceSetDirectMapFailing"]
    assert alert["labels"]["instance"] == FAILING
    page, _, section = alert["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert section in {re.sub(r"\W", "", heading).lower() for heading in re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)}
    assert FAILING in alert["annotations"]["summary"]
