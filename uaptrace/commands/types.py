# SPDX-License-Identifier: Apache-2.0
"""Types of option values."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import click

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
MAX_SIZE: Final = 1 << 62
"""Bytes: more than any file or memory has."""
MIN_RING: Final = 4096
MAX_RING: Final = 1 << 31
"""Bytes: the largest power of two for which the kernel can make a ring, whose size is an unsigned 32-bit number."""
MAX_SECONDS: Final = 1e9
"""Thirty years; what the system's clocks and waits can take is more."""
MAX_SPEED: Final = 1e6
MAX_COUNT: Final = (1 << 31) - 1
MAX_PFN: Final = (1 << 40) - 1
"""Physical addresses have at most 52 bits, of which 12 are within the page."""


class Size(click.ParamType[int]):
    """``100M``, ``1.5G``, ``64KiB``, or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        size = int(float(match[1]) * (1 << _UNITS[match[2].upper()])) if match else 0
        if not 0 < size <= MAX_SIZE:
            self.fail(f"{value!r} is not a size such as 4G, 512M or 4096", param, ctx)
        return size


class RingSize(Size):
    """A Size that the kernel takes for a ring: a power of two of at least a page."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = super().convert(value, param, ctx)
        if not MIN_RING <= size <= MAX_RING or size & (size - 1):
            self.fail(f"{value!r} is not a power of two from {MIN_RING} bytes to {MAX_RING >> 30}G", param, ctx)
        return size


class Finite(click.FloatRange):
    """A number within limits, which neither ``nan`` nor ``inf`` is."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found


def seconds(minimum: float = 0.0) -> Finite:
    """A length of time, or of an interval."""
    return Finite(min=minimum, max=MAX_SECONDS)


SPEED: Final = Finite(min=0.01, max=MAX_SPEED)
"""Recorded seconds a second."""
