# SPDX-License-Identifier: Apache-2.0
"""The control of time that a replay gives the screen, and how a moment is written."""

from __future__ import annotations

import re
from typing import Protocol

from uaptrace.abi.errors import UsageError


class ReplayControl(Protocol):
    """Time in a recording. Positions are seconds since its start."""

    @property
    def paused(self) -> bool: ...

    @property
    def position_s(self) -> float: ...

    @property
    def length_s(self) -> float: ...

    @property
    def speed(self) -> float:
        """Recorded seconds for each second."""

    def pause(self, paused: bool) -> None:
        """Stops, or goes on."""

    def step(self, number: int) -> None:
        """Pauses, and goes ``number`` snapshots on (back where negative)."""

    def jump(self, position_s: float) -> None:
        """To the state at ``position_s``, which is within 0 and ``length_s``."""

    def faster(self) -> None: ...

    def slower(self) -> None: ...


_CLOCK = re.compile(r"(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+(?:\.\d+)?)\Z", re.ASCII)


def parse_position(text: str, position_s: float, length_s: float) -> float:
    """Where to jump: ``90``, ``1:30``, ``1:02:03.5``, ``50%``, ``+10`` or ``-1:00`` (from here), ``end``; kept within 0 and ``length_s``.

    Raises UsageError where it is none of these.
    """
    stripped = text.strip().lower()
    if stripped in ("end", "start"):
        return length_s if stripped == "end" else 0.0
    sign = stripped[:1] if stripped[:1] in ("+", "-") else ""
    body = stripped[len(sign) :]
    try:
        if not re.fullmatch(r"[0-9:.]+%?", body):
            raise ValueError
        if body.endswith("%"):
            seconds = float(body[:-1]) / 100 * length_s
        elif ":" in body:
            found = _CLOCK.fullmatch(body)
            if found is None:
                raise ValueError
            seconds = int(found["hours"] or 0) * 3600 + int(found["minutes"]) * 60 + float(found["seconds"])
        else:
            seconds = float(body)
    except ValueError:
        raise UsageError(f"{text.strip()!r} is not a time: give seconds, 1:30, 50%, +10, -10, start or end") from None
    if sign:
        seconds = position_s + seconds if sign == "+" else position_s - seconds
    return max(0.0, min(length_s, seconds))
