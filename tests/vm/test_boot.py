# SPDX-License-Identifier: Apache-2.0
"""kernel/boot, where guests die: before the command has started they are started again, after it they are not."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from uaptrace.testhost import code_mounts

TOP = Path(__file__).parents[2]
KERNEL = "debian-6.12"

pytestmark = pytest.mark.vm


def boot(folder: Path, *options: str, command: str = "true", text: str = "") -> subprocess.CompletedProcess[str]:
    words = [str(TOP / "kernel/boot"), "--kernel", KERNEL, "--timeout", GUEST_LIMIT_S, "--starts", str(folder / "starts"), *options]
    return subprocess.run([*words, "--", "sh", "-c", command], cwd=TOP, input=text, capture_output=True, text=True, check=False)


def starts(folder: Path) -> int:
    return int((folder / "starts").read_text())


def panic_at(console: Path, monitor: Path, text: str, patience_s: float = float(GUEST_LIMIT_S)) -> None:
    """Make the guest's kernel panic once its console has the text: an NMI that nobody expects, with unknown_nmi_panic. The kernel may have
    to be fetched before."""
    until = time.monotonic() + patience_s
    while not console.exists() or text not in console.read_text(errors="replace"):
        assert time.monotonic() < until, f"the console never had {text!r}"
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(monitor))
        stream = client.makefile("rw")
        stream.readline()
        for request in ("qmp_capabilities", "inject-nmi"):
            print(json.dumps({"execute": request}), file=stream, flush=True)
            stream.readline()


def test_a_guest_that_panics_before_the_command_is_started_again(tmp_path: Path) -> None:
    console, monitor = tmp_path / "console", tmp_path / "monitor"
    words = [str(TOP / "kernel/boot"), "--kernel", KERNEL, "--timeout", GUEST_LIMIT_S, "--starts", str(tmp_path / "starts")]
    words += ["--console", str(console), "--append", "unknown_nmi_panic", f"--qemu-opts=-qmp unix:{monitor},server=on,wait=off"]
    with subprocess.Popen(
        [*words, "--", "cat"], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        panic_at(console, monitor, "Run /init as init process")
        # Standard input is given at once, and still reaches the command of the guest that lives.
        out, err = process.communicate("what was typed before\n")
    assert (process.returncode, out) == (0, "what was typed before\n"), err
    assert "Kernel panic" in console.read_text(errors="replace")
    assert "boot: the guest died before the command started: starting it again (1 of 2)" in err
    assert starts(tmp_path) == 2


def test_a_guest_that_never_gets_to_the_command_fails_after_three_starts(tmp_path: Path) -> None:
    done = boot(tmp_path, "--append", "rdinit=/none root=/dev/none rootfstype=none")
    assert done.returncode == 70
    assert done.stderr.count("starting it again") == 2
    assert "Kernel panic" in done.stderr
    assert done.stderr.splitlines()[-1] == "boot: the guest crashed before the command ended"
    assert starts(tmp_path) == 3


def test_a_guest_that_dies_after_the_command_started_is_not_started_again(tmp_path: Path) -> None:
    done = boot(tmp_path, command="echo c > /proc/sysrq-trigger; sleep 600")
    assert done.returncode == 70
    assert "starting it again" not in done.stderr
    assert "Kernel panic" in done.stderr
    assert starts(tmp_path) == 1


def test_a_command_that_fails_is_no_death(tmp_path: Path) -> None:
    done = boot(tmp_path, command="cat; exit 7", text="in\n")
    assert (done.returncode, done.stdout, starts(tmp_path)) == (7, "in\n", 1)


def test_what_a_guest_writes_to_code_stays_in_the_guest(tmp_path: Path) -> None:
    places = ["/usr/lib/python3", *(str(TOP / name) for name in code_mounts.CHECKOUT)]
    written = [f"{place}/written-in-a-guest" for place in places]
    done = boot(tmp_path, command=" ".join(("touch", *written, "&&", "ls", *written, "&&", "cut", "-d' '", "-f2,3", "/proc/mounts")))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[: len(written)] == sorted(written)
    assert {f"{place} overlay" for place in places} <= set(lines), "without these mounts a guest is several times slower"
    assert not [name for name in written if Path(name).exists()]
