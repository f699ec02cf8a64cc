# SPDX-License-Identifier: Apache-2.0
"""Switches of the kernel by which it stops calling programs that are attached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uaptrace.loader.opened_files import FILES
from uaptrace.model.silence import Silence


@dataclass(frozen=True, slots=True)
class Switch:
    """``file``: a key of FILES. ``silences``: the mechanisms that are not called while it is off."""

    file: str
    silence: Silence
    silences: frozenset[str]

    @property
    def path(self) -> str:
        """The file to read, and to write 1 to."""
        return FILES[self.file]


SWITCHES: Final = (
    # kernel/kprobes.c, disarm_all_kprobes(): no kprobe is called, whoever attached it.
    Switch("kprobes_enabled", Silence.KPROBES_OFF, frozenset({"kprobe"})),
    # kernel/trace/ftrace.c, ftrace_enable_sysctl(): nobody is called. It is refused while there are
    # operations that are permanent, which neither those of fentry nor those of kprobes are on 6.1.
    Switch("ftrace_enabled", Silence.FTRACE_OFF, frozenset({"fentry", "kprobe"})),
)


def says_off(text: bytes) -> bool:
    """Whether what was read from a switch's file means off."""
    return text.strip() in (b"0", b"N")


def off_now(root: Path = Path("/")) -> tuple[Switch, ...]:
    """Switches that are off. Those that cannot be read are not known to be."""
    found = []
    for switch in SWITCHES:
        try:
            if says_off((root / switch.path[1:]).read_bytes()):
                found.append(switch)
        except OSError:
            continue
    return tuple(found)
