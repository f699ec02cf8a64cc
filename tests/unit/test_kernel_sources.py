# SPDX-License-Identifier: Apache-2.0
"""Which source a patched kernel is made of, and what each series has in kernel/."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from uaptrace.testhost import archive, host, kernel_sources
from uaptrace.testhost.kernel_sources import BASES

KERNEL = Path(__file__).parents[2] / "kernel"


def test_each_series_has_the_same_interface_and_a_configuration_of_its_own() -> None:
    folders = {folder.name for folder in (KERNEL / "patches").iterdir()}
    assert folders == set(BASES)
    interface = [
        'debugfs_create_file("unmapped_alloc"',
        'debugfs_create_file_unsafe("unmapped_alloc_fault"',
        '"mm-unmapped-alloc"',
        *sorted(set(re.findall(r"UNMAPPED_FAULT_[A-Z_]+\t+= BIT\(\d\)", _patches(BASES[0])))),
    ]
    assert len(interface) == 3 + 8, "the eight faults of docs/kernel.md"
    for base in BASES:
        text = _patches(base)
        assert [name for name in interface if name not in text] == [], base
        assert (KERNEL / f"config-{base}").exists()


@pytest.mark.parametrize("base", BASES)
def test_patches_of_a_series_are_numbered_as_they_are_applied(base: str) -> None:
    names = sorted(patch.name for patch in (KERNEL / "patches" / base).glob("*.patch"))
    for number, name in enumerate(names, 1):
        assert name.startswith(f"{number:04}-")
        assert (KERNEL / "patches" / base / name).read_text().startswith(f"Subject: [PATCH {number}/{len(names)}] ")


def _patches(base: str) -> str:
    return "".join(patch.read_text() for patch in sorted((KERNEL / "patches" / base).glob("*.patch")))


@pytest.mark.parametrize("program", [["build", "--base", "5.10"], ["build", "--base"], ["source", "5.10"], ["source", "6.1", "6.12"]])
def test_a_series_without_patches_is_refused(program: list[str]) -> None:
    done = subprocess.run([str(KERNEL / program[0]), *program[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "6.12" in done.stderr


def test_the_newest_source_that_was_fetched_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sources, "CACHE", tmp_path)
    monkeypatch.setattr(kernel_sources, "_INSTALLED", tmp_path / "none")
    (tmp_path / "sources").mkdir()
    for version in ("6.12.9-1", "6.12.117-1~deb12u1", "6.12.117-1~deb12u1~rc1"):
        (tmp_path / "sources" / f"linux-source-6.12_{version}.tar.xz").touch()
    (tmp_path / "sources" / "linux-source-6.1_6.1.192-2.tar.xz").touch()
    assert kernel_sources.source("6.12").version == "6.12.117-1~deb12u1"
    assert kernel_sources.source("6.1").version == "6.1.192-2"


@pytest.mark.parametrize(("offered", "base"), [({"6.1", "6.12"}, "6.1"), ({"6.12"}, "6.12"), (set(), "6.1")])
def test_the_default_is_the_first_that_the_release_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: set[str], base: str
) -> None:
    names = [f"linux-source-{series}" for series in offered] + ["linux-source-6.12-extra"]
    monkeypatch.setattr(kernel_sources, "_INSTALLED", tmp_path)
    monkeypatch.setattr(
        archive.Lists, "newest", lambda _, pattern: next((archive.Package(name, "1") for name in names if pattern.fullmatch(name)), None)
    )
    assert kernel_sources.default_base() == base


def test_a_security_archive_belongs_to_the_lists_of_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are the newest of a release, and those that the patches are made for."""
    monkeypatch.setattr(archive, "output_of", lambda _: "\t\thttp://mirror.example/debian\n\t\thttp://mirror.example/debian-security\n")
    lists = archive.Lists("bookworm")
    best, fallback = lists._source_lists()
    assert f"deb [signed-by={archive.KEYRING}] http://mirror.example/debian-security bookworm-security main\n" in best
    assert "security main" not in fallback
    assert len(archive.Lists("trixie-backports")._source_lists()) == 1


def test_mounts_of_ones_own_are_had_below_a_chroot_too() -> None:
    root = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    chroot = "145 125 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw\n"
    assert host.propagation(root + chroot) == []
    assert host.propagation(chroot) == ["--propagation", "unchanged"]
