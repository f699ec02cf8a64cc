# SPDX-License-Identifier: Apache-2.0
"""One look at the map tells grouped from scattered, and every way of showing it shows the same figures."""

from __future__ import annotations

import io
import json
import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.unit import view_snapshots as snapshots
from uaptrace.abi.errors import UsageError
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, REGIONS_PER_1G, Level
from uaptrace.model.snapshot import RegionTable
from uaptrace.reports import map_scene
from uaptrace.reports.map_picture import MapPicture, NamedRange
from uaptrace.views import map_grid

COLOR = {level: tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for level, color in map_scene.COLORS.items()}


@st.composite
def tables(draw: st.DrawFn) -> RegionTable:
    """Any map of up to 96 regions."""
    number = draw(st.integers(1, 96))
    level = np.array(draw(st.lists(st.sampled_from([0, 1, 1, 2, 2, 3]), min_size=number, max_size=number)), np.uint8)
    absent = np.array(draw(st.lists(st.sampled_from([0, 0, 0, 1, 61, 512]), min_size=number, max_size=number)), np.uint16)
    cached = np.array(draw(st.lists(st.integers(0, 512), min_size=number, max_size=number)), np.uint16)
    split = np.array(draw(st.lists(st.booleans(), min_size=number, max_size=number)), np.bool_)
    absent[level == Level.NONE] = 0
    # A large mapping is absent as a whole or not at all.
    absent[(level >= Level.M2) & (absent > 0)] = 512
    return RegionTable(level, absent, np.minimum(cached, absent), split)


def naive(table: RegionTable) -> dict[str, int]:
    """The figures, region by region."""
    out = {"total": 0, "absent": 0, "touched": 0, "split": 0, "stranded": 0, "intact": 0, "runs": 0, "k4": 0, "m2": 0, "g1": 0}
    run = 0
    before = False
    for level, absent, was_split in zip(table.level.tolist(), table.nr_absent.tolist(), table.was_split.tolist(), strict=True):
        touched = level != 0 and absent > 0
        out["runs"] += touched and not before
        before = touched
        if level == 0:
            run = 0
            continue
        out["total"] += 512
        out["absent"] += absent
        out["touched"] += touched
        out["split"] += level == 1
        out["stranded"] += level == 1 and absent == 0 and was_split
        out[{1: "k4", 2: "m2", 3: "g1"}[level]] += 512 - absent
        run = run + 1 if level >= 2 and absent == 0 else 0
        out["intact"] = max(out["intact"], run)
    return out


@settings(deadline=None)
@given(tables())
def test_figures_equal_a_count_region_by_region(table: RegionTable) -> None:
    f, n = map_grid.figures(table), naive(table)
    assert f.total_bytes == n["total"] * PAGE_SIZE
    assert f.absent_bytes == n["absent"] * PAGE_SIZE
    assert (f.nr_regions_touched, f.nr_touched_runs) == (n["touched"], n["runs"])
    assert (f.nr_regions_split, f.nr_regions_stranded) == (n["split"], n["stranded"])
    assert f.largest_intact_bytes == n["intact"] * PAGES_PER_2M * PAGE_SIZE
    assert [f.present_bytes[lv] // PAGE_SIZE for lv in (Level.K4, Level.M2, Level.G1)] == [n["k4"], n["m2"], n["g1"]]
    assert sum(f.present_bytes.values()) + f.absent_bytes == f.total_bytes


@settings(deadline=None)
@given(tables(), st.sampled_from([1, 2, 4, 8, 16]))
def test_coarser_cells_lose_no_absent_page_and_no_split(table: RegionTable, scale: int) -> None:
    grid = map_grid.cells(table, scale)
    for i in range(len(grid)):
        part = slice(i * scale, (i + 1) * scale)
        level = table.level[part][table.level[part] != 0]
        assert grid.level[i] == (level.min() if len(level) else 0)
        assert (grid.absent[i] > 0) == bool(table.nr_absent[part].any())
        if len(level):
            assert grid.absent[i] == pytest.approx(table.nr_absent[part].sum() / (512 * len(level)))


@settings(deadline=None)
@given(tables())
def test_runs_in_json_are_the_table(table: RegionTable) -> None:
    level, absent = np.zeros(len(table.level), np.uint8), 0
    end = 0
    for run in map_grid.ranges_of(table):
        assert int(run["start_pfn"]) >= end
        end = int(run["start_pfn"]) + int(run["nr_pages"])
        level[int(run["start_pfn"]) // 512 : end // 512] = {"4k": 1, "2m": 2, "1g": 3}[str(run["level"])]
        absent += int(run["nr_absent"])
    assert (level == table.level).all()
    assert absent == table.nr_absent.sum()


@settings(deadline=None)
@given(tables(), st.sampled_from([16, 32, 64]), st.integers(1, 20))
def test_the_grid_fits_and_shows_every_cell_with_memory(table: RegionTable, per_row: int, nr_rows: int) -> None:
    if not table.level.any():
        return
    grid = map_grid.cells(table, map_grid.fitting_scale(table, per_row, nr_rows))
    rows = map_grid.rows(grid, per_row)
    assert len(rows) <= nr_rows
    shown = {i for row in rows if not row.nr_rows for i in range(row.start, row.start + per_row)}
    assert set(np.flatnonzero(grid.level).tolist()) <= shown


def test_grouped_and_scattered_are_told_apart_in_words_and_in_ink() -> None:
    grouped = snapshots.make(60)
    table = snapshots.regions(6, layout="scattered", nr_touched=14)
    scattered = replace(grouped, regions=table, direct_map=snapshots.direct_map(table))
    assert map_grid.verdict(MapPicture(grouped).figures).startswith("grouped")
    assert map_grid.verdict(MapPicture(scattered).figures).startswith("scattered")

    def rows_with_absence(snapshot: object) -> int:
        lines = MapPicture(snapshot).to_lines(80, 24)  # type: ignore[arg-type]
        return sum(any(style == "absent" for _, style in line) for line in lines if str(line[0][0]).strip().startswith("0x"))

    assert rows_with_absence(grouped) == 1
    assert rows_with_absence(scattered) == 12


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
@pytest.mark.parametrize("gigabytes", [1, 6, 64, 1024])
def test_the_terminal_picture_fits(size: tuple[int, int], gigabytes: int) -> None:
    table = snapshots.regions(gigabytes, hole=gigabytes >= 4) if gigabytes >= 4 else _small_table()
    text = MapPicture(replace(snapshots.make(60), regions=table)).to_text(*size)
    rows = text.splitlines()
    assert len(rows) <= size[1]
    assert max(map(len, rows)) <= size[0]
    assert "1 cell =" in text


def _small_table() -> RegionTable:
    number = REGIONS_PER_1G
    return RegionTable(np.full(number, 2, np.uint8), np.zeros(number, np.uint16), np.zeros(number, np.uint16), np.zeros(number, np.bool_))


def _png(picture: MapPicture) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture.to_png())).convert("RGB"))


def test_png_has_a_cell_for_each_region_in_its_colour() -> None:
    snapshot = snapshots.make(60)
    pixels = _png(MapPicture(snapshot))
    block = MapPicture(snapshot).scene().blocks[0]
    table = snapshot.regions
    assert table is not None
    for region in (0, 1, 700, 2 * REGIONS_PER_1G, 3 * REGIONS_PER_1G - 1):
        row, column = divmod(region, block.classes.shape[1])
        pixel = tuple(pixels[block.y + row * block.cell, block.x + column * block.cell].tolist())
        assert pixel == COLOR[Level(int(table.level[region]))] or table.nr_absent[region]


def test_svg_says_the_same_as_the_png() -> None:
    picture = MapPicture(snapshots.make(60))
    root = ET.fromstring(picture.to_svg())
    ns = "{http://www.w3.org/2000/svg}"
    texts = [t.text or "" for t in root.iter(f"{ns}text")]
    assert "Direct map of vm-61" in texts
    assert any(t.endswith("EXACT") for t in texts)
    assert any(t.startswith("Grouped") for t in texts)
    image = Image.open(io.BytesIO(picture.to_png()))
    assert (int(root.attrib["width"]), int(root.attrib["height"])) == image.size
    fills = {p.attrib.get("fill") for p in root.iter(f"{ns}path")}
    assert fills >= {map_scene.COLORS[Level.G1], map_scene.COLORS[Level.M2], map_scene.PALETTE[-1]}


def test_inexact_is_in_every_form() -> None:
    picture = MapPicture(snapshots.inexact(snapshots.make(60)))
    assert "INEXACT: 1,234 events were lost" in picture.to_text()
    assert "INEXACT: 1,234 events were lost" in picture.to_svg()
    assert picture.to_json()["exact"] is False


def test_a_tebibyte_fits_into_one_picture() -> None:
    table = snapshots.regions(1024, layout="scattered", nr_touched=60)
    picture = MapPicture(replace(snapshots.make(60), regions=table))
    image = Image.open(io.BytesIO(picture.to_png()))
    assert image.width <= 1200
    assert image.height <= 1400
    assert len(picture.to_svg()) < 2 << 20


@settings(max_examples=30, deadline=None)
@given(tables())
def test_any_map_can_be_drawn(table: RegionTable) -> None:
    snapshot = replace(snapshots.make(60), regions=table)
    if not table.level.any():
        with pytest.raises(UsageError, match="no map"):
            MapPicture(snapshot)
        return
    picture = MapPicture(snapshot)
    ET.fromstring(picture.to_svg())
    assert picture.to_png().startswith(b"\x89PNG")
    json.dumps(picture.to_json())


def test_a_zone_restricts_figures_picture_and_ranges() -> None:
    snapshot = snapshots.make(60)
    zone = NamedRange("zone Normal", 4 << 18, 7 << 18)
    picture = MapPicture(snapshot, ranges=[zone])
    assert picture.figures.total_bytes == 3 << 30
    assert picture.figures.absent_bytes == 0
    assert "zone Normal" in picture.to_text()
    assert all(r["start_pfn"] >= zone.start_pfn for r in picture.to_json()["ranges"])
    assert "0x100000000" in picture.to_text()


def test_no_memory_in_a_zone_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match="no memory in zone Movable"):
        MapPicture(snapshots.make(60), ranges=[NamedRange("zone Movable", 1 << 30, 1 << 31)])
    with pytest.raises(UsageError, match="not in the direct map"):
        MapPicture(snapshots.make(60), around_pfn=3 << 18)
    with pytest.raises(UsageError, match="no map"):
        MapPicture(replace(snapshots.make(60), regions=None))


def test_around_a_page_single_pages_are_shown() -> None:
    snapshot = snapshots.make(60)
    assert snapshot.regions is not None
    region = int(np.flatnonzero(snapshot.regions.nr_absent)[0])
    states = np.ones(PAGES_PER_2M, np.uint8)
    states[[5, 300, 301]] = 2
    picture = MapPicture(snapshot, around_pfn=region * 512 + 5, pages=(region * 512, states))
    runs = picture.to_json()["pages"]
    assert [(r["start_pfn"] - region * 512, r["nr_pages"]) for r in runs if r["state"] == "absent"] == [(5, 1), (300, 2)]
    scene = picture.scene()
    assert len(scene.marks) == 1
    mark, block = scene.marks[0], scene.blocks[0]
    pixels = _png(picture)
    middle = pixels[mark.y + mark.height // 2, mark.x + mark.width // 2]
    assert tuple(middle.tolist()) == tuple(int(map_scene.PALETTE[-1][i : i + 2], 16) for i in (1, 3, 5))
    first = picture.ranges[0].start_pfn
    row, column = divmod(region * 512 + 6 - first, block.classes.shape[1])
    assert tuple(pixels[block.y + row * block.cell, block.x + column * block.cell].tolist()) == COLOR[Level.K4]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = MapPicture(snapshots.make(60))
    picture.write_png(tmp_path / "map.png")
    picture.write_svg(tmp_path / "map.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.png", "map.svg"]
    assert (tmp_path / "map.svg").read_text() == picture.to_svg()
    with pytest.raises(UsageError, match="cannot write"):
        picture.write_png(tmp_path / "missing" / "map.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.png", "map.svg"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "map.png").stat().st_mode & 0o777 == 0o666 & ~umask
