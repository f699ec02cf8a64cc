# SPDX-License-Identifier: Apache-2.0
"""A snapshot that went over the wire is the snapshot that was sent, field by field and bit by bit."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.unit.exporter_snapshots import largest_snapshot, small_snapshot
from uaptrace.model.snapshot import RegionTable, Snapshot
from uaptrace.model.snapshot_json import MAX_ARRAY_BYTES, MAX_VALUES, SnapshotFormatError, decode_snapshot, encode_snapshot
from uaptrace.reports.documents import snapshot_to_json
from uaptrace.reports.text import snapshot_to_text


def assert_same(left: Any, right: Any, where: str = "snapshot") -> None:
    """Equal in value and in type, all the way down; arrays with dtype and shape."""
    if is_dataclass(left):
        assert type(left) is type(right), where
        for field in fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name), f"{where}.{field.name}")
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert np.array_equal(left, right), where
    elif isinstance(left, tuple):
        assert isinstance(right, tuple), where
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif hasattr(left, "items"):
        assert list(left) == list(right), where
        assert [type(key) for key in left] == [type(key) for key in right], where
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key}]")
    else:
        assert (type(left), left) == (type(right), right), where


@st.composite
def region_tables(draw: st.DrawFn) -> RegionTable:
    length = draw(st.integers(0, 40))
    return RegionTable(
        draw(hnp.arrays(np.uint8, length, elements=st.integers(0, 3))),
        draw(hnp.arrays(np.uint16, length)),
        draw(hnp.arrays(np.uint16, length)),
        draw(hnp.arrays(np.bool_, length)),
    )


st.register_type_strategy(RegionTable, region_tables())
st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))
st.register_type_strategy(float, st.floats(-2e11, 2e11))


@settings(max_examples=60, deadline=None)
@given(st.from_type(Snapshot))
def test_any_snapshot_survives(snapshot: Snapshot) -> None:
    assert_same(snapshot, decode_snapshot(encode_snapshot(snapshot)))


@pytest.mark.parametrize("snapshot", [small_snapshot(), largest_snapshot(), largest_snapshot(nr_regions=4096)])
def test_real_shapes_survive(snapshot: Snapshot) -> None:
    assert_same(snapshot, decode_snapshot(encode_snapshot(snapshot)))


def test_decoded_arrays_cannot_be_changed_by_a_view() -> None:
    regions = decode_snapshot(encode_snapshot(largest_snapshot(nr_regions=8))).regions
    assert regions is not None
    with pytest.raises(ValueError, match="read-only"):
        regions.level[0] = 1


def test_numbers_that_the_model_left_as_numpy_arrive_as_plain_ones() -> None:
    odd = replace(small_snapshot(), time_ns=np.uint64(2**63 + 1))  # type: ignore[arg-type,unused-ignore]
    assert decode_snapshot(encode_snapshot(odd)).time_ns == 2**63 + 1


def test_an_older_and_a_newer_side_understand_each_other() -> None:
    document = json.loads(encode_snapshot(small_snapshot()))
    document["a_field_of_a_later_version"] = {"x": 1}
    document["host"]["another"] = 2
    del document["reconcile_error_bytes"]
    del document["loss"]["contexts_lost"]
    assert_same(small_snapshot(), decode_snapshot(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a snapshot"),
        (b"\xff\xfe", "not a snapshot"),
        (b"[" * 100_000, "not a snapshot"),
        (b"<html>", "not a snapshot"),
        (b"[]", "is something else listening"),
        (b"{}", "is something else listening"),
        (b'{"schema": 99}', "schema 99"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not a snapshot"),
        (b'{"schema": "' + b"x" * 5000 + b'"}', "schema 'xxx"),
        (b"[" + b"[]," * MAX_VALUES + b"[]]", "more than 1048576 values"),
        (b'{"a":' * 100_000, "not a snapshot"),
    ],
)
def test_what_is_not_a_snapshot_is_said_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(SnapshotFormatError, match=message) as caught:
        decode_snapshot(data)
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_damaged_snapshot_never_gives_anything_but_that_error(data: st.DataObject) -> None:
    snapshot = largest_snapshot(nr_regions=16)
    document = json.loads(encode_snapshot(replace(snapshot, processes=snapshot.processes[:1], split_rows=snapshot.split_rows[:1])))
    paths = _paths(document)
    path = data.draw(st.sampled_from(paths))
    wrong = data.draw(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=4)
        | st.sampled_from([[1], {"x": 1}, 10**400, -(10**400)])
    )
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = wrong
    try:
        decoded = decode_snapshot(json.dumps(document).encode())
    except SnapshotFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017  # both outcomes are right: some values may be replaced
    else:
        # What is taken can be shown.
        assert snapshot_to_text(decoded, width=80)
        assert json.dumps(snapshot_to_json(decoded))


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    found = [prefix] if prefix and prefix != ("schema",) else []
    for key, child in children:
        found += _paths(child, (*prefix, key))
    return found


def test_an_array_that_unpacks_to_more_than_it_announces_is_refused() -> None:
    document = json.loads(encode_snapshot(largest_snapshot(nr_regions=1000)))
    document["regions"]["level"]["length"] = 10
    with pytest.raises(SnapshotFormatError, match="another length"):
        decode_snapshot(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        (("latency", "cache_hit", "buckets", 0), 10**400, "out of range"),
        (("time_ns",), -(2**63) - 1, "out of range"),
        (("wall_time_s",), float("nan"), "out of range"),
        (("wall_time_s",), float("inf"), "out of range"),
        (("wall_time_s",), 10**400, "out of range"),
        (("regions", "level", "length"), MAX_ARRAY_BYTES + 1, "array of"),
        (("regions", "level", "length"), -1, "array of"),
        (("regions", "level"), {"dtype": "u1", "length": 0, "zlib": "eJwDAAAAAAE="}, "differ in length"),
        (("regions", "level"), None, "damaged"),
    ],
)
def test_numbers_that_no_state_has_are_refused(path: tuple[Any, ...], wrong: object, message: str) -> None:
    document = json.loads(encode_snapshot(largest_snapshot(nr_regions=8)))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    assert path[-1] in parent or isinstance(parent, list)
    parent[path[-1]] = wrong
    with pytest.raises(SnapshotFormatError, match=message):
        decode_snapshot(json.dumps(document).encode())


def test_a_level_that_there_is_not_is_refused() -> None:
    snapshot = largest_snapshot(nr_regions=8)
    assert snapshot.regions is not None
    odd = replace(snapshot, regions=replace(snapshot.regions, level=np.full(8, 77, np.uint8)))
    with pytest.raises(SnapshotFormatError, match="an invalid level"):
        decode_snapshot(encode_snapshot(odd))
