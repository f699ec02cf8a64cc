# SPDX-License-Identifier: Apache-2.0
"""Whatever is broken around the daemon, within seconds its state is exact and true, or says why it is not (tests/vm/lies.py)."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from tests.vm.sabotages import FTRACE, KPROBES, PLUG_VARIABLE, SABOTAGES
from uaptrace.loader.parent import LOADER_GONE

TOP = Path(__file__).parents[2]
EMULATED_S = 20.0
"""5 s are promised; this is allowed where a processor is emulated on a busy machine. The times are in build/vm/lies/result.json."""
PLUG = (
    {"execute": "qmp_capabilities"},
    {"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "more", "size": 256 << 20}},
    {"execute": "device_add", "arguments": {"driver": "pc-dimm", "id": "dimm", "memdev": "more"}},
)
"""What QEMU is told; each is answered by a line, after the greeting."""

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@contextlib.contextmanager
def plugging(monitor: Path, wanted: Path) -> Iterator[None]:
    """Adds memory to the machine when the guest asks for it by making a file."""
    over = threading.Event()

    def wait() -> None:
        while not wanted.exists():
            if over.wait(0.05):
                return
        with socket.socket(socket.AF_UNIX) as qemu:
            qemu.connect(str(monitor))
            with qemu.makefile("rw") as lines:
                for command in PLUG:
                    lines.readline()
                    lines.write(json.dumps(command) + "\n")
                    lines.flush()
                lines.readline()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    folder = TOP / "build/vm/lies"
    folder.mkdir(parents=True, exist_ok=True)
    out, wanted = folder / "result.json", folder / "plug"
    for old in (out, wanted):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as sockets, plugging(monitor := Path(sockets, "monitor"), wanted):
        command = [str(TOP / "kernel/boot"), "--kernel", "patched", "--timeout", GUEST_LIMIT_S]
        command += [f"--qemu-opts=-m 2G,slots=1,maxmem=4G -qmp unix:{monitor},server=on,wait=off"]
        command += ["--", "env", f"{PLUG_VARIABLE}={wanted}", sys.executable, "-m", "tests.vm.lies", str(out)]
        command += ["--mechanism", "kprobe", "--mechanism", "fentry"]
        with (folder / "log").open("w") as log:
            done = subprocess.run(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, (folder / "log").read_text(errors="replace")[-4000:]
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def rows() -> list[tuple[str, str]]:
    return [(row.name, mechanism) for row in SABOTAGES for mechanism in row.mechanisms]


def seen(said: dict[str, Any], name: str, mechanism: str) -> dict[str, Any]:
    (row,) = (row for row in said["rows"] if (row["name"], row["mechanism"]) == (name, mechanism))
    found: dict[str, Any] = row
    return found


@pytest.mark.parametrize(("name", "mechanism"), rows())
def test_it_is_exact_and_true_or_says_why_not(said: dict[str, Any], name: str, mechanism: str) -> None:
    row = seen(said, name, mechanism)
    assert row["ok"], row
    assert row["lied_s"] < EMULATED_S, row
    assert row["seconds"] < EMULATED_S, row


def test_a_label_is_said_everywhere(said: dict[str, Any]) -> None:
    """Case 1: the reason is in /readyz and in a metric."""
    labelled = [row for row in said["rows"] if row["label"]]
    assert len(labelled) >= 4
    for row in labelled:
        assert row["readyz"]["status"] == 503, row
        assert "hooks are silent" in row["readyz"]["body"]
        silent = [name for name, number in row["metrics"].items() if name.startswith("uaptrace_hooks_silent") and number]
        assert len(silent) == 1, row


def test_a_switch_is_named_by_its_file(said: dict[str, Any]) -> None:
    assert str(KPROBES) in seen(said, "kprobes switched off", "kprobe")["readyz"]["body"]
    assert str(FTRACE) in seen(said, "ftrace switched off", "kprobe")["readyz"]["body"]


@pytest.mark.parametrize("mechanism", ["fentry", "kprobe"])
def test_the_sabotages_are_real(said: dict[str, Any], mechanism: str) -> None:
    assert int(seen(said, "ring full", mechanism)["note"].split()[0]) > 100
    assert "MiB" in seen(said, "memory plugged in", "fentry")["note"]
    for name in ("CPU offline", "CPU online again", "clock set", "debugfs unmounted", "tracefs unmounted", "addresses hidden"):
        assert seen(said, name, mechanism)["note"] == "", "the kernel refused it"


def test_what_ends_the_daemon_leaves_nothing_and_has_one_line(said: dict[str, Any]) -> None:
    ends = {(end["mechanism"], end["name"]): end for end in said["ends"]}
    assert len(ends) == 6
    for (_, name), end in ends.items():
        assert not end["answers"], end
        if name == "daemon killed":
            assert end["status"] == -9
            continue
        (line,) = (line for line in end["stderr"].splitlines() if not line.startswith("serving on"))
        why = "tracing ended: RuntimeError: sabotaged" if name == "loop broken" else LOADER_GONE
        assert line.startswith(f"uaptrace: {why}"), line
        assert end["status"] == (1 if name == "loop broken" else 2), end
        assert end.get("seconds", 0) < EMULATED_S


def test_the_kernel_has_no_complaint(said: dict[str, Any]) -> None:
    assert said["complaints"] == []
