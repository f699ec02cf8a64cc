# SPDX-License-Identifier: Apache-2.0
"""Sizes and names of pages, orders and mapping levels, as x86-64 and the kernel have them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from uaptrace.abi.events import NR_ORDERS as NR_ORDERS  # 0 to 10: MAX_ORDER is 11 in kernels with the series (docs/kernel.md, section 1)
from uaptrace.abi.events import Mapping

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PMD_ORDER: Final = 9
PUD_ORDER: Final = 18
PAGES_PER_2M: Final = 1 << PMD_ORDER
PAGES_PER_1G: Final = 1 << PUD_ORDER
REGIONS_PER_1G: Final = PAGES_PER_1G // PAGES_PER_2M
MAX_REGIONS: Final = 1 << 26
"""Regions of 2M: 128 TiB of physical addresses. What lies beyond is taken for damage."""


class Level(IntEnum):
    """Size of the page-table entry that maps an address. Values are the wire's (enum uap_mapping)."""

    NONE = Mapping.UNKNOWN.value
    K4 = Mapping.K4.value
    M2 = Mapping.M2.value
    G1 = Mapping.G1.value

    @property
    def label(self) -> str:
        """The name used in JSON and metrics: ``4k``, ``2m``, ``1g``."""
        return _LABELS[self]

    @property
    def nr_pages(self) -> int:
        """Number of 4K pages that one entry of this level maps (0 for NONE)."""
        return _NR_PAGES[self]


_LABELS: Final = {Level.NONE: "none", Level.K4: "4k", Level.M2: "2m", Level.G1: "1g"}
_NR_PAGES: Final = {Level.NONE: 0, Level.K4: 1, Level.M2: PAGES_PER_2M, Level.G1: PAGES_PER_1G}
LEVELS: Final = (Level.K4, Level.M2, Level.G1)


def pages_to_bytes(nr_pages: int) -> int:
    """Bytes that ``nr_pages`` 4K pages take."""
    return nr_pages << PAGE_SHIFT


_SUFFIXES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(size_bytes: float) -> str:
    """A size for people in at most four digits: ``4 KiB``, ``1.50 GiB``, ``512 MiB``."""
    value = float(size_bytes)
    for suffix in _SUFFIXES:
        if abs(value) < 1024 or suffix == _SUFFIXES[-1]:
            break
        value /= 1024
    if value == int(value):
        return f"{int(value)} {suffix}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {suffix}"
