# SPDX-License-Identifier: Apache-2.0
"""What is known to stop the kernel from calling hooks that are attached: its switches, and descriptors that are gone.

A switch that this host does not have, or that could not be opened, is not watched; the heartbeat (uaptrace/heartbeat.py) needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from uaptrace.loader.files import FILES
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence

_SWITCHES: Final = (
    # kernel/kprobes.c, disarm_all_kprobes(): no kprobe is called, whoever attached it.
    ("kprobes_enabled", Silence.KPROBES_OFF, frozenset({"kprobe"})),
    # kernel/trace/ftrace.c, ftrace_enable_sysctl(): nobody is called. Kernels where fentry's operations are permanent refuse that
    # while there are any; kprobes at the entry of a function never are.
    ("ftrace_enabled", Silence.FTRACE_OFF, frozenset({"fentry", "kprobe"})),
)
"""Key of the file, what it means where the file says 0, and the mechanisms that it stops."""


class HookSwitches:
    """Watches the switches behind ``files`` and whether the ``attached`` descriptors still are what they were."""

    def __init__(self, files: Mapping[str, int], hooks: Iterable[HookStatus], attached: Sequence[int]) -> None:
        mechanisms = {hook.mechanism for hook in hooks}
        self._switches = [(files[name], name, silence) for name, silence, of in _SWITCHES if name in files and of & mechanisms]
        self._attached = {fd: _object(fd) for fd in attached}

    def off(self) -> dict[str, str]:
        """What is off now: names of Silence, and where it shows."""
        found = {silence.value: FILES[name] for fd, name, silence in self._switches if _is_off(fd)}
        gone = sum(_object(fd) != was for fd, was in self._attached.items())
        if gone:
            found[Silence.DETACHED.value] = f"{gone} of {len(self._attached)} descriptors were closed by somebody"
        return found


def _is_off(fd: int) -> bool:
    try:
        return os.pread(fd, 16, 0).strip() in (b"0", b"N")
    except OSError:
        return False


def _object(fd: int) -> str | None:
    """What a descriptor of this process is: closed by others (a debugger can), its number may have become something else."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None
