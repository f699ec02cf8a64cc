# SPDX-License-Identifier: Apache-2.0
"""Whether this is a container, and what it lacks: by namespaces, capabilities and mounts, as /proc and /sys have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uaptrace.kernel.container import CAPABILITIES, HOST_NAME_VARIABLE, Container, problems, read_container
from uaptrace.kernel.kcore import open_kcore

INITIAL = {"user": 4026531837, "pid": 4026531836, "uts": 4026531838, "cgroup": 4026531835}
ALL = sum(1 << number for number in CAPABILITIES.values())


def root(folder: Path, capabilities: int = ALL, cgroup_files: tuple[str, ...] = ("cgroup.controllers",), **others: int) -> Path:
    """/proc and /sys of a process in the host's namespaces, but for ``others``."""
    (folder / "proc/self/ns").mkdir(parents=True)
    for name, inode in (INITIAL | others).items():
        (folder / "proc/self/ns" / name).symlink_to(f"{name}:[{inode}]")
    (folder / "proc/self/status").write_text(f"Name:\tuaptrace\nCapInh:\t0000000000000000\nCapEff:\t{capabilities:016x}\n")
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    for name in cgroup_files:
        (folder / "sys/fs/cgroup" / name).write_text("")
    return folder


def test_a_host_is_no_container_and_lacks_nothing(tmp_path: Path) -> None:
    found = read_container({}, root(tmp_path))
    assert not found.is_one
    assert problems(found) == ([], [])


def test_this_kernel_has_the_namespaces_where_they_are_looked_for() -> None:
    own = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in INITIAL}
    assert read_container({}).foreign == {name for name, inode in own.items() if inode != INITIAL[name]}


@pytest.mark.parametrize("mark", ["run/.containerenv", ".dockerenv", "var/run/secrets/kubernetes.io"])
def test_a_runtime_leaves_a_mark_where_all_namespaces_are_the_host_s(mark: str, tmp_path: Path) -> None:
    root(tmp_path)
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text("")
    found = read_container({}, tmp_path)
    assert found.is_one
    assert problems(found) == ([], []), "one that shares all with the host lacks nothing"


@pytest.mark.parametrize("name", CAPABILITIES)
def test_each_capability_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    found = read_container({}, root(tmp_path, ALL & ~(1 << CAPABILITIES[name]), cgroup=4026532999))
    assert problems(found) == ([f"{name} missing"], ["add them (capabilities.add, --cap-add)"])


@pytest.mark.parametrize(
    ("others", "files", "what", "mend"),
    [
        ({"user": 4026532001}, (), "takes no tracing program", "hostUsers"),
        ({"pid": 4026532001}, (), "process ids", "hostPID"),
        ({"uts": 4026532001}, (), "host name", HOST_NAME_VARIABLE),
        ({"cgroup": 4026532001}, ("cgroup.controllers", "cgroup.type"), "its own cgroups only", "/sys/fs/cgroup"),
    ],
)
def test_each_thing_that_is_not_the_host_s_is_named_with_what_mends_it(
    others: dict[str, int], files: tuple[str, ...], what: str, mend: str, tmp_path: Path
) -> None:
    whats, mends = problems(read_container({}, root(tmp_path, cgroup_files=files, **others)))
    assert len(whats) == len(mends) == 1
    assert what in whats[0]
    assert mend in mends[0]


def test_a_name_that_was_given_is_the_host_s(tmp_path: Path) -> None:
    found = read_container({HOST_NAME_VARIABLE: "node-7"}, root(tmp_path, uts=4026532001))
    assert found.is_one
    assert problems(found) == ([], [])


def test_what_cannot_be_read_is_taken_for_the_host_s_but_for_capabilities(tmp_path: Path) -> None:
    assert read_container({}, tmp_path) == Container(False, frozenset(), tuple(CAPABILITIES), True, False)


def test_a_core_that_a_runtime_has_masked_is_none(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("other", b"no core at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match="masked by a container runtime"):
            open_kcore(str(tmp_path / name))
    with pytest.raises(OSError, match="masked by a container runtime"):
        open_kcore("/dev/null")
    (tmp_path / "core").write_bytes(b"\x7fELF and more")
    os.close(open_kcore(str(tmp_path / "core")))
