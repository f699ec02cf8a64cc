# SPDX-License-Identifier: Apache-2.0
"""What the Debian package brings: a manual page for each command with each of its options, services whose options are valid."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uaptrace.commands.group import COMMANDS, main_group
from uaptrace.testhost import trees
from uaptrace.testhost.errors import HostError

TOP = Path(__file__).parents[2]
PACKAGING = TOP / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"packaging_{name}", PACKAGING / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


manual, dependencies, elsewhere = module("manual"), module("dependencies"), module("elsewhere")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, PACKAGING / "manual.py", folder], check=True, cwd=TOP)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page_with_each_option(name: str, pages: Path) -> None:
    command = main_group.get_command(click.Context(main_group), name)
    assert command is not None
    page = (pages / f"uaptrace-{name}.1").read_text()
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert manual.roff(option) in page, option
    assert f"\\-{name}\\fR(1)" in (pages / "uaptrace.1").read_text()


@given(st.text())
def test_no_text_is_taken_for_a_request(text: str) -> None:
    assert not any(line.startswith((".", "'")) for line in manual.roff(text).split("\n"))
    assert not re.search(r"\\(?![e&-])", manual.roff(text))


def test_completions_are_written_for_each_shell(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PACKAGING / "completion.py", tmp_path], check=True, cwd=TOP)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 3
    assert all("_UAPTRACE_COMPLETE" in path.read_text() for path in written)


@given(st.sets(st.sampled_from(["numpy", "matplotlib", "click", "pyarrow"])))
def test_a_module_in_c_comes_from_where_the_one_it_is_built_on_comes(there: set[str]) -> None:
    wanted = dependencies.requirements((TOP / "setup.cfg").read_text())
    theirs, ours = dependencies.divide(wanted, lambda r: r.name in there)
    assert {r.name for r in theirs} | {r.name for r in ours} == {r.name for r in wanted}
    assert len(theirs) + len(ours) == len(wanted)
    assert {r.name for r in theirs} == there - ({"matplotlib"} if "numpy" not in there else set())


def settings(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_services_call_commands_with_valid_options(unit: Path) -> None:
    """With what /etc/default/uaptrace says as it is shipped."""
    defaults = dict(re.findall(r'^(\w+)="(.*)"$', (PACKAGING / "systemd/uaptrace.default").read_text(), re.MULTILINE))
    line = re.sub(r"\$(\w+)", lambda m: defaults[m[1]], settings(unit)["Service"]["ExecStart"])
    program, name, *arguments = shlex.split(line)
    assert program == "/usr/bin/uaptrace"
    command = main_group.get_command(click.Context(main_group), name)
    assert command is not None
    command.make_context(name, arguments)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_services_are_confined(unit: Path) -> None:
    service = settings(unit)["Service"]
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    # It would hide /proc/kcore and /proc/kallsyms, which the loader reads.
    assert "ProtectKernelTunables" not in service
    for capability in ("CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_SYS_BOOT"):
        assert capability not in service["CapabilityBoundingSet"].split()


def test_a_package_for_another_release_is_built_of_the_checkout_as_it_is_now(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "bpf").mkdir(parents=True)
    for name in ("kept", "gone", "bpf/changed"):
        (checkout / name).write_text("old")
    (checkout / "run").write_text("#!/bin/sh\n")
    (checkout / "run").chmod(0o755)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    (checkout / "bpf/changed").write_text("new")
    (checkout / "gone").unlink()
    for name in ("bpf/programs.json", "not in git"):
        (checkout / name).write_text("made here")
    elsewhere.copy_sources(checkout, tmp_path / "copy")
    found = {str(path.relative_to(tmp_path / "copy")): path.read_text() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert found == {"kept": "old", "bpf/changed": "new", "run": "#!/bin/sh\n", "bpf/programs.json": "made here"}
    assert os.access(tmp_path / "copy/run", os.X_OK)


@pytest.mark.parametrize(
    ("name", "release"), [("uaptrace_0.1.0~deb13u1_amd64.deb", "trixie"), ("uaptrace_2.0~deb12u3_amd64.deb", "bookworm")]
)
def test_a_packages_name_says_which_release_it_is_for(name: str, release: str) -> None:
    assert trees.package_release(name) == release


@pytest.mark.parametrize("name", ["uaptrace_0.1.0_amd64.deb", "uaptrace_0.1.0~deb99u1_amd64.deb"])
def test_a_package_of_no_known_release_is_refused(name: str) -> None:
    with pytest.raises(HostError, match="no such release"):
        trees.package_release(name)


@pytest.mark.slow
def test_two_builds_of_the_wheel_are_the_same_bytes(tmp_path: Path) -> None:
    """Whoever builds it again can tell that what was shipped is what is in the source, wherever it is built."""
    tracked = subprocess.run(["git", "ls-files"], cwd=TOP, check=True, capture_output=True, text=True).stdout.splitlines()
    wheels = []
    for name in ("here", "there"):
        tree = tmp_path / name
        for file in tracked:
            if not file.startswith(("tests/", "docs/")) and (TOP / file).is_file():
                (tree / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(TOP / file, tree / file)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tree / "out"), "."]
        subprocess.run(command, cwd=tree, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1790000000"})
        (wheel,) = (tree / "out").glob("*.whl")
        wheels.append(wheel.read_bytes())
    assert wheels[0] == wheels[1]
