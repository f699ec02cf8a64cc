# SPDX-License-Identifier: Apache-2.0
"""``uaptrace whatif`` as people and scripts use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from uaptrace.abi.units import LEVELS, PAGE_SIZE
from uaptrace.commands.whatif import whatif
from uaptrace.model.tlb import TlbPart
from uaptrace.policies import engine
from uaptrace.policies.engine_layout import Design
from uaptrace.policies.physical_memory import synthetic_memory
from uaptrace.policies.simulation import replay
from uaptrace.policies.synthetic import synthetic_requests
from uaptrace.reports.whatif_answer import WhatIf, as_json, as_table

PATCHED = Path(__file__).parent.parent / "data" / "patched-6.1.uaptrace"


def answer(*args: str) -> dict[str, object]:
    result = CliRunner().invoke(whatif, [*args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    out = json.loads(result.stdout)
    assert isinstance(out, dict)
    return out


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "uaptrace.cli", "whatif", *args], capture_output=True, text=True, check=False, cwd=cwd)


def test_json_has_every_policy_with_what_it_kept() -> None:
    out = answer("--synthetic", "mixed", "--requests", "5000", "--memory", "1G")
    policies = out["policies"]
    assert isinstance(policies, list)
    assert [policy["name"] for policy in policies] == [design.label for design in Design]
    for policy in policies:
        assert set(policy["splits"]) == {"2m", "1g"}
        assert sum(policy["bytes_kept"].values()) == 1 << 30
        assert policy["regions_touched"] >= policy["regions_touched_now"]
        assert policy["stranded_regions"] >= 0
        series = policy["series"]
        assert series["requests"][0] == 0
        assert series["requests"][-1] == 5000
        assert series["bytes_kept"]["1g"][0] == 1 << 30
        assert series["bytes_kept"]["2m"][-1] == policy["bytes_kept"]["2m"]
        assert series["splits"]["2m"][-1] == policy["splits"]["2m"]
        lengths = {len(column) for column in [series["requests"], series["time_ns"], series["cache_pages"], *series["bytes_kept"].values()]}
        assert lengths == {len(series["requests"])}


def test_same_seed_same_answer_and_another_seed_another() -> None:
    args = ["--synthetic", "mixed", "--requests", "4000", "--memory", "256M"]
    one, two, other = (CliRunner().invoke(whatif, [*args, "--json", "--seed", seed]).stdout for seed in ("3", "3", "4"))
    assert one == two
    assert one != other


def test_the_table_fits_into_a_mail() -> None:
    for args in (
        ["--synthetic", "mixed", "--requests", "20000"],
        ["--synthetic", "bpf", "--requests", "1", "--memory", "16M"],
        [str(PATCHED)],
    ):
        result = CliRunner().invoke(whatif, args, catch_exceptions=False)
        assert result.exit_code == 0
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        assert result.stdout.isascii()
        assert result.stdout.count("unmapped_alloc, intended") == 3


def test_a_recording_gives_the_hosts_memory_and_its_requests() -> None:
    out = answer(str(PATCHED), "--policy", "none", "--policy", "unmapped_alloc")
    assert out["memory"]["size_bytes"] == 2 << 30 or out["memory"]["size_bytes"] > 1 << 30  # type: ignore[index]
    assert out["requests"]["count"] > 10_000  # type: ignore[index]
    policies: Any = out["policies"]
    none, grouped = policies
    assert (none["name"], grouped["name"]) == ("none", "unmapped_alloc")
    assert none["series"]["time_ns"][-1] > none["series"]["time_ns"][1] > 0


def test_charts_are_whole_and_the_same_again(tmp_path: Path) -> None:
    args = ["--synthetic", "modules", "--requests", "3000", "--chart"]
    for name in ("a.svg", "b.svg", "a.png"):
        assert CliRunner().invoke(whatif, [*args, str(tmp_path / name)], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"</svg>" in (tmp_path / "a.svg").read_bytes()[-20:]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        ([], 2, "--synthetic KIND"),
        (["--synthetic", "mixed", "file"], 2, "--synthetic KIND"),
        (["--synthetic", "mixed", "--memory", "1M"], 2, "16 MiB"),
        (["--synthetic", "mixed", "--memory", "much"], 2, "4G"),
        (["--synthetic", "mixed", "--chart", "x.pdf"], 2, ".svg or .png"),
        (["--synthetic", "mixed", "--requests", "10", "--chart", "no/such/folder/x.svg"], 2, "cannot write"),
        (["--synthetic", "mixed", "--map", "recorded"], 2, "recording"),
        (["--synthetic", "mixed", "--policy", "best"], 2, "unmapped_alloc"),
        (["missing.uaptrace"], 4, "missing.uaptrace"),
        (["foreign"], 4, "foreign"),
    ],
)
def test_wrong_use_is_one_line_and_a_status(args: list[str], status: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("not a recording")
    done = run(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert os.listdir(tmp_path) == ["foreign"]


@pytest.mark.slow
def test_a_million_requests_per_policy_in_five_seconds() -> None:
    if not engine.is_compiled():
        pytest.skip("the engine is not compiled: no C compiler when uaptrace was installed")
    requests, memory = synthetic_requests("mixed", 1_000_000, 1), synthetic_memory(4 << 30, 0.3, 1)
    for design in Design:
        begin_s = time.process_time()
        replay(design, requests, memory)
        assert time.process_time() - begin_s < 5


def test_each_flush_interrupts_every_other_cpu_and_an_unknown_number_of_cpus_stays_unknown() -> None:
    args = ["--synthetic", "mixed", "--requests", "5000"]
    unknown: dict[str, Any] = answer(*args)
    known: dict[str, Any] = answer(*args, "--cpus", "64")
    assert unknown["nr_cpus"] is None
    assert all(policy["shootdown_ipis"] is None for policy in unknown["policies"])
    assert known["nr_cpus"] == 64
    assert any(policy["tlb_flushes"] for policy in known["policies"])
    assert all(policy["shootdown_ipis"] == 63 * policy["tlb_flushes"] for policy in known["policies"])
    assert "IPIs" not in CliRunner().invoke(whatif, ["--synthetic", "mixed", "--requests", "100"]).output


def test_how_much_of_each_map_one_tlb_holds_is_what_its_largest_entries_cover() -> None:
    requests, memory = synthetic_requests("mixed", 5000, 1), synthetic_memory(1 << 30, 0.3, 1)
    outcomes = tuple(replay(design, requests, memory) for design in Design)
    nr_entries = 509
    asked = WhatIf(requests, memory, 1, outcomes, nr_cpus=65536, tlb=(TlbPart(2, nr_entries, LEVELS),))
    reaches = [policy["tlb_reach_bytes"] for policy in as_json(asked)["policies"]]
    for outcome, reach in zip(outcomes, reaches, strict=True):
        entries = [level.nr_pages * PAGE_SIZE for level, nr in outcome.nr_present.items() for _ in range(nr)]
        assert reach == sum(sorted(entries, reverse=True)[:nr_entries])
    assert len(set(reaches)) > 2, "a design that splits less has more within reach"
    table = as_table(asked).splitlines()
    assert "TLB holds" in "".join(table)
    assert max(map(len, table)) <= 80
    unknown = WhatIf(requests, memory, 1, outcomes)
    assert all(policy["tlb_reach_bytes"] is None for policy in as_json(unknown)["policies"])
    assert "TLB holds" not in as_table(unknown)
