# SPDX-License-Identifier: Apache-2.0
"""What the values of a recording may be. Every value of a file is held against this before anything else sees it.

A file may come from anyone, and compiled loops and arrays believe what they are given. So each value is of its type and within what a
kernel can say, text has a length, and arrays fit together. What does not is refused by one sentence that names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import COUNTER_WORDS, LEVEL_MASK, Flag, Kind
from uaptrace.abi.units import LEVELS, MAX_REGIONS, NR_ORDERS, PMD_ORDER, REGIONS_PER_1G, Level
from uaptrace.model.updates import LARGE_ABSENT, PAGE_ABSENT
from uaptrace.recording import schema

Data = bytes | memoryview
"""Bytes of a row, where they lie."""

MAX_NS: Final = 1 << 62
"""146 years: sums of two times still fit into 64 bits."""
MAX_WALL_S: Final = 2e11
"""In the year 8307: the calendar of the standard library ends soon after."""
MAX_COUNT: Final = 1 << 58
"""Of a counter: all words of one kind together fit into 64 bits."""
MAX_BYTES: Final = 1 << 57
MAX_ADDRESS: Final = (1 << 64) - 1
MAX_TGID: Final = (1 << 32) - 1
MAX_PFN: Final = MAX_REGIONS << PMD_ORDER
MAX_CPUS: Final = 1 << 16
MAX_PAGING_LEVELS: Final = 5

MAX_SYMBOL: Final = 1024
"""KSYM_NAME_LEN (512) with the offset and the module."""
MAX_PATH: Final = 4096
"""PATH_MAX."""
MAX_SENTENCE: Final = 8192
MAX_BUDDYINFO: Final = 1 << 16
MAX_HOOKS: Final = 256
MAX_NAMES: Final = 1 << 20
"""Names of one row."""
MAX_SELF: Final = 4096
MAX_ROWS: Final = 64
MAX_PAGEBLOCKS: Final = 1 << 16

MAX_JSON: Final = 1 << 23
"""Characters of a reading's or a start's text."""
MAX_NAMES_JSON: Final = 1 << 25
"""Characters of the names of one symbols or cgroups row: a part repeats all names that are known."""

_ORDER_KINDS: Final = np.zeros(schema.NR_RECORD_KINDS, np.bool_)
_ORDER_KINDS[[Kind.REFILL, Kind.REFILLED, Kind.ALLOC, Kind.FREE, Kind.RELEASE, Kind.REFILL_UNDONE]] = True
_LEVELS: Final = np.zeros(256, np.bool_)
_LEVELS[[Level.NONE, Level.K4, Level.M2, Level.G1, Level.M2 | LARGE_ABSENT, Level.G1 | LARGE_ABSENT]] = True
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_BUDDYINFO_LINE: Final = re.compile(r"Node +\d{1,9}, +zone +\S{1,64}((?: +\d{1,15})+) *")
_FLAT: Final = re.compile(r"[\s{}:,]*")


class BadValueError(ValueError):
    """A value that no recording can have; the message says which."""


def parse_json(text: str, what: str) -> Any:
    """The JSON object that a row has in ``text``."""
    of_names = what in _NAME_ROWS
    if len(text) > (MAX_NAMES_JSON if of_names else MAX_JSON):
        raise BadValueError(f"{what}: {len(text)} characters of text")
    if of_names and len(text) > MAX_JSON and not _FLAT.fullmatch(_STRING.sub("", text)):
        raise BadValueError(f"{what}: its text is not names alone")
    try:
        said = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadValueError(f"{what}: its text is not JSON: {reason}") from None
    if not isinstance(said, dict):
        raise BadValueError(f"{what}: its text is {_shown(said)}, not an object")
    return said


_NAME_ROWS: Final = (schema.UPDATE_NAMES[schema.CODE_SYMBOLS], schema.UPDATE_NAMES[schema.CODE_CGROUPS])


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


@dataclass(frozen=True, slots=True)
class Said:
    """The keys of one JSON object of a row, taken out one by one. ``what`` names it in errors.

    Each method raises BadValueError where the key is missing (without a ``default``) or its value is not what is asked for.
    """

    what: str
    said: Mapping[str, Any]

    def _get(self, name: str, default: Any = ...) -> Any:
        if name in self.said:
            return self.said[name]
        if default is ...:
            raise BadValueError(f"{self.what}: {name} is missing")
        return default

    def bad(self, name: str, value: object, wanted: str) -> BadValueError:
        """The error of a value."""
        return BadValueError(f"{self.what}: {name} is {_shown(value)}, not {wanted}")

    def integer(self, name: str, high: int = MAX_NS, low: int = 0, *, default: Any = ...) -> int:
        """A whole number from ``low`` to ``high``."""
        return self._integer(name, self._get(name, default), low, high)

    def optional_integer(self, name: str, high: int, *, default: Any = ...) -> int | None:
        """The same, or None."""
        value = self._get(name, default)
        return None if value is None else self._integer(name, value, 0, high)

    def real(self, name: str, high: float) -> float:
        """A number from 0 to ``high``."""
        value = self._get(name)
        if type(value) not in (int, float) or not 0 <= value <= high:  # not NaN either
            raise self.bad(name, value, f"a number from 0 to {high:g}")
        return float(value)

    def flag(self, name: str, *, default: Any = ...) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.bad(name, value, "true or false")
        return value

    def text(self, name: str, limit: int = MAX_SENTENCE, *, default: Any = ...) -> str:
        """Text of at most ``limit`` characters."""
        return self._text(name, self._get(name, default), limit)

    def optional_text(self, name: str, limit: int = MAX_SENTENCE) -> str | None:
        """The same, or None."""
        value = self._get(name)
        return None if value is None else self._text(name, value, limit)

    def texts(self) -> dict[str, str]:
        """All keys, each with its text."""
        return {self._text(f"the name {_shown(key)}", key, MAX_SENTENCE): self.text(key) for key in self.said}

    def each(self, name: str, limit: int, *, default: Any = ...) -> list[Any]:
        """A list of at most ``limit`` elements."""
        value = self._get(name, default)
        if not isinstance(value, list) or len(value) > limit:
            raise self.bad(name, value, f"a list of at most {limit}")
        return value

    def integers(self, name: str, limit: int, high: int, *, default: Any = ...) -> list[int]:
        """A list of whole numbers."""
        return [self._integer(name, value, 0, high) for value in self.each(name, limit, default=default)]

    def row(self, name: str) -> tuple[int, ...] | None:
        """Numbers of blocks by order, or None."""
        return None if self._get(name) is None else tuple(self.integers(name, MAX_ROWS, MAX_COUNT))

    def part(self, name: str) -> Said:
        """An object within this one."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self.bad(name, value, "an object")
        return Said(f"{self.what}: {name}", value)

    def optional_part(self, name: str) -> Said | None:
        """The same, or None where there is no such key."""
        return self.part(name) if name in self.said else None

    def by_level(self, name: str) -> dict[Level, int] | None:
        """Numbers by the size of a mapping, or None."""
        if self._get(name) is None:
            return None
        part = self.part(name)
        unknown = part.said.keys() - _LEVEL_BY_LABEL.keys()
        if unknown:
            raise BadValueError(f"{part.what}: {_shown(min(unknown))} is not a mapping size")
        return {_LEVEL_BY_LABEL[label]: part.integer(label, MAX_BYTES) for label in part.said}

    def levels(self, name: str) -> tuple[Level, ...]:
        """A list of sizes of mappings."""
        labels = self.each(name, len(LEVELS))
        if not all(isinstance(label, str) and label in _LEVEL_BY_LABEL for label in labels):
            raise self.bad(name, labels, "a list of mapping sizes")
        return tuple(_LEVEL_BY_LABEL[label] for label in labels)

    def numbered(self, high: int, base: int = 10, *, limit: int) -> Iterable[tuple[int, str]]:
        """All keys as whole numbers from 0 to ``high``, each with the key; at most ``limit`` of them."""
        if len(self.said) > limit:
            raise BadValueError(f"{self.what}: {len(self.said)} entries, more than {limit}")
        for key in self.said:
            digits = key.removeprefix("0x") if base == 16 else key
            number = int(digits, base) if re.fullmatch("[0-9a-fA-F]{1,24}", digits, re.ASCII) and (base == 16 or digits.isdigit()) else -1
            if not 0 <= number <= high:
                raise BadValueError(f"{self.what}: {_shown(key)} is not a number from 0 to {high:#x}")
            yield number, key

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise self.bad(name, value, f"a whole number from {low} to {high}")
        return value

    def _text(self, name: str, value: object, limit: int) -> str:
        if not isinstance(value, str):
            raise self.bad(name, value, "text")
        if len(value) > limit:
            raise BadValueError(f"{self.what}: {name} has {len(value)} characters, more than {limit}")
        # Half a surrogate pair is what JSON makes of bytes that were no UTF-8: nothing can write it.
        return _SURROGATE.sub("\ufffd", value)


_LEVEL_BY_LABEL: Final = {level.label: level for level in Level}


def _shown(value: object) -> str:
    """A value in an error: as JSON, and not all of it."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}..."


def array(what: str, data: Data, dtype: Any, number: int, offset: int = 0) -> NDArray[Any]:
    """``number`` elements of a row's bytes."""
    wanted = np.dtype(dtype)
    if offset + number * wanted.itemsize > len(data):
        raise BadValueError(f"{what}: {len(data)} bytes of data, fewer than its text says")
    return np.frombuffer(data, wanted, number, offset)


def check_buddyinfo(what: str, text: str) -> str:
    """The text of /proc/buddyinfo, or none."""
    for line in text.splitlines():
        if not _BUDDYINFO_LINE.fullmatch(line):
            raise BadValueError(f"{what}: buddyinfo has the line {_shown(line)}")
    return text


def check_levels(what: str, first: int, levels: NDArray[np.uint8], split: NDArray[np.int64], *, complete: bool) -> None:
    """The regions of a reading of the page tables: within what there is, at levels that there are, and 1G entries whole."""
    if first + len(levels) > MAX_REGIONS:
        raise BadValueError(f"{what}: {len(levels)} regions from {first} on, more than {MAX_REGIONS} in all")
    if not _LEVELS[levels].all():
        raise BadValueError(f"{what}: region {first + int(np.argmin(_LEVELS[levels]))} has an invalid mapping level, {int(levels.max())}")
    if len(split):
        if int(split[0]) < first or int(split[-1]) >= first + len(levels) or not (split[1:] > split[:-1]).all():
            raise BadValueError(f"{what}: its split regions are not ascending numbers from {first} to {first + len(levels) - 1}")
        if (levels[split - first] != Level.K4).any():
            raise BadValueError(f"{what}: a split region is not mapped by 4K entries")
    if complete:
        _check_whole_gigabytes(what, first, levels)


def _check_whole_gigabytes(what: str, first: int, levels: NDArray[np.uint8]) -> None:
    huge = (levels & LEVEL_MASK) == Level.G1
    if not huge.any():
        return
    before = first % REGIONS_PER_1G
    padded = np.zeros(-(-(before + len(levels)) // REGIONS_PER_1G) * REGIONS_PER_1G, np.bool_)
    padded[before : before + len(levels)] = huge
    number = np.count_nonzero(padded.reshape(-1, REGIONS_PER_1G), axis=1)
    cut = np.flatnonzero((number != 0) & (number != REGIONS_PER_1G))
    if len(cut):
        raise BadValueError(f"{what}: the 1G entry at region {(first // REGIONS_PER_1G + int(cut[0])) * REGIONS_PER_1G} is not whole")


def check_pages(what: str, pages: NDArray[np.uint8]) -> None:
    """States of 4K pages."""
    if pages.size and int(pages.max()) > PAGE_ABSENT:
        raise BadValueError(f"{what}: a page has an invalid state, {int(pages.max())}")


def check_blocks(what: str, pfns: NDArray[np.int64], orders: NDArray[np.uint8]) -> None:
    """Free blocks: of orders that there are, aligned, and within what there is."""
    if not len(pfns):
        return
    if int(orders.max()) >= NR_ORDERS:
        raise BadValueError(f"{what}: a block of order {int(orders.max())}, more than {NR_ORDERS - 1}")
    sizes = np.int64(1) << orders.astype(np.int64)
    if int(pfns.min()) < 0 or int(pfns.max()) >= MAX_PFN or (pfns & (sizes - 1)).any():
        bad = (pfns < 0) | (pfns >= MAX_PFN) | ((pfns & (sizes - 1)) != 0)
        raise BadValueError(f"{what}: page {int(pfns[bad][0])} cannot begin a block")


def check_words(what: str, words: NDArray[np.uint64]) -> None:
    """The kernel's counters."""
    if len(words) != COUNTER_WORDS:
        raise BadValueError(f"{what}: {len(words)} counters, not {COUNTER_WORDS}")
    if int(words.max()) > MAX_COUNT:
        raise BadValueError(f"{what}: counter {int(np.argmax(words))} is {int(words.max())}")


def check_rows(codes: NDArray[np.int16], time_ns: NDArray[np.uint64], order: NDArray[np.uint8], flags: NDArray[np.uint16]) -> None:
    """The columns of a batch: kinds that there are, times, and orders of the records that have one.

    Pages of records are the model's to judge: a record of pages that cannot be is counted there, as one that a live kernel sends.
    """
    if not len(codes):
        return
    if int(codes.min()) < 0 or int(codes.max()) > schema.CODE_CGROUPS:
        row = int(np.argmax((codes < 0) | (codes > schema.CODE_CGROUPS)))
        raise BadValueError(f"row {row}: unknown kind of row {int(codes[row])}")
    if int(time_ns.max()) > MAX_NS:
        raise BadValueError(f"row {int(np.argmax(time_ns))}: time_ns is {int(time_ns.max())}")
    if int(order.max()) >= NR_ORDERS:
        rows = np.flatnonzero(order >= NR_ORDERS)
        # Whoever asks for more than there is gets nothing, and a record that says so.
        failed = (codes[rows] == Kind.ALLOC) & ((flags[rows] & Flag.FAILED) != 0)
        bad = rows[(codes[rows] < schema.NR_RECORD_KINDS) & _ORDER_KINDS[codes[rows] & 0xFF] & ~failed]
        if len(bad):
            name = Kind(int(codes[bad[0]])).name.lower()
            raise BadValueError(f"row {int(bad[0])}: order of the {name} is {int(order[bad[0]])}, more than {NR_ORDERS - 1}")
