# SPDX-License-Identifier: Apache-2.0
"""A script that reads uaptrace's JSON finds every key documented, exact sums, and null where nothing is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit import view_snapshots as snapshots
from uaptrace.abi.units import Level
from uaptrace.model.snapshot import Cause
from uaptrace.reports.map_picture import MapPicture
from uaptrace.reports.text import GROUPS, audit_to_json, snapshot_to_json, splits_to_json
from uaptrace.views.rates import rates_between

DOCS = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
DYNAMIC = {
    "loss.lost_by_kind": "kind",
    "operations": "operation",
    "latency": "operation",
    "counters": "counter",
    "by_cause": "cause",
    "silence.found": "reason",
}


def documented() -> set[str]:
    """Keys of all tables of the page."""
    return set(re.findall(r"^\| `([^`]+)` \|", DOCS, re.MULTILINE))


def key_paths(value: Any, path: str = "") -> set[str]:
    """Every key of a document that has something in it, in the notation of docs/json.md."""
    if isinstance(value, dict):
        out: set[str] = set()
        for key, inner in value.items():
            name = f"{{{DYNAMIC[path]}}}" if path in DYNAMIC else key
            out |= key_paths(inner, f"{path}.{name}" if path else name)
        return out
    if isinstance(value, list):
        return set().union(*(key_paths(v, f"{path}[]") for v in value)) if value else {f"{path}[]"}
    return {path}


def normal(path: str) -> str:
    """Parts that are the same in several documents are described once."""
    for prefix in ("splits.rows[]", "audit.invariants[]", "map[]", "splits"):
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            return {"splits.rows[]": "groups[]", "audit.invariants[]": "invariants[]", "map[]": "ranges[]", "splits": ""}[prefix] + rest
    return path


def is_documented(path: str, keys: set[str]) -> bool:
    path = normal(path).lstrip(".").replace("by_cause.unmapped_alloc", "by_cause.{cause}")
    path = re.sub(r"^by_cause\.\w+\.", "by_cause.{cause}.", path)
    return path in keys or f"{path}[]" in keys or any(key.startswith((f"{path}.", f"{path}[].")) for key in keys)


def all_documents() -> list[dict[str, Any]]:
    full = snapshots.broken_audit(snapshots.silent(snapshots.inexact(snapshots.make(61))))
    table = full.regions
    assert table is not None
    pfn = int(np.flatnonzero(table.nr_absent)[0]) * 512
    states = np.ones(512, np.uint8)
    states[3] = 2
    return [
        snapshot_to_json(full, snapshots.make(60)),
        audit_to_json(full),
        *(splits_to_json(full, group) for group in GROUPS),
        MapPicture(full).to_json(),
        MapPicture(full, around_pfn=pfn, pages=(pfn, states)).to_json(),
    ]


def test_every_key_that_is_printed_is_documented() -> None:
    keys = documented()
    for document in all_documents():
        missing = sorted(path for path in key_paths(document) if not is_documented(path, keys))
        assert missing == []


def test_every_documented_key_is_printed() -> None:
    printed = set().union(*(key_paths(d) for d in all_documents()))
    printed |= {normal(p).lstrip(".") for p in printed}
    printed = {re.sub(r"^by_cause\.\w+\.", "by_cause.{cause}.", p) for p in printed}
    without_lists = {p.removesuffix("[]") for p in printed}
    for key in documented():
        plain = key.removesuffix("[]")
        assert plain in without_lists or any(p.startswith((f"{plain}.", f"{plain}[]")) for p in printed), key


def test_documents_are_plain_json() -> None:
    for document in all_documents():
        assert json.loads(json.dumps(document)) == document


def test_the_keys_that_scripts_rely_on() -> None:
    document = snapshot_to_json(snapshots.make(60))
    assert document["exact"] is True
    assert document["lost"] == 0
    assert set(document["direct_map"]) >= {"4k", "2m", "1g", "absent"}
    assert set(document["splits"]) >= {"2m", "1g", "by_cause", "unexplained", "during_attach"}
    assert all(len(document["unmapped_cache"][row]) == 11 for row in ("free", "cached", "released"))
    assert document["counters"]["cache_alloc"] == 600


def test_splits_by_level_are_the_causes_and_the_unexplained() -> None:
    snapshot = snapshots.make(60)
    snapshot = replace(snapshot, splits=replace(snapshot.splits, unexplained={Level.M2: 5, Level.G1: 0}))
    splits = snapshot_to_json(snapshot)["splits"]
    for level in ("2m", "1g"):
        assert splits[level] == sum(c[level] for c in splits["by_cause"].values()) + splits["unexplained"][level]
    assert set(splits["by_cause"]) == {c.value for c in Cause}


def test_a_kernel_without_the_series_has_null_and_not_zero() -> None:
    document = snapshot_to_json(snapshots.make(61, series=False), snapshots.make(60, series=False))
    assert document["unmapped_cache"] is None
    assert document["shrinker"] is None
    assert document["rates"]["allocations"] is None
    assert document["rates"]["hits"] is None
    assert document["rates"]["set_invalid"] is not None


def test_nothing_known_is_null() -> None:
    document = snapshot_to_json(snapshots.empty())
    assert document["exact"] is False
    assert document["reasons"]
    assert {document["direct_map"][k] for k in ("4k", "2m", "1g", "absent", "total", "large_share", "kernel")} == {None}
    assert document["rates"] is None
    assert document["host"]["hostname"] is None
    assert document["map"] is None
    assert audit_to_json(snapshots.empty())["clean"] is None


def test_meminfo_without_a_1g_line_is_null() -> None:
    snapshot = snapshots.make(60)
    view = replace(snapshot.direct_map, kernel_bytes={Level.K4: 4096, Level.M2: 0})
    assert snapshot_to_json(replace(snapshot, direct_map=view))["direct_map"]["kernel"] == {"4k": 4096, "2m": 0, "1g": None}


def test_audit_says_clean_or_not() -> None:
    assert audit_to_json(snapshots.make(60))["clean"] is True
    broken = audit_to_json(snapshots.broken_audit(snapshots.make(60)))
    assert broken["clean"] is False
    assert broken["violated"] == 13
    assert [(r["number"], r["violated"]) for r in broken["invariants"] if r["violated"]] == [(2, 13)]
    assert broken["invariants"][1]["first"][0]["block"] == 262148 // 512


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "row"])
def test_groups_keep_every_split(group: Any) -> None:
    snapshot = snapshots.make(60)
    document = splits_to_json(snapshot, group)
    assert document["complete"] is True
    for level in (Level.M2, Level.G1):
        expected = sum(n for (lv, _), n in snapshot.splits.by_cause.items() if lv == level)
        assert sum(g[level.label] for g in document["groups"]) == expected


def test_by_cause_is_whole_although_the_ledger_dropped_rows() -> None:
    snapshot = replace(snapshots.make(60), split_rows=snapshots.make(60).split_rows[:1])
    assert splits_to_json(snapshot, "process")["complete"] is False
    by_cause = splits_to_json(snapshot, "cause")
    assert by_cause["complete"] is True
    assert {g["cause"]: g["2m"] for g in by_cause["groups"]}["module"] == 12
    assert {g["cause"]: g["first_time_ns"] for g in by_cause["groups"]}["module"] is None


def test_rates_are_differences_over_the_time_between() -> None:
    rates = rates_between(snapshots.make(60), snapshots.make(64))
    assert rates is not None
    assert rates.interval_s == 4.0
    assert rates.allocations == 64 * 40 / 4
    assert rates.events == 200 * 40 / 4


def test_no_rates_backwards_or_across_a_boot() -> None:
    earlier, later = snapshots.make(60), snapshots.make(61)
    assert rates_between(None, later) is None
    assert rates_between(later, earlier) is None
    assert rates_between(later, later) is None
    assert rates_between(replace(earlier, host=replace(earlier.host, boot_id="other")), later) is None
    assert rates_between(replace(earlier, start_time_ns=1), later) is None


def test_a_counter_that_began_anew_has_no_rate() -> None:
    earlier = snapshots.make(60)
    more = replace(earlier, loss=replace(earlier.loss, events_taken=10**9))
    rates = rates_between(more, snapshots.make(61))
    assert rates is not None
    assert rates.events is None
    assert rates.allocations == 640
