# SPDX-License-Identifier: Apache-2.0
"""The committed dashboards can be imported, ask only for what exists, and say what each panel means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import generate
from grafana.generator import trust
from tests.dashboards import queries
from tests.dashboards.queries import ROOT
from uaptrace.abi.hooks import HOOKS, Need

ALL = queries.load_all()
UIDS = sorted(ALL)
HERE = ROOT / "tests/dashboards"
MACROS = queries.macros(range_s=3600, step_s=15, scrape_interval_s=15)
GRID_COLUMNS = 24

DATASOURCE_ANNOTATION_FIELDS = {"expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}
"""Fields of an annotation that belong to the Prometheus data source (@grafana/prometheus reads them): neither schema has them."""


@pytest.fixture(params=UIDS)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ALL[request.param]


def test_all_five_are_there() -> None:
    assert UIDS == ["uaptrace-direct-map", "uaptrace-fleet", "uaptrace-itself", "uaptrace-splits", "uaptrace-unmapped-cache"]


def test_files_are_what_the_generator_writes() -> None:
    assert generate.stale_files() == [], "run: python -m grafana.generate"


def test_a_changed_file_is_called_stale(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in generate.dashboards().items():
        (tmp_path / name).write_text(generate.as_text(made))
    monkeypatch.setattr(generate, "DIRECTORY", tmp_path)
    assert generate.stale_files() == []
    first = sorted(tmp_path.iterdir())[0]
    first.write_text(first.read_text().replace("6h", "7h"))
    (tmp_path / "other.json").write_text("{}")
    assert generate.stale_files() == ["other.json", first.name]


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads((HERE / "schema.json").read_text())
    return schemas


def _errors(instance: Any, schema: Mapping[str, Any]) -> list[str]:
    found = jsonschema.Draft7Validator(schema).iter_errors(instance)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


def _without_datasource_fields(dashboard: Mapping[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(dashboard))
    for annotation in copy["annotations"]["list"]:
        for name in DATASOURCE_ANNOTATION_FIELDS:
            annotation.pop(name, None)
    return copy


def _schema_errors(dashboard: Mapping[str, Any]) -> list[str]:
    schemas = _schemas()
    # Of a panel that is not a row only the types of @grafana/schema for a panel are meant: as it is written there, a
    # panel may be either, and a wrong panel would be reported as a wrong row as well.
    errors = _errors(_without_datasource_fields(dashboard), schemas["dashboard"])
    for panel in queries.panels(dashboard):
        kind = schemas["panels"].get(panel["type"])
        if kind is None:
            errors.append(f"{panel['title']}: no schema for panels of the kind {panel['type']}")
            continue
        errors += [f"{panel['title']}: options/{error}" for error in _partial_errors(panel["options"], kind["options"])]
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        if kind["fieldConfig"] is not None:
            errors += [f"{panel['title']}: custom/{error}" for error in _partial_errors(custom, kind["fieldConfig"])]
        elif custom:
            errors.append(f"{panel['title']}: panels of the kind {panel['type']} have no field options of their own")
    return errors


def _partial_errors(instance: Any, schema: Mapping[str, Any]) -> list[str]:
    """Errors but for options that are not there: Grafana fills in its defaults."""
    found = jsonschema.Draft7Validator(schema).iter_errors(instance)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found if error.validator != "required"]


def test_schema_of_grafana(dashboard: dict[str, Any]) -> None:
    assert _schema_errors(dashboard) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(titel="x"),
        lambda d: d.pop("schemaVersion"),
        lambda d: next(queries.panels(d)).update(gridPos={"x": "0", "y": 0, "w": 1, "h": 1}),
        lambda d: next(queries.panels(d))["options"].update(colourMode="value"),
        lambda d: next(queries.panels(d))["fieldConfig"]["defaults"].update(units="s"),
    ],
)
def test_the_schema_finds_damage(damage: Any) -> None:
    damaged = json.loads(json.dumps(ALL["uaptrace-direct-map"]))
    damage(damaged)
    assert _schema_errors(damaged) != []


def _lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Where ``after`` lacks or changes something of ``before``; what it adds (defaults) is no loss."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            loss
            for key, value in before.items()
            for loss in (
                _lost(value, after[key], f"{path}/{key}") if key in after else ([] if value is None else [f"{path}/{key} is gone"])
            )
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [loss for i, pair in enumerate(zip(before, after, strict=True)) for loss in _lost(*pair, f"{path}/{i}")]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def test_round_trip_through_the_sdk_loses_nothing(dashboard: dict[str, Any]) -> None:
    register_default_plugins()
    source = _without_datasource_fields(dashboard)
    once = json.loads(json.dumps(Dashboard.from_json(source), cls=JSONEncoder))
    assert _lost(source, once) == []
    assert json.loads(json.dumps(Dashboard.from_json(once), cls=JSONEncoder)) == once


def test_units_are_known(dashboard: dict[str, Any]) -> None:
    known = set(json.loads((HERE / "units.json").read_text()))
    for panel in queries.panels(dashboard):
        config = panel["fieldConfig"]
        used = [config["defaults"].get("unit")]
        used += [one["value"] for override in config["overrides"] for one in override["properties"] if one["id"] == "unit"]
        assert None not in used, f"{panel['title']} has no unit"
        assert set(used) <= known, panel["title"]


def test_every_panel_says_what_it_means(dashboard: dict[str, Any]) -> None:
    assert len(dashboard["description"]) > 40
    for panel in queries.panels(dashboard):
        description = panel["description"]
        assert len(description) > 25, panel["title"]
        assert description.endswith("."), panel["title"]
        assert "  " not in description, panel["title"]
        assert panel["title"]


def test_panel_ids_and_references_are_unique(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in queries.panels(dashboard)]
    assert len(set(titles)) == len(titles)
    for panel in queries.panels(dashboard):
        references = [target["refId"] for target in panel["targets"]]
        assert references, panel["title"]
        assert len(set(references)) == len(references), panel["title"]


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0, panel["title"]
        assert place["x"] + place["w"] <= GRID_COLUMNS, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{panel['title']} covers {other}"


def test_no_holes_between_panels(dashboard: dict[str, Any]) -> None:
    """Every row is a full rectangle, so that nothing looks missing."""
    area = sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in dashboard["panels"])
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    assert area == GRID_COLUMNS * height


def test_every_variable_is_defined_and_used(dashboard: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert defined == {"datasource", "instance"}
    instance = next(variable for variable in dashboard["templating"]["list"] if variable["name"] == "instance")
    assert instance["multi"]
    text = json.dumps([dashboard["panels"], dashboard["annotations"], instance["datasource"]])
    used = queries.variables_in(text)
    built_in = MACROS.keys() | {"__value.text", "__url_time_range", "__all"}
    assert used - built_in == defined


def test_only_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    documented = queries.documented_metrics()
    values = {**MACROS, "instance": "host"}
    for target in queries.targets(dashboard):
        for selector in queries.selectors(queries.substitute(target.expr, values)):
            assert selector.name in documented, target
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert "instance" in labels, f"{target}: the host is not chosen by the variable"
            assert labels <= documented[selector.name] | {"instance", "job"}, target
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            selector_text, _ = queries.label_values_query(variable["query"]["query"])
            assert selector_text in documented


def test_times_are_in_the_zone_of_the_browser(dashboard: dict[str, Any]) -> None:
    assert dashboard["timezone"] == "browser"


def test_data_source_is_the_chosen_one(dashboard: dict[str, Any]) -> None:
    text = json.dumps(dashboard)
    assert text.count('"uid"') - 1 == text.count('"uid": "${datasource}"')


def test_links_lead_to_dashboards_that_exist() -> None:
    for dashboard in ALL.values():
        for panel in queries.panels(dashboard):
            for override in panel["fieldConfig"]["overrides"]:
                for links in (one["value"] for one in override["properties"] if one["id"] == "links"):
                    for link in links:
                        assert link["url"].removeprefix("/d/").split("?")[0] in ALL
                        assert "var-instance=${__value.text}" in link["url"]


def test_alerts_lead_to_dashboards_that_exist() -> None:
    rules = yaml.safe_load((ROOT / "grafana/prometheus/uaptrace.alerts.yml").read_text())
    links = [rule["annotations"]["dashboard_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert links
    for link in links:
        assert link.removeprefix("/d/").split("?")[0] in ALL


def test_hooks_that_matter_are_those_of_the_loader() -> None:
    by_need = {need: {hook.name.lower() for hook in HOOKS if hook.need is need} for need in Need}
    assert set(trust.MAP_HOOKS.split("|")) == by_need[Need.DIRECT_MAP]
    assert set(trust.CACHE_HOOKS.split("|")) == by_need[Need.SERIES]


def test_host_dashboards_mark_boots_and_attaching() -> None:
    for uid, dashboard in ALL.items():
        names = [annotation["name"] for annotation in dashboard["annotations"]["list"]]
        assert names == ([] if uid == "uaptrace-fleet" else ["Kernel", "uaptrace version", "Attached"])


def test_exceptions_are_of_targets_that_exist() -> None:
    existing = {(target.dashboard, target.panel, target.ref_id) for dashboard in ALL.values() for target in queries.targets(dashboard)}
    assert queries.MAY_BE_EMPTY.keys() <= existing


def test_provisioning_finds_the_dashboards() -> None:
    provisioning = ROOT / "grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/uaptrace.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].endswith("/dashboards")
    (source,) = yaml.safe_load((provisioning / "datasources/uaptrace.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    # Without it Grafana takes 15 s for the scrape interval, and rates over a shorter window than two scrapes are empty.
    assert source["jsonData"]["timeInterval"] == "15s"
