# SPDX-License-Identifier: Apache-2.0
"""Recording rules and alerts: promtool runs their cases; nothing is without a case, a runbook section, a dashboard, or a metric."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "prometheus"
CASES = Path(__file__).with_name("uaptrace.test.yml")
FILES = (FOLDER / "uaptrace.rules.yml", FOLDER / "uaptrace.alerts.yml")
RULES: list[dict[str, Any]] = [rule for file in FILES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
RECORDS = [rule for rule in RULES if "record" in rule]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_accepts_the_rules_and_the_example() -> None:
    promtool("check", "rules", *FILES)
    promtool("check", "config", FOLDER / "prometheus.yml")


@pytest.mark.prometheus
def test_all_rules_give_the_values_of_their_cases() -> None:
    promtool("test", "rules", CASES)


@pytest.mark.prometheus
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert") or rule["record"]))
def test_the_cases_notice_when_a_rule_changes(rule: dict[str, Any], tmp_path: Path) -> None:
    """Each rule by itself is replaced by one that never says anything: a case must fail."""
    cases = yaml.safe_load(CASES.read_text())
    cases["rule_files"] = []
    name = rule.get("alert", "recording rules")
    cases["tests"] = [test for test in cases["tests"] if test["name"] == name]
    assert cases["tests"]
    for file in FILES:
        document = yaml.safe_load(file.read_text())
        for group in document["groups"]:
            for candidate in group["rules"]:
                if candidate == rule:
                    candidate["expr"] = f"({candidate['expr']}) unless on () vector(1)"
        (tmp_path / file.name).write_text(yaml.safe_dump(document))
        cases["rule_files"].append(file.name)
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "cases.yml"], capture_output=True, check=False)
    assert done.returncode != 0


def test_every_recording_rule_has_a_case_with_values() -> None:
    tested = {
        name
        for test in TESTS
        for case in test.get("promql_expr_test", ())
        if case["exp_samples"]
        for name in re.findall(r"[\w:]+", case["expr"])
    }
    assert {rule["record"] for rule in RECORDS} <= tested


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    rests: set[str] = set()
    for test in TESTS:
        for case in test.get("alert_rule_test", ()):
            (fires if case["exp_alerts"] else rests).add(case["alertname"])
    assert fires == rests == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_tells_a_person_what_to_do(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert annotations["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
    section = (ROOT / "docs" / "runbook.md").read_text().split(f"\n## {alert['alert']}\n")[1].split("\n## ")[0]
    for part in ("**Meaning.**", "**Look closer.**", "**Do.**"):
        assert part in section
    uid = re.fullmatch(r"/d/([\w-]+)\?var-instance=\{\{ \$labels\.instance \| urlquery \}\}", annotations["dashboard_url"])
    assert uid is not None
    dashboard = json.loads((ROOT / "grafana" / "dashboards" / f"{uid[1]}.json").read_text())
    assert dashboard["uid"] == uid[1]


def test_rules_use_only_metrics_and_labels_that_the_endpoint_has() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    recorded = {rule["record"] for rule in RECORDS}
    for rule in RULES:
        for name in re.findall(r"[\w:]*uaptrace_[\w:]+", rule["expr"]):
            assert name in documented | recorded, f"{name} in {rule.get('alert') or rule.get('record')}"


def test_the_runbook_has_no_section_without_an_alert() -> None:
    sections = re.findall(r"^## (Uaptrace\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)
