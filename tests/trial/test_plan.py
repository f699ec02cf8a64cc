# SPDX-License-Identifier: Apache-2.0
"""What a person asks for is understood, or refused before anything boots."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from uaptrace.abi.errors import UsageError
from uaptrace.testhost import host, images
from uaptrace.trial.needs import NEEDS, kconfig_fragment
from uaptrace.trial.runs import WORKLOAD, begin, check_workload
from uaptrace.trial.trial_plan import BUILT_IMAGE, Kernel, Plan, Workload, parse_kernel, parse_workload

TOP = Path(__file__).parents[2]


def plan(nr_kernels: int, repeat: int) -> Plan:
    kernels = tuple(Kernel(str(number), "patched", None, "") for number in range(nr_kernels))
    return Plan(kernels, (Workload("true", ("true",)),), repeat, 1, "2G", 2, 900.0, False)


def take(text: str, seed: int) -> Workload:
    work = parse_workload(text, WORKLOAD, seed)
    check_workload(work.command, work.label)
    return work


def test_runs_go_forwards_and_backwards_in_turn() -> None:
    assert plan(2, 3).runs() == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]
    assert [kernel for kernel, _ in plan(3, 2).runs()] == [0, 1, 2, 2, 1, 0]


def test_a_kernel_is_a_name_an_image_or_a_build_each_with_arguments(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz-6.12.0+b1"
    image.write_bytes(b"")
    built = tmp_path / "linux"
    (built / BUILT_IMAGE).parent.mkdir(parents=True)
    (built / BUILT_IMAGE).write_bytes(b"")
    assert parse_kernel("debian-7.3").boot_options() == ["--kernel", "debian-7.3"]
    assert parse_kernel("patched-6.12+no5lvl a=b").boot_options() == ["--kernel", "patched-6.12", "--append", "no5lvl a=b"]
    assert parse_kernel(str(image)).boot_options() == ["--image", str(image)], "a name with + in it is a name"
    assert parse_kernel(f"{built}+nokaslr").boot_options() == ["--image", str(built / BUILT_IMAGE), "--append", "nokaslr"]


@pytest.mark.parametrize("text", ["", "linux", "patched-5.0", "debian-", "+a", "/nowhere/bzImage", "patched+a='b"])
def test_what_is_no_kernel_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_kernel(text)


def package(folder: Path, files: dict[str, bytes]) -> Path:
    """A .deb with these files."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: linux-image-test\nVersion: 1\nArchitecture: amd64\nMaintainer: tester <tester@example.invalid>\nDescription: test\n"
    (tree / "DEBIAN/control").write_text(control)
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(folder / "linux-image.deb")], check=True, stdout=subprocess.DEVNULL)
    return folder / "linux-image.deb"


@pytest.mark.parametrize("image", ["boot/vmlinuz-6.12.0-test", "usr/lib/modules/7.3.0-test/vmlinuz"])
def test_a_package_is_unpacked_once_and_its_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(host, "CACHE", tmp_path / "cache")
    release = "7.3.0-test" if "7.3" in image else "6.12.0-test"
    modules = "usr/lib/modules" if "7.3" in image else "lib/modules"
    deb = package(tmp_path, {image: b"an image", f"{modules}/{release}/kernel/a.ko": b""})
    kernel = parse_kernel(f"{deb}+quiet")
    assert kernel.image is not None
    assert kernel.image.read_bytes() == b"an image"
    found = images.modules_of(kernel.image)
    assert found is not None
    assert found.name == release
    before = kernel.image.stat().st_ino
    again = parse_kernel(str(deb)).image
    assert again is not None
    assert again.stat().st_ino == before


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_package_without_a_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(host, "CACHE", tmp_path / "cache")
    deb = package(tmp_path, {"etc/motd": b""})
    if content is not None:
        deb.write_bytes(content)
    with pytest.raises(UsageError, match="linux-image") as refused:
        parse_kernel(str(deb))
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache/kernels").glob("*package*"))


def test_a_build_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bzImage"):
        parse_kernel(str(tmp_path))


@pytest.mark.parametrize("text", ["secretmem:pages=4096,order=random", "mix:steps=3", "modules", "storm:times=2", "mix:seed=4,steps=2"])
def test_work_is_what_the_script_takes(text: str) -> None:
    work = take(text, seed=7)
    assert [word for word in work.command if word.startswith("--seed")] == (
        [] if text.startswith(("modules", "storm")) else ["--seed=4"] if "seed" in text else ["--seed=7"]
    )


@pytest.mark.parametrize("text", ["", "nothing", "secretmem:pages", "secretmem:pages=x", "secretmem:pages=1,pages=2", "mix:order=random"])
def test_work_that_the_script_does_not_take_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="workload"):
        take(text, seed=1)


def test_a_trial_is_resumed_with_the_same_arguments_only(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    begin(plan(2, 1), folder, resume=False)
    begin(plan(2, 1), folder, resume=True)
    for wrong, resume in ((plan(2, 2), True), (plan(2, 1), False)):
        with pytest.raises(UsageError):
            begin(wrong, folder, resume=resume)
    with pytest.raises(UsageError, match="no trial"):
        begin(plan(2, 1), tmp_path / "other", resume=True)


def test_the_fragment_names_what_the_project_s_own_kernels_have() -> None:
    configured = "".join((TOP / "kernel" / name).read_text() for name in ("config", "config-6.1", "config-6.12")).splitlines()
    wanted = [line for line in kconfig_fragment().splitlines() if not line.startswith("#")]
    assert len(wanted) == sum(map(len, NEEDS.values()))
    assert [line for line in wanted if line not in configured] == []
