# SPDX-License-Identifier: Apache-2.0
"""Requests out of records: what a traced kernel did becomes what was asked of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.build import GIGA
from uaptrace.abi.events import Flag, Kind, Mapping
from uaptrace.abi.units import Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.updates import Records
from uaptrace.policies.engine_layout import Count, Design, Op, RequestFlag
from uaptrace.policies.requests import Requests, requests_from_updates
from uaptrace.policies.simulation import Simulation

FIELDS = ("kind", "pfn", "nr_pages", "order", "flags", "tid", "aux", "after")


def batch(*rows: dict[str, int]) -> Batch:
    out = np.zeros(len(rows), RECORD)
    for i, row in enumerate(rows):
        out[i]["time_ns"] = 1000 + i
        out[i]["tid"] = out[i]["tgid"] = row.get("tid", 7)
        for name in FIELDS:
            if name in row:
                out[i][name] = row[name]
    return out


def requests(*rows: dict[str, int]) -> Requests:
    return requests_from_updates([Records(batch(*rows))])


def set_map(pfn: int, flag: Flag, **other: int) -> dict[str, int]:
    return {"kind": Kind.SET_DIRECT_MAP, "pfn": pfn, "nr_pages": 1, "flags": flag | other.pop("flags", 0), **other}


def split(pfn: int, nr_pages: int, **other: int) -> dict[str, int]:
    return {"kind": Kind.SPLIT, "pfn": pfn, "nr_pages": nr_pages, **other}


def shown(r: Requests) -> list[tuple[object, ...]]:
    return [(Op(op).name, int(i), int(pfn), int(n)) for op, i, pfn, n in zip(r.op, r.ident, r.pfn, r.nr_pages, strict=True)]


def test_secretmem_on_a_kernel_without_the_series() -> None:
    faults = [set_map(pfn, Flag.INVALID) for pfn in (5, 6)]
    frees = [set_map(pfn, Flag.DEFAULT) for pfn in (5, 6)]
    r = requests(split(0, 262144), split(0, 512), *faults, *frees)
    # The splits are the first page's doing. The process's pool goes with its last page.
    assert shown(r) == [
        ("ALLOCATE", 0, 5, 0), ("ALLOCATE", 1, 6, 0), ("FREE", 0, -1, 0), ("FREE", 1, -1, 0), ("CLOSE", -1, -1, 0),
    ]  # fmt: skip
    assert r.recorded_places
    assert r.flags.tolist()[:2] == [RequestFlag.HIDDEN] * 2
    assert r.time_ns.tolist() == [1002, 1003, 1004, 1005, 1005]


def test_the_none_policy_has_the_splits_that_the_kernel_had() -> None:
    """Places and splits as such a kernel reports them: the replay must count the same, split for split."""
    rows = []
    seen: set[int] = set()
    for i, pfn in enumerate([3, 700, 4, 1025, 262143, 701, 99_999, 100_000]):
        tid = 10 + i % 2
        if not seen:
            rows.append(split(0, 262144, tid=tid))
        if pfn // 512 not in seen:
            rows.append(split(pfn // 512 * 512, 512, tid=tid))
            seen.add(pfn // 512)
        rows.append(set_map(pfn, Flag.INVALID, tid=tid))
    simulation = Simulation(Design.NONE, requests(*rows), GIGA)
    simulation.run()
    assert simulation.count(Count.SPLIT_2M) == len(seen)
    assert simulation.count(Count.SPLIT_1G) == 1
    assert np.flatnonzero(simulation.state.level == Level.K4).tolist() == sorted(seen)


def test_a_split_with_no_change_of_presence_is_a_change_at_that_place() -> None:
    r = requests(split(1024, 512), set_map(5, Flag.INVALID), split(2048, 512))
    assert shown(r) == [("CHANGE_RANGE", -1, 1024, 1), ("ALLOCATE", 0, 5, 0), ("CHANGE_RANGE", -1, 2048, 1)]
    nested = requests(split(0, 262144), split(1024, 512))
    assert shown(nested) == [("CHANGE_RANGE", -1, 1024, 1)]


def test_splits_of_other_mappings_are_left_out() -> None:
    assert len(requests(split(0, 512, flags=Flag.OTHER_MAPPING), split(0, 512, flags=Flag.KERNEL_IMAGE))) == 0


def test_presence_changes_of_ranges() -> None:
    r = requests(
        {"kind": Kind.CPA, "pfn": 512, "nr_pages": 512, "after": Mapping.M2 | Mapping.ABSENT},
        {"kind": Kind.CPA, "pfn": 512, "nr_pages": 512, "after": Mapping.M2},
        set_map(4096, Flag.INVALID | Flag.VALID_NR, nr_pages=16),
        {"kind": Kind.CPA, "pfn": 0, "nr_pages": 1, "after": Mapping.K4, "aux": -12},
    )
    assert shown(r) == [("CHANGE_RANGE", -1, 512, 512), ("RESTORE_RANGE", -1, 512, 512), ("CHANGE_RANGE", -1, 4096, 16)]


def test_a_kernel_with_the_series_tells_of_requests_and_of_its_chunks() -> None:
    r = requests(
        {"kind": Kind.REFILL, "pfn": 512, "order": 9},
        split(512, 512),
        *(set_map(512 + i, Flag.INVALID, flags=Flag.IN_CACHE) for i in range(3)),
        {"kind": Kind.ALLOC, "pfn": 512, "order": 0, "nr_pages": 1},
        {"kind": Kind.ALLOC, "pfn": 514, "order": 1, "nr_pages": 2},
        {"kind": Kind.FREE, "pfn": 512, "order": 0},
        {"kind": Kind.SHRINK, "nr_pages": 512, "aux": 128},
        {"kind": Kind.ALLOC, "order": 0, "flags": Flag.FAILED},
        {"kind": Kind.REFILL, "pfn": 1024, "order": 9},
        {"kind": Kind.REFILL_UNDONE, "pfn": 1024, "order": 9},
    )
    assert shown(r) == [("ALLOCATE", 0, 512, 0), ("ALLOCATE", 1, 514, 0), ("FREE", 0, -1, 0), ("SHRINK", -1, -1, 128)]
    assert r.refills == ((512, 9),)
    assert not r.recorded_places


def test_what_began_before_the_recording_is_counted_as_left_out() -> None:
    r = requests(set_map(9, Flag.DEFAULT), {"kind": Kind.UNCERTAIN, "pfn": 0}, set_map(3, Flag.INVALID), set_map(3, Flag.INVALID))
    assert r.skipped == 3
    assert [row[0] for row in shown(r)] == ["ALLOCATE", "FREE", "CLOSE", "ALLOCATE"]


def test_no_records_make_no_requests() -> None:
    r = requests()
    assert len(r) == 0
    assert r.nr_idents == r.nr_owners == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(list(Kind)), "pfn": st.integers(0, 2**40), "nr_pages": st.sampled_from([0, 1, 512, 2**32 - 1]),
                "order": st.integers(0, 10), "flags": st.integers(0, 2**14 - 1), "tid": st.integers(0, 3),
                "aux": st.sampled_from([0, 1, -5]), "after": st.integers(0, 255),
            }
        ),
        max_size=40,
    ),
    st.sampled_from(list(Design)),
)  # fmt: skip
def test_any_records_make_requests_that_any_design_survives(rows: list[dict[str, int]], design: Design) -> None:
    r = requests(*rows)
    simulation = Simulation(design, r, GIGA)
    simulation.run()
    assert simulation.position == len(r)


def test_records_of_pages_that_cannot_be_are_left_out_and_counted() -> None:
    far = ({"kind": Kind.SET_DIRECT_MAP, "pfn": pfn, "nr_pages": 1, "flags": Flag.INVALID} for pfn in (1 << 35, 1 << 62, (1 << 64) - 1))
    large = {"kind": Kind.CPA, "pfn": 0, "nr_pages": (1 << 32) - 1, "after": Mapping.K4}
    good = {"kind": Kind.SET_DIRECT_MAP, "pfn": 5, "nr_pages": 1, "flags": Flag.INVALID}
    requests = requests_from_updates([Records(batch(*far, large, {"kind": Kind.ALLOC, "pfn": 0, "order": 11}, good))])
    assert requests.skipped == 5
    assert requests.pfn.tolist() == [5]


def test_refills_that_were_undone_are_not_the_kernel_s_chunks() -> None:
    taken = [{"kind": Kind.REFILL, "pfn": pfn, "order": 9} for pfn in (0, 512, 0)]
    undone = [{"kind": Kind.REFILL_UNDONE, "pfn": pfn, "order": 9} for pfn in (0, 77)]
    assert requests_from_updates([Records(batch(*taken, *undone))]).refills == ((512, 9), (0, 9))
