# SPDX-License-Identifier: Apache-2.0
"""Switches and figures are read from real files and descriptors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from uaptrace.kernel.beat_figures import FigureFiles, MapFigures
from uaptrace.kernel.procfs import parse_vmstat
from uaptrace.loader.host_check import DEGRADED, READY, check
from uaptrace.loader.host_facts import HostFacts
from uaptrace.loader.kernel_switches import off_now
from uaptrace.loader.opened_files import FILES
from uaptrace.loader.plan import PlannedHook, plan_hooks, wanted_symbols
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence
from uaptrace.session.hook_switches import HookSwitches

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
FENTRY, KPROBE = (HookStatus("cpa", "cpa", "fentry"),), (HookStatus("cpa", "cpa", "kprobe"),)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Mapping[str, int]]:
    opened = {}
    for name in ("kprobes_enabled", "ftrace_enabled"):
        (tmp_path / name).write_text("1\n")
        opened[name] = os.open(tmp_path / name, os.O_RDWR)
    yield opened
    for fd in opened.values():
        os.close(fd)


def write(fd: int, text: str) -> None:
    os.pwrite(fd, text.encode(), 0)


@pytest.mark.parametrize(
    ("name", "hooks", "silence"),
    [
        ("kprobes_enabled", KPROBE, Silence.KPROBES_OFF),
        ("ftrace_enabled", FENTRY, Silence.FTRACE_OFF),
        ("ftrace_enabled", KPROBE, Silence.FTRACE_OFF),
        ("kprobes_enabled", FENTRY, None),
    ],
)
def test_a_switch_counts_where_it_stops_a_hook_that_is_attached(
    files: Mapping[str, int], name: str, hooks: tuple[HookStatus, ...], silence: Silence | None
) -> None:
    switches = HookSwitches(files, hooks, ())
    assert switches.off() == {}
    write(files[name], "0\n")
    assert switches.off() == ({} if silence is None else {silence.value: FILES[name]})
    write(files[name], "1\n")
    assert switches.off() == {}


def test_a_switch_that_is_not_there_is_not_watched() -> None:
    assert HookSwitches({}, KPROBE, ()).off() == {}


def test_a_descriptor_that_was_closed_or_replaced_is_noticed() -> None:
    links = [os.memfd_create(name) for name in ("one", "two", "three")]
    switches = HookSwitches({}, FENTRY, links)
    assert switches.off() == {}
    os.close(links[0])
    assert switches.off() == {Silence.DETACHED.value: "1 of 3 descriptors were closed from outside"}
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, links[1])
    assert switches.off() == {Silence.DETACHED.value: "2 of 3 descriptors were closed from outside"}
    for fd in (other, *links[1:]):
        os.close(fd)


@pytest.mark.parametrize("kernel", sorted(path.name for path in KERNELS.iterdir()))
def test_figures_of_real_kernels(kernel: str) -> None:
    files = FigureFiles(KERNELS / kernel)
    figures = files.read(5)
    files.close()
    vmstat = parse_vmstat((KERNELS / kernel / "proc/vmstat").read_text())
    assert figures.splits == vmstat["direct_map_level2_splits"] + vmstat["direct_map_level3_splits"]
    assert figures.collapses == vmstat.get("direct_map_level2_collapses", 0) + vmstat.get("direct_map_level3_collapses", 0)
    assert figures.faults == vmstat["pgfault"]
    meminfo = (KERNELS / kernel / "proc/meminfo").read_text()
    assert figures.mapped_kib == sum(int(kib) for kib in re.findall(r"DirectMap\S+ +(\d+) kB", meminfo))
    assert figures.counted_splits == 5


def hooks_by(mechanism: str) -> tuple[PlannedHook, ...]:
    symbols = {name: 0xFFFFFFFF81000000 + i for i, name in enumerate(wanted_symbols())}
    return plan_hooks(symbols, None, lambda _: mechanism == "fentry")


@pytest.mark.parametrize(
    ("switch", "mechanism", "is_named"),
    [("ftrace_enabled", "fentry", True), ("kprobes_enabled", "kprobe", True), ("kprobes_enabled", "fentry", False)],
)
def test_check_names_a_switch_that_is_off_and_how_to_mend_it(tmp_path: Path, switch: str, mechanism: str, is_named: bool) -> None:
    path = tmp_path / FILES[switch][1:]
    path.parent.mkdir(parents=True)
    path.write_text("0\n")
    facts = HostFacts(0, None, True, True, "", frozenset(), {"_text": 1})
    result = check(facts, None, None, lambda *_: hooks_by(mechanism), off_now(tmp_path))
    finding = next(f for f in result.findings if f.name == "kernel switches")
    assert finding.ok is not is_named
    assert result.status == (DEGRADED if is_named else READY)
    if is_named:
        assert FILES[switch] in finding.detail
        assert finding.mend == f"echo 1 > {FILES[switch]}"
    path.write_text("1\n")
    assert check(facts, None, None, lambda *_: hooks_by(mechanism), off_now(tmp_path)).status == READY


def test_what_nobody_told_of_is_not_explained() -> None:
    before = MapFigures(5, 1, 1 << 20, 0, 3, ((1, 0), (2, 0), (1, 0)), 7)
    assert before.explained_since(before)
    assert replace(before, splits=6, counted_splits=4).explained_since(before)
    assert replace(before, cache_rows=((0, 0), (2, 0), (1, 0)), counted_cache=8).explained_since(before)
    for silent in (
        replace(before, splits=6),
        replace(before, collapses=2),
        replace(before, mapped_kib=(1 << 20) + 128),
        replace(before, cache_rows=((0, 0), (2, 0), (1, 0))),
    ):
        assert not silent.explained_since(before)
