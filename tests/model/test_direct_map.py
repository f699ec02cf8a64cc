# SPDX-License-Identifier: Apache-2.0
"""The direct map is exact page by page, however records come, and says itself what it cannot know."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.model.build import columns, cut, make_batch, map_reading
from tests.model.direct_maps import G1, K4, M2
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level
from uaptrace.model.compare import compare
from uaptrace.model.direct_map import DirectMap
from uaptrace.model.updates import LARGE_ABSENT, PAGE_ABSENT, PAGE_HOLE, PAGE_PRESENT, MapReading

REGIONS = (0, 1, 2, 511, 512, 513, 700, 1023, 1024, 1030)
"""Where records fall: the first 1G is one mapping, the next is 2M mappings, the third begins with holes."""
OFFSETS = (0, 1, 7, 255, 511)


def layout() -> MapReading:
    levels = [G1] * 512 + [M2] * 512 + [0, 0, K4, M2 | LARGE_ABSENT, M2, M2, M2, M2]
    row = np.full(512, PAGE_PRESENT, np.uint8)
    row[:3], row[100] = PAGE_HOLE, PAGE_ABSENT
    return map_reading(levels, {1026: row}, begin_ns=1)


class NaiveMap:
    """The same rules, record by record and page by page, in dictionaries."""

    def __init__(self) -> None:
        self.level: dict[int, int] = {}
        self.absent: set[int] = set()
        self.holes: set[int] = set()
        self.large_absent: set[int] = set()
        self.touched: set[int] = set()
        self.uncertain: dict[int, int] = {}
        self.unsplit: dict[int, int] = {}
        self.read_end_ns = 0

    def load(self, reading: MapReading) -> None:
        if reading.complete:
            self.__init__()  # type: ignore[misc]
        for i, code in enumerate(reading.levels.tolist()):
            region = reading.first_region + i
            self.forget(region, reading.begin_ns)
            if code:
                self.level[region] = code & 3
            if code & 3 != K4:
                self.touched.discard(region)
            if code & LARGE_ABSENT:
                self.large_absent.add(region)
                self.touched.add(region)
        for region, row in zip(reading.split_regions.tolist(), reading.pages, strict=True):
            for page, state in enumerate(row.tolist()):
                if state == PAGE_ABSENT:
                    self.absent.add(region * 512 + page)
                    self.touched.add(region)
                elif state == PAGE_HOLE:
                    self.holes.add(region * 512 + page)
        self.read_end_ns = max(self.read_end_ns, reading.end_ns)

    def forget(self, region: int, read_ns: int) -> None:
        """What was known of a region before it was read at ``read_ns``."""
        pages = range(region * 512, region * 512 + 512)
        self.absent.difference_update(pages)
        self.holes.difference_update(pages)
        self.large_absent.discard(region)
        self.level.pop(region, None)
        for marks in (self.uncertain, self.unsplit):
            if marks.get(region, read_ns + 1) <= read_ns:
                del marks[region]

    def lower(self, region: int, level: int) -> None:
        self.level[region] = level
        if level == K4 and region in self.large_absent:
            self.large_absent.discard(region)
            self.absent.update(range(region * 512, region * 512 + 512))

    def lower_1g(self, region: int, time_ns: int | None) -> None:
        first = region // REGIONS_PER_1G * REGIONS_PER_1G
        for other in range(first, first + REGIONS_PER_1G):
            if self.level.get(other) == G1:
                self.lower(other, M2)
                if time_ns is not None:
                    self.unsplit[other] = time_ns

    def adopt(self, region: int, level: int, time_ns: int) -> None:
        self.uncertain[region] = time_ns
        self.level[region] = level
        if level == K4:
            self.holes.update(range(region * 512, region * 512 + 512))

    def split(self, region: int, level: int, time_ns: int) -> None:
        if level == G1:
            first = region // REGIONS_PER_1G * REGIONS_PER_1G
            self.lower_1g(region, None)
            for other in range(first, first + REGIONS_PER_1G):
                if other not in self.level:
                    self.uncertain[other] = time_ns
                self.touched.add(other)
                if self.level.get(other, 0) >= M2:
                    self.unsplit.pop(other, None)
            return
        if region not in self.level:
            self.adopt(region, K4, time_ns)
        if self.level[region] == G1:
            self.lower_1g(region, time_ns)
        if self.level[region] == M2:
            self.lower(region, K4)
        self.touched.add(region)
        self.unsplit.pop(region, None)

    def note(self, region: int, level: int, time_ns: int) -> None:
        held = self.level.get(region)
        if held is None:
            self.adopt(region, level, time_ns)
        elif level > held and time_ns > self.read_end_ns:
            self.uncertain[region] = time_ns
        elif level < held:
            if held == G1:
                self.lower_1g(region, time_ns)
            if level == K4:
                self.unsplit[region] = time_ns
                self.lower(region, K4)

    def change(self, pages: range, absent: bool) -> None:
        """Pages of one region that is split."""
        self.holes.difference_update(pages)
        if absent:
            self.absent.update(pages)
            self.touched.add(pages.start // 512)
        else:
            self.absent.difference_update(pages)

    def pages(self, pfn: int, nr_pages: int, after: int, time_ns: int) -> None:
        level, absent = after & 3, bool(after & 128)
        for region in range(pfn // 512, (pfn + nr_pages - 1) // 512 + 1):
            if level == 0 or after & 64:
                self.uncertain[region] = time_ns
                if level:
                    self.note(region, level, time_ns)
                continue
            self.note(region, level, time_ns)
            if self.level[region] != level:
                continue
            if level == K4:
                self.change(range(max(pfn, region * 512), min(pfn + nr_pages, region * 512 + 512)), absent)
                continue
            first = region // REGIONS_PER_1G * REGIONS_PER_1G
            whole = range(first, first + REGIONS_PER_1G) if level == G1 else (region,)
            for other in whole:
                if self.level.get(other) == level:
                    (self.large_absent.add if absent else self.large_absent.discard)(other)
                    if absent:
                        self.touched.add(other)

    def apply(self, row: dict[str, Any]) -> None:
        pfn, time_ns = row["pfn"], row["time_ns"]
        if row["kind"] == Kind.SPLIT:
            if not row.get("flags", 0) & (Flag.KERNEL_IMAGE | Flag.OTHER_MAPPING):
                self.split(pfn // 512, row["before"] & 3, time_ns)
        elif row["kind"] == Kind.UNCERTAIN:
            for region in range(pfn // 512, (pfn + row["nr_pages"] - 1) // 512 + 1):
                self.uncertain[region] = time_ns
        else:
            self.pages(pfn, row["nr_pages"], row["after"], time_ns)


def assert_equal(ours: DirectMap, naive: NaiveMap) -> None:
    top = max([ours.nr_regions(), *(r + 1 for r in naive.level)], default=0)
    levels = np.zeros(top, np.uint8)
    for region, level in naive.level.items():
        levels[region] = level | (LARGE_ABSENT if region in naive.large_absent else 0)
    rows = {}
    for region in np.flatnonzero(levels == K4).tolist():
        rows[region] = np.full(512, PAGE_PRESENT, np.uint8)
    for pfn in naive.absent:
        rows[pfn // 512][pfn % 512] = PAGE_ABSENT
    for pfn in naive.holes:
        rows[pfn // 512][pfn % 512] = PAGE_HOLE
    comparison = compare(ours, map_reading(levels.tolist(), rows))
    assert comparison.first == ()
    assert comparison.differing_pages == 0
    view = ours.view()
    count = {level: sum(1 for r, lv in naive.level.items() if lv == level and r not in naive.large_absent) for level in (M2, G1)}
    assert view.present_bytes[Level.M2] == count[M2] * PAGES_PER_2M * PAGE_SIZE
    assert view.present_bytes[Level.G1] == count[G1] * PAGES_PER_2M * PAGE_SIZE
    split = [r for r, lv in naive.level.items() if lv == K4]
    assert view.present_bytes[Level.K4] == (len(split) * 512 - len(naive.absent) - len(naive.holes)) * PAGE_SIZE
    assert view.absent_bytes == (len(naive.absent) + 512 * len(naive.large_absent)) * PAGE_SIZE
    assert view.nr_regions_touched == len({p // 512 for p in naive.absent} | naive.large_absent)
    assert view.nr_regions_split == len(split)
    large = count[M2] + count[G1] // PAGES_PER_2M
    assert view.nr_entries == large + len(split) * 512 - len(naive.absent) - len(naive.holes)
    assert view.nr_entries_unsplit == large + len(split)
    assert view.page_table_bytes == len(split) * PAGE_SIZE
    missing = {p // 512 for p in naive.absent | naive.holes}
    assert view.nr_regions_stranded == sum(1 for r in split if r in naive.touched and r not in missing)
    run = best = 0
    for region in range(top):
        run = run + 1 if naive.level.get(region, 0) >= M2 and region not in naive.large_absent else 0
        best = max(best, run)
    assert view.largest_intact_bytes == best * PAGES_PER_2M * PAGE_SIZE
    ranges = ours.uncertain_ranges() or []
    assert not isinstance(ranges, str)
    assert {r for first, n in ranges for r in range(first, first + n)} == set(naive.uncertain) | set(naive.unsplit)


regions = st.sampled_from(REGIONS)
offsets = st.sampled_from(OFFSETS)
mapping = st.builds(lambda level, absent: level | absent, st.sampled_from([K4] * 6 + [M2, M2, G1]), st.sampled_from([0, 128]))


@st.composite
def map_records(draw: st.DrawFn) -> dict[str, Any]:
    """Records about the map: mostly what a kernel does, with some that no kernel would send."""
    region, offset = draw(regions), draw(offsets)
    what = draw(st.sampled_from(["page"] * 6 + ["split"] * 2 + ["split_1g", "pages", "large", "odd", "uncertain", "elsewhere"]))
    base = region * 512
    if what == "page":
        return {"kind": Kind.SET_DIRECT_MAP, "pfn": base + offset, "nr_pages": 1, "after": draw(mapping)}
    if what == "pages":
        nr = draw(st.sampled_from([2, 100, 512, 600]))
        return {"kind": Kind.CPA, "pfn": base + offset, "nr_pages": nr, "after": draw(mapping)}
    if what == "large":
        return {"kind": Kind.CPA, "pfn": base, "nr_pages": 512, "after": M2 | draw(st.sampled_from([0, 128]))}
    if what == "odd":
        return {"kind": Kind.CPA, "pfn": base, "nr_pages": 3, "after": draw(st.sampled_from([0, 64 | K4, 64 | M2]))}
    if what == "uncertain":
        return {"kind": Kind.UNCERTAIN, "pfn": min(base, 1020 * 512), "nr_pages": draw(st.sampled_from([1, 512, 1025]))}
    level = G1 if what == "split_1g" else M2
    pfn = base // REGIONS_PER_1G // 512 * REGIONS_PER_1G * 512 if level == G1 else base
    flags = int(draw(st.sampled_from([Flag.KERNEL_IMAGE, Flag.OTHER_MAPPING]))) if what == "elsewhere" else 0
    return {
        "kind": Kind.SPLIT,
        "pfn": pfn,
        "nr_pages": 1 << (18 if level == G1 else 9),
        "before": level,
        "after": level - 1,
        "flags": flags,
    }


def timed(rows: list[dict[str, Any]], first_ns: int = 10) -> list[dict[str, Any]]:
    return [{**row, "time_ns": first_ns + i} for i, row in enumerate(rows)]


@settings(max_examples=80, deadline=None)
@given(st.lists(map_records(), max_size=40), st.lists(st.integers(1, 12), max_size=8), st.booleans())
def test_any_records_in_any_batches_give_what_one_page_at_a_time_gives(
    rows: list[dict[str, Any]], sizes: list[int], ring_layout: bool
) -> None:
    rows = timed(rows)
    naive, ours = NaiveMap(), DirectMap()
    naive.load(layout())
    ours.load(layout())
    for row in rows:
        naive.apply(row)
    for batch in cut(make_batch(rows, ring_layout=ring_layout), sizes):
        ours.apply(columns(batch))
    assert_equal(ours, naive)


class MapMachine(RuleBasedStateMachine):
    """Records, figures in between, full and partial readings, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.naive, self.ours = NaiveMap(), DirectMap()
        self.time_ns = 10
        self.read(layout())

    def read(self, reading: MapReading) -> None:
        self.naive.load(reading)
        self.ours.load(reading)

    @rule(rows=st.lists(map_records(), min_size=1, max_size=12))
    def records(self, rows: list[dict[str, Any]]) -> None:
        rows = timed(rows, self.time_ns)
        self.time_ns += len(rows)
        for row in rows:
            self.naive.apply(row)
        self.ours.apply(columns(make_batch(rows)))

    @rule()
    def whole_reading(self) -> None:
        self.time_ns += 10
        self.read(_at(layout(), self.time_ns))
        self.time_ns += 10

    @rule(first=regions, codes=st.lists(st.sampled_from([0, K4, K4, M2, M2 | LARGE_ABSENT]), min_size=1, max_size=6), absent=offsets)
    def part_reading(self, first: int, codes: list[int], absent: int) -> None:
        row = np.full(512, PAGE_PRESENT, np.uint8)
        row[absent] = PAGE_ABSENT
        self.time_ns += 10
        self.read(map_reading(codes, {first: row}, first_region=first, begin_ns=self.time_ns, complete=False))
        self.time_ns += 10

    @rule()
    def figures(self) -> None:
        self.ours.figures()

    @invariant()
    def equal(self) -> None:
        assert_equal(self.ours, self.naive)


def _at(reading: MapReading, begin_ns: int) -> MapReading:
    return MapReading(begin_ns, begin_ns + 1, 0, reading.levels, reading.split_regions, reading.pages, True)


TestMapMachine = MapMachine.TestCase
TestMapMachine.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
