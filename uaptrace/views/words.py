# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them. What is not known is a dash, never a zero."""

from __future__ import annotations

import unicodedata
from typing import Final

from uaptrace.abi.units import PAGES_PER_1G, PAGES_PER_2M, Level, format_bytes, pages_to_bytes
from uaptrace.model.snapshot import HostInfo
from uaptrace.process.plain import REPLACEMENT, plain

UNKNOWN: Final = "–"

LEVEL_WORDS: Final = {Level.NONE: "none", Level.K4: "4K", Level.M2: "2M", Level.G1: "1G"}
"""Sizes of mappings as the kernel writes them (DirectMap4k, DirectMap2M, DirectMap1G)."""


def number(value: int | None) -> str:
    """All digits, in groups of three: ``12,345``."""
    return UNKNOWN if value is None else f"{value:,}"


def compact(value: int | None, width: int = 6) -> str:
    """A count in at most ``width`` (3 or more) characters; all digits where they fit, else ``12k``, ``3M``."""
    if value is None:
        return UNKNOWN
    text = str(value)
    for suffix, unit in (("", 1), ("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12), ("P", 10**15)):
        if suffix:
            text = f"{value // unit}{suffix}"
        if len(text) <= width:
            return text
    return "#" * width


def per_second(value: float | None) -> str:
    """A rate without its unit: ``0``, ``0.25``, ``3.2``, ``1,234``, ``98.7k``."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if value < 0.01:
        return "<0.01"
    if value < 1:
        return f"{value:.2f}"
    if value < 100:
        return f"{value:.1f}"
    if value < 9999.5:
        return f"{value:,.0f}"
    for suffix, unit in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < unit * 999.5:
            scaled = value / unit
            return f"{scaled:.1f}{suffix}" if scaled < 99.95 else f"{scaled:.0f}{suffix}"
    return f"{value:.1e}"


def percent(share: float | None) -> str:
    """A share of 0 to 1. Only all is 100% and only nothing is 0%."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share * 100:.1f}%" if share < 1 else "100%"


def size(size_bytes: int | None) -> str:
    """Bytes in at most four digits and a unit."""
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def duration(time_ns: float | None) -> str:
    """A short time in three digits: ``512 ns``, ``1.02 µs``, ``16.8 ms``."""
    if time_ns is None:
        return UNKNOWN
    value = float(time_ns)
    unit = "ns"
    for larger in ("µs", "ms", "s"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if unit == "ns":
        return f"{value:.0f} ns"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def clock(seconds: float | None) -> str:
    """A length of time as ``0:05``, ``12:34``, ``1:02:03`` or ``3d 01:02:03``."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}:{second:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def plural(value: int, one: str, many: str | None = None) -> str:
    """``1 page``, ``2,048 pages``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def address(pfn: int) -> str:
    """Physical address of a page: ``0x140000000``."""
    return f"0x{pages_to_bytes(pfn):x}"


def pages(nr_pages: int) -> str:
    """A number of pages in the unit of the mapping that has so many, else as bytes: ``4K``, ``2M``, ``1G``, ``128 MiB``."""
    short = {1: "4K", PAGES_PER_2M: "2M", PAGES_PER_1G: "1G"}.get(nr_pages)
    return short or format_bytes(pages_to_bytes(nr_pages))


def clean(text: str) -> str:
    """plain() for a cell grid: a character that does not take exactly one cell becomes ``?`` too."""
    text = plain(text)
    if text.isascii():
        return text
    return "".join(REPLACEMENT if unicodedata.combining(c) or unicodedata.east_asian_width(c) in "WF" else c for c in text)


def host(info: HostInfo) -> str:
    """What the host is called, ``unnamed host`` where it has no name."""
    return clean(info.name) or "unnamed host"


def kernel(info: HostInfo) -> str:
    """The kernel's release."""
    return clean(info.kernel_release) or "unknown kernel"


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells; what is cut off is marked with ``…``."""
    text = clean(text)
    return text if len(text) <= width else text[: max(0, width - 1)] + "…" if width > 0 else ""


def shorten_path(path: str, width: int) -> str:
    """A path in at most ``width`` cells; its end says most, so the front is cut."""
    path = clean(path)
    return path if len(path) <= width else "…" + path[len(path) - width + 1 :] if width > 0 else ""
