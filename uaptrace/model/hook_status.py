# SPDX-License-Identifier: Apache-2.0
"""What became of a hook. By itself: the loader, which says it, has no use for the rest of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HookStatus:
    """One hook: ``mechanism`` is fentry, fexit, kprobe, kretprobe, tracepoint or None where it is not attached."""

    name: str
    symbol: str | None
    mechanism: str | None
    reason: str = ""
    """Why it is not attached; empty where it is."""
