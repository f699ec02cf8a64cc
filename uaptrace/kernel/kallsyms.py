# SPDX-License-Identifier: Apache-2.0
"""Names for kernel addresses, out of /proc/kallsyms, without a Python object per symbol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

_HEX_DIGITS: Final = 16
_FUNCTION_TYPES: Final = np.frombuffer(b"tTwW", np.uint8)
_FAR: Final = 1 << 20
"""An address further than this from the symbol before it is not in that function."""


def name_addresses(kallsyms: bytes, addresses: Iterable[int]) -> dict[int, str]:
    """``symbol+0xoff`` or ``symbol+0xoff [module]`` for each address; those without a symbol are left out.

    ``kallsyms``: lines ``16 hex digits, space, type, space, name[, tab, [module]]``, in any order.
    """
    wanted = np.array(sorted(set(addresses)), np.uint64)
    starts = _line_starts(kallsyms)
    if not len(wanted) or not len(starts):
        return {}
    text = np.frombuffer(kallsyms, np.uint8)
    starts = starts[np.isin(text[starts + _HEX_DIGITS + 1], _FUNCTION_TYPES)]
    values = _parse_hex(text, starts)
    order = np.argsort(values, kind="stable")
    values, starts = values[order], starts[order]
    found = np.searchsorted(values, wanted, side="right") - 1
    named: dict[int, str] = {}
    for address, index in zip(wanted.tolist(), found.tolist(), strict=True):
        if index < 0 or values[index] == 0:
            continue
        offset = address - int(values[index])
        if offset >= _FAR:
            continue
        start = int(starts[index]) + _HEX_DIGITS + 3
        end = kallsyms.index(b"\n", start)
        name, _, module = kallsyms[start:end].decode(errors="replace").partition("\t")
        named[address] = f"{name}+{offset:#x}" + (f" {module}" if module else "")
    return named


def _line_starts(data: bytes) -> NDArray[np.int64]:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.concatenate(([0], ends + 1)) if len(ends) else np.empty(0, np.int64)
    # Only lines that are complete and long enough for an address, a type and a name.
    starts = starts[:-1] if len(starts) else starts
    lengths = ends - starts if len(ends) else np.empty(0, np.int64)
    return starts[lengths > _HEX_DIGITS + 3]


def _parse_hex(text: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    values = np.zeros(len(starts), np.uint64)
    for i in range(_HEX_DIGITS):
        digit = text[starts + i].astype(np.uint64)
        digit = np.where(digit >= ord("a"), digit - np.uint64(ord("a") - 10), digit - np.uint64(ord("0")))
        values = (values << np.uint64(4)) | digit
    return values
