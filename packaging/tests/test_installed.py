# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a host of its own: systemd is the first process, and what is tested is what a user would install.

``make test-package`` builds the package, makes a tree of its release, and boots that twice under each kernel. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uaptrace.commands.group import COMMANDS
from uaptrace.testhost import kernel_sources
from uaptrace.testhost.trees import system_tree

TOP = Path(__file__).parents[2]
LIMIT_S = 2400
"""For one boot of the guest, beside other work on slow processors."""
KERNELS = os.environ.get("UAPTRACE_TEST_KERNELS", "").split() or [kernel_sources.default_base()]
"""Of the series, by the source that it is on: they need no initramfs."""
NEXT_VERSION = "99"
PROMETHEUS = """# as docs/installing.md has it, every second
scrape_configs:
  - job_name: uaptrace
    scrape_interval: 1s
    static_configs:
      - targets: ["127.0.0.1:9970"]
"""
UNIT = """[Unit]
Description=What a user does with the package
After=basic.target systemd-journald.service
[Service]
Type=oneshot
Environment=LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
TimeoutStartSec=2300
ExecStart=/usr/bin/python3 /root/guest_installed.py /root/seen.json
ExecStopPost=/bin/systemctl poweroff --force --no-block
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree with the package installed, and its next version as a file; to be copied."""
    work = tmp_path_factory.mktemp("package")
    deb = Path(os.environ["UAPTRACE_TEST_PACKAGE"])
    root = system_tree(deb, TOP, work / "root")
    upgrade(deb, work, root / "root/next.deb")
    shutil.copy(Path(__file__).with_name("guest_installed.py"), root / "root")
    (root / "etc/systemd/system/user.service").write_text(UNIT)
    (root / "etc/prometheus/prometheus.yml").write_text(PROMETHEUS)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "user.service").symlink_to("../user.service")
    # When it is to begin is the guest's to say.
    (wants / "prometheus.service").unlink()
    yield root
    shutil.rmtree(work)


def upgrade(deb: Path, work: Path, out: Path) -> None:
    """The same package with a higher version."""
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(work / "next")], check=True)
    control = work / "next/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {NEXT_VERSION}", control.read_text()))
    # Not packed: an emulated processor takes long to unpack it.
    subprocess.run(["dpkg-deb", "-Znone", "--build", str(work / "next"), str(out)], stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(work / "next")


@pytest.fixture(scope="module", params=KERNELS)
def seen(request: pytest.FixtureRequest, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    work = tmp_path_factory.mktemp("installed")
    root = work / "root"
    subprocess.run(["cp", "--archive", str(installed), str(root)], check=True)
    built = subprocess.run([str(TOP / "kernel/build"), "--base", request.param], capture_output=True, text=True, check=True)
    answer = root / "root/seen.json"
    for boot in ("first", "second"):
        console = work / f"{boot}.console"
        with open(console, "wb") as out:
            subprocess.run(qemu(root, built.stdout.splitlines()[-1]), stdin=subprocess.DEVNULL, stdout=out, timeout=LIMIT_S, check=False)
        assert answer.exists(), console.read_text(errors="replace")[-4000:]
    found = json.loads(answer.read_text())
    assert "purge" in found, console.read_text(errors="replace")[-4000:]
    kept = TOP / "build/package" / request.param
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(root / "root/kept", kept)
    shutil.copy(answer, kept)
    yield found
    shutil.rmtree(root)


def qemu(root: Path, image: str) -> list[str]:
    """The command: files over 9p, kept in the guest until it powers off; the kernel's own start of systemd."""
    root_flags = "trans=virtio,version=9p2000.L,msize=262144,cache=loose"
    append = f"root=/dev/root rootfstype=9p rootflags={root_flags} rw init=/lib/systemd/systemd console=ttyS0"
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", "2G", "-nographic", "-no-reboot"),
        *("-fsdev", f"local,id=root,path={root},security_model=passthrough,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=/dev/root", "-kernel", image, "-append", f"{append} secretmem.enable=1"),
    ]


def test_the_host_can_be_traced_without_a_compiler_and_every_command_has_a_page(seen: dict[str, Any]) -> None:
    assert seen["compiler"] is None
    assert seen["check"]["status"] == 0, seen["check"]
    assert seen["man"] >= len(COMMANDS) + 1


def test_enabled_it_is_ready_when_the_state_is_exact(seen: dict[str, Any]) -> None:
    assert seen["enable"]["status"] == 0, seen["first_journal"]
    assert seen["status_text"] == "exact"
    assert seen["ready"].strip() == "ok"
    assert "uaptrace_state_exact 1.0" in seen["metrics"]


def test_prometheus_has_an_exact_state_after_five_scrapes_at_most(seen: dict[str, Any]) -> None:
    """Of one each second: a scrape target that is right within five seconds of being enabled."""
    assert seen["scraping"]
    exact_s = next((time_s for time_s, value in seen["scraped"] if value == 1), None)
    assert exact_s is not None, seen["first_journal"]
    later = [time_s for time_s, _ in seen["scrapes"] if seen["enabled_s"] < time_s <= exact_s]
    assert len(later) <= 5, later
    print(f"the first exact sample {exact_s - seen['enabled_s']:.2f} s after systemctl enable --now, in the guest")


def test_it_keeps_no_privilege(seen: dict[str, Any]) -> None:
    assert seen["privileges"] == {"Uid": seen["user"], "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}


def test_killed_it_comes_back_and_is_exact(seen: dict[str, Any]) -> None:
    assert seen["active_again"], seen["first_journal"]
    assert seen["ready_again"].strip() == "ok"
    assert seen["top"]["status"] == 0, seen["top"]


def test_the_black_box_records_and_keeps_what_was_before(seen: dict[str, Any]) -> None:
    assert [done["status"] for done in seen["record"]] == [0, 0], seen["first_journal"]
    assert seen["recording"]["status"] == 0, seen["recording"]
    assert seen["previous"] == ["host.uaptrace"]


def test_an_upgrade_restarts_what_is_enabled_and_keeps_what_the_host_changed(seen: dict[str, Any]) -> None:
    assert seen["upgrade"]["status"] == 0, seen["upgrade"]
    assert seen["upgraded_to"] == NEXT_VERSION
    assert seen["upgraded_active"], seen["first_journal"]
    assert seen["upgraded_ready"].strip() == "ok"
    assert seen["kept_defaults"]


def test_after_a_reboot_it_is_there_by_itself_and_has_what_was_recorded_before(seen: dict[str, Any]) -> None:
    assert seen["enable_record"]["status"] == 0
    assert seen["boot_active"] == [True, True], seen["journal"]
    assert seen["boot_ready"].strip() == "ok"
    assert "uaptrace_state_exact 1.0" in seen["boot_metrics"]
    assert seen["boot_restarts"] == "0"
    assert seen["boot_previous"] == ["host.uaptrace"]
    print(seen["boot_metrics"], seen["vmstat"], seen["boot_times"])


def test_the_units_are_sound(seen: dict[str, Any]) -> None:
    assert seen["verify_units"]["status"] == 0, seen["verify_units"]
    print(seen["security"])


def test_purged_it_leaves_nothing(seen: dict[str, Any]) -> None:
    assert seen["purge"]["status"] == 0, seen["purge"]
    assert seen["left_files"] == []
    assert not seen["left_user"]
    assert seen["left_processes"] == ""
