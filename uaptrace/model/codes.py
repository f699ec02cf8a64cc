# SPDX-License-Identifier: Apache-2.0
"""Kinds, flags and mappings as plain integers, for arithmetic on arrays.

numpy takes five times as long to compare an array with a member of an IntEnum, since it first asks the member for every way
in which it might be an array. On small batches that was most of the time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import Flag, Kind, Mapping

KindSet = NDArray[np.bool_]
"""bool[256]: True for the kinds that are in it."""


def kind_set(*kinds: int) -> KindSet:
    """A set of kinds, for Columns.index_of()."""
    table = np.zeros(256, np.bool_)
    table[list(kinds)] = True
    return table


class KindCode:
    """uaptrace.abi.events.Kind."""

    TASK: Final[int] = Kind.TASK.value
    STACK: Final[int] = Kind.STACK.value
    SPLIT: Final[int] = Kind.SPLIT.value
    SET_DIRECT_MAP: Final[int] = Kind.SET_DIRECT_MAP.value
    CPA: Final[int] = Kind.CPA.value
    REQUEST: Final[int] = Kind.REQUEST.value
    REFILL: Final[int] = Kind.REFILL.value
    REFILLED: Final[int] = Kind.REFILLED.value
    ALLOC: Final[int] = Kind.ALLOC.value
    FREE: Final[int] = Kind.FREE.value
    RELEASE: Final[int] = Kind.RELEASE.value
    SHRINK: Final[int] = Kind.SHRINK.value
    REFILL_UNDONE: Final[int] = Kind.REFILL_UNDONE.value
    UNCERTAIN: Final[int] = Kind.UNCERTAIN.value


class FlagCode:
    """uaptrace.abi.events.Flag."""

    DEFAULT: Final[int] = Flag.DEFAULT.value
    IN_CACHE: Final[int] = Flag.IN_CACHE.value
    IN_SHRINK: Final[int] = Flag.IN_SHRINK.value
    REFILLED: Final[int] = Flag.REFILLED.value
    FAILED: Final[int] = Flag.FAILED.value
    FLUSH_COVERS: Final[int] = Flag.FLUSH_COVERS.value
    FLUSHED: Final[int] = Flag.FLUSHED.value
    KERNEL_IMAGE: Final[int] = Flag.KERNEL_IMAGE.value
    OTHER_MAPPING: Final[int] = Flag.OTHER_MAPPING.value
    UNCOUNTED: Final[int] = Flag.UNCOUNTED.value
    BY_CALLER: Final[int] = Flag.BY_CALLER.value


class MappingCode:
    """uaptrace.abi.events.Mapping."""

    MIXED: Final[int] = Mapping.MIXED.value
    ABSENT: Final[int] = Mapping.ABSENT.value
