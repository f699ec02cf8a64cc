# SPDX-License-Identifier: Apache-2.0
"""A page whose memory fails leaves the direct map, by a call that hides the address from the CPU: it is seen all the same."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from uaptrace.abi.units import PAGE_SIZE, Level

TOP = Path(__file__).parents[2]
BANK = 9
DEFERRED = 1 << 63 | 1 << 58 | 1 << 44
"""MCi_STATUS: valid, with an address, an error in memory that nobody has used yet (AMD64 manual, volume 2, section 9.3.2.2). This is what
scrubbing finds; the processor that QEMU shows without KVM is AMD's."""
KERNEL = "patched-6.1"
"""6.12 takes the address of such an error only with CONFIG_X86_MCE_AMD, which the test kernel does not have."""

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def report_error(monitor: Path, address: str) -> str:
    """Have the machine report an error at a physical address; what QEMU said."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(monitor))
        stream = client.makefile("rw")
        stream.readline()
        command = f"mce 0 {BANK} {DEFERRED:#x} 0 {address} 0"
        for request in (
            {"execute": "qmp_capabilities"},
            {"execute": "human-monitor-command", "arguments": {"command-line": command}},
        ):
            print(json.dumps(request), file=stream, flush=True)
            answer = json.loads(stream.readline())
            while "event" in answer:  # QEMU tells what happens meanwhile.
                answer = json.loads(stream.readline())
        said: str = answer["return"]
        return said


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    folder = TOP / "build/vm/memory-failure"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    monitor = folder / "monitor"
    command = [str(TOP / "kernel/boot"), "--kernel", KERNEL, "--cpus", "1", "--timeout", GUEST_LIMIT_S]
    command += [f"--qemu-opts=-qmp unix:{monitor},server=on,wait=off"]
    command += ["--", sys.executable, "-m", "tests.vm.guest_memory_failure", str(folder)]
    with (folder / "log").open("w") as log:
        machine = subprocess.Popen(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    with machine:
        while not (folder / "address").exists() and machine.poll() is None:
            time.sleep(0.1)
        if machine.poll() is None:
            assert report_error(monitor, (folder / "address").read_text()) == ""
        status = machine.wait()
    assert status == 0, (folder / "log").read_text(errors="replace")[-4000:]
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_the_page_that_failed_is_absent_and_no_other(seen: dict[str, Any]) -> None:
    assert seen["corrupted_bytes"] == PAGE_SIZE, "the kernel did not take the page out of use"
    (_, failed) = seen["phases"]
    before, after = failed["before"]["direct_map"], failed["after"]["direct_map"]
    assert after["absent"] - before["absent"] == PAGE_SIZE
    assert seen["level"] == Level.K4
    for oracle in ("kcore", "ptdump"):
        assert failed[oracle]["differing_pages"] == 0, failed[oracle]
        assert failed[oracle]["rereads"] == 0, "it was seen only because the tables were read again"


def test_its_split_has_a_cause_though_vmstat_does_not_count_it(seen: dict[str, Any]) -> None:
    (_, failed) = seen["phases"]
    assert failed["after"]["exact"], failed["after"]["reasons"]
    before, after = failed["before"]["splits"], failed["after"]["splits"]
    assert after["2m"] - before["2m"] == 1
    assert after["by_cause"]["memory_failure"]["2m"] - before["by_cause"]["memory_failure"]["2m"] == 1
    assert after["unexplained"] == {"2m": 0, "1g": 0}
    assert failed["kernel_after"]["splits"] == failed["kernel_before"]["splits"]
