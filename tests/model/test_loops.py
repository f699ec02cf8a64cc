# SPDX-License-Identifier: Apache-2.0
"""The compiled loops and the same text as Python do the same to the last byte, and the compiled ones are there where they can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plain import CAN_COMPILE, as_python
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import PAGES_PER_2M
from uaptrace.abi.wire import RECORD, RING_RECORD, Batch
from uaptrace.model import loops, unmapped_cache

NR_REGIONS = 6


PLAIN = as_python(loops)


def test_the_loops_are_compiled_where_they_can_be() -> None:
    assert not PLAIN.is_compiled()
    if CAN_COMPILE:
        assert loops.is_compiled(), "install again (pip install -e .): the loops are not compiled, though a C compiler is there"


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Records of every kind, most of them of blocks that can be, in one of the two layouts."""
    nr = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch = np.zeros(nr, draw(st.sampled_from([RECORD, RING_RECORD])))
    usual = [Kind.REFILL, Kind.ALLOC, Kind.FREE, Kind.RELEASE, Kind.REFILL_UNDONE, Kind.SET_DIRECT_MAP, Kind.SPLIT, Kind.TASK, Kind.STACK]
    batch["kind"] = np.where(rng.random(nr) < 0.95, rng.choice(np.array(usual), nr), rng.integers(0, 256, nr))
    order = rng.integers(0, 11, nr)
    batch["order"] = np.where(rng.random(nr) < 0.95, order, 200)
    batch["nr_pages"] = np.where(rng.random(nr) < 0.95, 1 << order, rng.choice(np.array([0, 3, 5000, 2**32 - 1]), nr))
    batch["pfn"] = np.where(rng.random(nr) < 0.95, rng.integers(0, NR_REGIONS * PAGES_PER_2M, nr), rng.choice(np.array([2**40, 2**62]), nr))
    batch["flags"] = rng.choice(np.array([0, int(Flag.FAILED), int(Flag.IN_CACHE)]), nr)
    batch["aux"] = rng.integers(-2, 3, nr)
    batch["tid"] = rng.integers(1, 5, nr)
    batch["tgid"] = np.where(rng.random(nr) < 0.97, rng.integers(0, 9, nr), rng.choice(np.array([70000, 2**32 - 1]), nr))
    return batch


def cache_after(module: Any, batch: Batch) -> list[Any]:
    """All that apply_cache() changes and says, with rows given as it asks for them."""
    slot = np.zeros(4, np.int32)
    pages, dirty = np.zeros(64 * PAGES_PER_2M, np.uint8), np.zeros(64, np.uint8)
    tally = np.zeros((16, 16), np.int64)
    ints, bytes_ = [np.zeros(len(batch), np.int64) for _ in range(4)], [np.zeros(len(batch), np.uint8) for _ in range(2)]
    view = module.view
    found = module.Found(*(view(array) for array in (*ints, *bytes_)))
    fields = module.Fields(batch)
    at, stops = 0, []
    while at < len(batch):
        tables = (unmapped_cache._RESULT_OF, unmapped_cache._VERDICT_OF)
        at = module.apply_cache(fields, at, len(batch), view(slot), view(pages), view(dirty), *tables, view(tally), found)
        stops.append(at)
        if at < len(batch):
            out = np.zeros(3 * (len(batch) - at), np.int64)
            n = module.regions_without_slot(fields, at, len(batch), view(slot), tables[0], view(out))
            missing = np.unique(out[:n])
            assert len(missing)
            slot = np.concatenate([slot, np.zeros(max(0, int(missing.max()) + 1 - len(slot)), np.int32)])
            slot[missing] = slot.max() + 1 + np.arange(len(missing))
    return [stops, found.nr_found, found.nr_unclean, found.nr_bad, slot, pages, dirty, tally, *ints, *bytes_]


@settings(max_examples=150, deadline=None)
@given(batches())
def test_pages_of_the_cache(batch: Batch) -> None:
    good = batch["pfn"] < 2**35  # a table of all regions is not what is tried here
    batch = batch[good | (batch["pfn"] >> np.uint64(9) >= 1 << 26)]
    for one, two in zip(cache_after(loops, batch), cache_after(PLAIN, batch), strict=True):
        assert np.array_equal(one, two)


@settings(max_examples=150, deadline=None)
@given(batches())
def test_sums_by_process(batch: Batch) -> None:
    def after(module: Any) -> tuple[int, Any]:
        row_of, sums = np.arange(65536, dtype=np.int32), np.zeros((65536, loops.NR_SUMS), np.int64)
        stopped = module.count_by_process(module.Fields(batch), 0, len(batch), 1 << 22, module.view(row_of), module.view(sums))
        return stopped, sums

    (stopped, sums), (plain_stopped, plain_sums) = after(loops), after(PLAIN)
    assert stopped == plain_stopped
    assert np.array_equal(sums, plain_sums)
    done = batch[:stopped]
    told = done[(done["kind"] != Kind.TASK) & (done["kind"] != Kind.STACK)]
    assert sums[:, loops.EVENTS].sum() == len(told)
    allocated = told[(told["kind"] == Kind.ALLOC) & ((told["flags"] & Flag.FAILED) == 0)]
    assert sums[:, loops.ALLOCATED].sum() == allocated["nr_pages"].sum(dtype=np.int64)


@settings(max_examples=150, deadline=None)
@given(batches(), st.lists(st.integers(1, 6), max_size=4, unique=True))
def test_ends_of_refills(batch: Batch, carried: list[int]) -> None:
    def after(module: Any) -> list[Any]:
        nr = int(np.count_nonzero(batch["kind"] == Kind.REFILL))
        tids = np.array([*carried, *[0] * nr], np.int64)
        refs = -1 - np.arange(len(tids))
        index, ends, carried_ends = np.full(nr, -1), np.full(nr, len(batch)), np.full(len(carried), -1)
        views = [module.view(array) for array in (tids, refs)], [module.view(array) for array in (index, ends, carried_ends)]
        assert module.refill_ends(module.Fields(batch), *views[0], len(carried), *views[1]) == 0
        return [index, ends, carried_ends]

    for one, two in zip(after(loops), after(PLAIN), strict=True):
        assert np.array_equal(one, two)
    index, ends, carried_ends = after(loops)
    # As the words say it: the next record of the same task that tells.
    tells = (batch["kind"] == Kind.REFILL) | (batch["kind"] == Kind.REFILL_UNDONE)
    tells |= (batch["kind"] == Kind.ALLOC) & ((batch["flags"] & Flag.FAILED) == 0)
    for position, end in zip(index.tolist(), ends.tolist(), strict=True):
        later = [i for i in range(position + 1, len(batch)) if tells[i] and batch["tid"][i] == batch["tid"][position]]
        assert end == (later[0] if later else len(batch))
    for tid, end in zip(carried, carried_ends.tolist(), strict=True):
        of_task = [i for i in range(len(batch)) if tells[i] and batch["tid"][i] == tid]
        assert end == (of_task[0] if of_task else -1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 30), st.integers(-1, 40), st.integers(0, 20), st.integers(1, 8)), max_size=12),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12),
)
def test_refills_under_way(refills: list[tuple[int, int, int, int]], asked: list[tuple[int, int]]) -> None:
    columns = [*np.array(sorted(refills), np.int64).reshape(-1, 4).T, *np.array(sorted(asked), np.int64).reshape(-1, 2).T]

    def after(module: Any) -> list[bool]:
        out = np.zeros(len(asked), np.uint8)
        given = [np.ascontiguousarray(column) for column in columns]
        module.refills_under_way(*map(module.view, given), module.view(out), module.view(np.zeros(len(refills), np.int64)))
        return [bool(found) for found in out]

    said = [any(b < record <= e and first <= pfn < first + n for b, e, first, n in refills) for record, pfn in sorted(asked)]
    assert after(loops) == after(PLAIN) == said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 1 | 128, 2 | 128, 3 | 128]), max_size=80), st.integers(0, 2**32))
def test_figures_of_the_direct_map(codes: list[int], seed: int) -> None:
    levels = np.array(codes, np.uint8)
    rng = np.random.default_rng(seed)
    slot = rng.integers(0, 2, len(levels)).astype(np.int32)
    was_split, was_absent = (rng.integers(0, 2, len(levels)).astype(np.uint8) for _ in range(2))
    whole = np.isin(np.arange(256), (2, 3)).astype(np.uint8)

    def after(module: Any) -> tuple[int, list[int]]:
        counts = np.zeros(258, np.int64)
        arrays = (levels, slot, was_split, was_absent)
        end = module.sum_levels(*(module.view(a) for a in arrays), 1, module.view(whole), module.view(counts))
        return end, counts.tolist()

    end, counts = after(loops)
    assert (end, counts) == after(PLAIN)
    assert counts[:256] == np.bincount(levels, minlength=256).tolist()
    assert counts[256] == int(((levels == 1) & (slot == 0) & ((was_split | was_absent) != 0)).sum())
    runs = "".join("x" if code in (2, 3) else " " for code in codes).split()
    assert counts[257] == max(map(len, runs), default=0)
    assert end == max((i + 1 for i, code in enumerate(codes) if code), default=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.4]]), st.integers(1, 6))
def test_pages_of_a_row(seed: int, shares: list[float], nr: int) -> None:
    rng = np.random.default_rng(seed)
    pages = rng.choice(np.array([0, 1, 2], np.uint8), (nr, PAGES_PER_2M), p=shares)
    slots = np.sort(rng.choice(nr, rng.integers(0, nr + 1), replace=False))

    def after(module: Any) -> list[Any]:
        absent, present = np.full(nr, -1, np.int16), np.full(nr, -1, np.int16)
        module.count_pages(*(module.view(array) for array in (pages.view(np.uint64), slots, absent, present)))
        return [absent, present]

    for one, two, code in zip(after(loops), after(PLAIN), (2, 1), strict=True):
        assert np.array_equal(one, two)
        expected = np.full(nr, -1)
        expected[slots] = (pages[slots] == code).sum(axis=1)
        assert np.array_equal(one, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_sums_over_slots(seed: int, nr: int) -> None:
    rng = np.random.default_rng(seed)
    region_of = rng.integers(-1, 3, nr)
    absent, present = (rng.integers(0, 513, nr).astype(np.int16) * rng.integers(0, 2, nr).astype(np.int16) for _ in range(2))

    def after(module: Any) -> list[int]:
        sums = np.zeros(4, np.int64)
        module.sum_slots(*(module.view(array) for array in (region_of, absent, present)), 1, nr, module.view(sums))
        return sums.tolist()

    used = (region_of >= 0) & (np.arange(nr) > 0)
    expected = [int(used.sum()), int((absent[used] != 0).sum()), int(absent[used].sum()), int(present[used].sum())]
    assert after(loops) == after(PLAIN) == expected


@pytest.mark.parametrize("layout", [RECORD, RING_RECORD])
def test_a_batch_that_may_not_be_written_is_read(layout: np.dtype[Any]) -> None:
    """The ring's memory is mapped read-only."""
    batch = np.zeros(3, layout)
    batch.flags.writeable = False
    assert loops.Fields(batch) is not None
