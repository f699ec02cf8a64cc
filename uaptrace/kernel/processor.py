# SPDX-License-Identifier: Apache-2.0
"""The processor as /proc/cpuinfo has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^model name\s*:\s*(.*)$", re.MULTILINE)
_FLAGS: Final = re.compile(r"^flags\s*:\s*(.*)$", re.MULTILINE)
_MAX_CPUS: Final = 8192
"""More than CONFIG_NR_CPUS can be."""
_EMULATED: Final = "QEMU TCG"
"""Its processors are called so where nothing else was asked for (qemu, target/i386/tcg/tcg-cpu.c); with -cpu qemu64 they are not."""
_ANONYMOUS: Final = "QEMU Virtual CPU"
"""Said by -cpu qemu64 under emulation and under KVM alike; only KVM gives its clock."""


@dataclass(frozen=True, slots=True)
class Processor:
    """``virtual``: in a virtual machine; ``emulated``: by QEMU without KVM."""

    name: str
    virtual: bool
    emulated: bool


def read_processor(root: Path) -> Processor:
    """What is below ``root``; a file that is missing says nothing."""
    clocks = root / "sys/devices/system/clocksource/clocksource0/available_clocksource"
    return parse_processor(_text(root / "proc/cpuinfo"), _text(clocks))


def parse_processor(cpuinfo: str, clocks: str = "") -> Processor:
    """``clocks``: the kernel's list of available clock sources."""
    name = match[1].strip() if (match := _NAME.search(cpuinfo)) else "not known"
    virtual = (match := _FLAGS.search(cpuinfo)) is not None and "hypervisor" in match[1].split()
    emulated = name.startswith(_EMULATED) or (name.startswith(_ANONYMOUS) and "kvm-clock" not in clocks.split())
    return Processor(name, virtual, emulated)


def online_cpus(root: Path) -> tuple[int, ...]:
    """Numbers of the CPUs that run now; empty where the kernel does not say."""
    return parse_cpu_numbers(_text(root / "sys/devices/system/cpu/online"))


def possible_cpus(root: Path) -> tuple[int, ...]:
    """Numbers of the CPUs that there can ever be; empty where the kernel does not say."""
    return parse_cpu_numbers(_text(root / "sys/devices/system/cpu/possible"))


def parse_cpu_numbers(text: str) -> tuple[int, ...]:
    """``0-3,8``, as sysfs has lists of CPUs (Documentation/admin-guide/cputopology.rst). What is no list has none."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            numbers.extend(range(int(first), min(int(last or first), _MAX_CPUS) + 1))
    return tuple(numbers)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
