# SPDX-License-Identifier: Apache-2.0
"""What is known to stop the kernel from calling hooks that are attached: its switches, and descriptors that are gone.

A switch that this host does not have, or that could not be opened, is not watched; heartbeat.py needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from uaptrace.loader.kernel_switches import SWITCHES, says_off
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.silence import Silence


class HookSwitches:
    """Watches the switches behind ``files`` and whether the ``attached`` descriptors still are what they were."""

    def __init__(self, files: Mapping[str, int], hooks: Iterable[HookStatus], attached: Sequence[int]) -> None:
        mechanisms = {hook.mechanism for hook in hooks}
        self._switches = [(files[s.file], s) for s in SWITCHES if s.file in files and s.silences & mechanisms]
        self._attached = {fd: _object(fd) for fd in attached}

    def off(self) -> dict[str, str]:
        """What is off now: names of Silence, and where it shows."""
        found = {switch.silence.value: switch.path for fd, switch in self._switches if _is_off(fd)}
        gone = sum(_object(fd) != was for fd, was in self._attached.items())
        if gone:
            found[Silence.DETACHED.value] = f"{gone} of {len(self._attached)} descriptors were closed from outside"
        return found


def _is_off(fd: int) -> bool:
    try:
        return says_off(os.pread(fd, 16, 0))
    except OSError:
        return False


def _object(fd: int) -> str | None:
    """What a descriptor of this process is: closed by others (a debugger can), its number may have become something else."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None
