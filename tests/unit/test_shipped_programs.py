# SPDX-License-Identifier: Apache-2.0
"""A host without bcc starts with the programs that uaptrace was built with, and never with those of other sources."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import bpf_programs
from uaptrace.abi.hooks import HOOKS
from uaptrace.ebpf.compiled import Compiled, MapSpec
from uaptrace.loader import programs
from uaptrace.loader.program import bpf_folder, map_sizes
from uaptrace.loader.programs import compile_now, compiled_programs, compiler_version, shipped_with, sources
from uaptrace.loader.shipped import NAME, Shipped, read_shipped

SMALL = Compiled({"ring": MapSpec(27, 0, 0, 1, 0), "other": MapSpec(1, 4, 8, 3, 0)}, {"f": bytes.fromhex("9500000000000000")})


@pytest.fixture
def shipped() -> Shipped:
    found = shipped_with(bpf_folder())
    if found is None:
        why = bpf_programs.why_not()
        assert why, "make setup compiles them where it may"
        pytest.skip(f"not compiled here ({why}): run make setup as root")
    return found


@pytest.fixture
def tracing(shipped: Shipped) -> Compiled:
    """The programs that trace."""
    return shipped.programs[next(iter(sources(bpf_folder())))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources of a checkout, with programs that are said to be compiled of them."""
    folder = tmp_path / "bpf"
    shutil.copytree(bpf_folder(), folder)
    Shipped("a compiler", dict.fromkeys(sources(folder), SMALL)).write(folder)
    return folder


def test_they_are_what_the_compiler_makes_of_these_sources(shipped: Shipped) -> None:
    if why := bpf_programs.why_not():
        pytest.skip(why)
    folder = bpf_folder()
    if shipped.compiler != (here := compiler_version(folder)):
        pytest.skip(f"compiled by {shipped.compiler}, here is {here}: remove bpf/{NAME} and run make setup")
    for key, source in sources(folder).items():
        assert compile_now(*source, folder) == shipped.programs[key]


def test_every_hook_has_a_program_for_each_mechanism(tracing: Compiled) -> None:
    for hook in HOOKS:
        for when in ("enter_", "exit_") if hook.has_exit else ("enter_",):
            assert {f"{when}{hook.name}", f"{when}{hook.name}_regs"} <= tracing.functions.keys()


def test_a_host_needs_no_compiler(tracing: Compiled) -> None:
    script = (
        "import sys; sys.modules['bcc'] = None\n"
        "from uaptrace.loader.program import *; from uaptrace.loader.programs import compiled_programs\n"
        "print(len(compiled_programs(program_text(bpf_folder()), compiler_flags(), bpf_folder()).functions))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(tracing.functions)


def test_they_say_nothing_of_the_machine_that_built_them(shipped: Shipped) -> None:
    assert str(bpf_folder()) not in (bpf_folder() / NAME).read_text()
    assert shipped.compiler.startswith("bcc ")


@pytest.mark.parametrize("name", ["common.bpf.c", "reader.bpf.c", "events.h"])
def test_programs_of_other_sources_are_not_taken(folder: Path, name: str) -> None:
    assert shipped_with(folder) is not None
    (folder / name).write_text((folder / name).read_text() + "\n/* changed */\n")
    assert shipped_with(folder) is None


def test_where_they_are_not_of_the_sources_the_host_compiles(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Compiled({}, {"mine": SMALL.functions["f"]})
    monkeypatch.setattr(programs, "compile_now", lambda *_: mine)
    text, flags = next(iter(sources(folder).values()))
    kept = tmp_path / "kept"
    assert compiled_programs(text, flags, folder, kept_in=kept) == SMALL
    assert compiled_programs(text, flags, folder, fresh=True, kept_in=kept) == mine, "--compile"
    (folder / "events.h").write_text("")
    assert compiled_programs(text, flags, folder, kept_in=kept) == mine


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"compiler": 1, "programs": []}', '{"compiler": "", "programs": {"a": {"maps": {}}}}'])
def test_damage_means_compiling(folder: Path, text: str) -> None:
    (folder / NAME).write_text(text)
    assert read_shipped(folder) is None
    (folder / NAME).unlink()
    assert read_shipped(folder) is None


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    assert json.loads((folder / NAME).read_text())["programs"].keys() == sources(folder).keys()
    assert shipped_with(folder) == Shipped("a compiler", dict.fromkeys(sources(folder), SMALL))


def test_the_sizes_of_maps_are_said_when_they_are_made(tracing: Compiled) -> None:
    sizes = map_sizes(ring_bytes=1 << 20, nr_cpus=7)
    assert sizes.keys() <= tracing.maps.keys()
    sized = tracing.sized(sizes)
    assert {name: sized.maps[name].max_entries for name in sizes} == sizes
    assert {name: spec for name, spec in sized.maps.items() if name not in sizes} == {
        name: spec for name, spec in tracing.maps.items() if name not in sizes
    }
