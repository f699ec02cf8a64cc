# SPDX-License-Identifier: Apache-2.0
"""What became of a hook. By itself: the loader, which says it, has no use for the rest of a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

HookState = Literal["attached", "not needed", "refused", "missing"]


@dataclass(frozen=True, slots=True)
class HookStatus:
    """One hook: ``mechanism`` is fentry (with fexit where it has an exit), kprobe (with kretprobe), tracepoint, caller (another hook's
    program sees that it is called by this function) or None where it is not attached."""

    name: str
    symbol: str | None
    mechanism: str | None
    reason: str = ""
    """Why it is not attached; empty where it is. Where it was refused: the kernel's own words (the verifier's last line, errno)."""
    needed: bool = True
    """False: nothing goes unseen without it, because this kernel has nothing to be seen there or it was not asked for."""
    refused: bool = False
    """The kernel has the function, and refused to load or attach the program."""

    @property
    def state(self) -> HookState:
        """In two words at most, the same in every view."""
        if self.mechanism is not None:
            return "attached"
        if not self.needed:
            return "not needed"
        return "refused" if self.refused else "missing"


def attached_labels(hooks: Iterable[HookStatus]) -> frozenset[str]:
    """Hook.label of those that are attached."""
    return frozenset(hook.name.lower() for hook in hooks if hook.mechanism is not None)
