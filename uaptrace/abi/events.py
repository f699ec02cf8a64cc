# SPDX-License-Identifier: Apache-2.0
"""Records of the ring, counters and histograms: names and numbers of bpf/events.h for Python.

Made by packaging/generate_abi.py: change the header, and run that.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

RECORD_FIELDS: Final = (
    ("time_ns", "<u8"),
    ("pfn", "<u8"),
    ("nr_pages", "<u4"),
    ("tid", "<u4"),
    ("tgid", "<u4"),
    ("duration_ns", "<u4"),
    ("cgroup_id", "<u8"),
    ("stack_id", "<u4"),
    ("aux", "<i4"),
    ("kind", "u1"),
    ("order", "u1"),
    ("before", "u1"),
    ("after", "u1"),
    ("nr_present", "<u2"),
    ("flags", "<u2"),
)
"""struct uap_record: name and NumPy type of each field, little endian."""
NR_ORDERS: Final = 11
MAX_STACK_FRAMES: Final = 32
STACK_FRAMES_PER_RECORD: Final = 4


class Kind(IntEnum):
    """enum uap_kind: what a record says."""

    NONE = 0
    TASK = 1
    STACK = 2
    SPLIT = 3
    SET_DIRECT_MAP = 4
    CPA = 5
    REQUEST = 6
    REFILL = 7
    REFILLED = 8
    ALLOC = 9
    FREE = 10
    RELEASE = 11
    SHRINK = 12
    REFILL_UNDONE = 13
    UNCERTAIN = 14


NR_KINDS: Final = 15


class Mapping(IntFlag):
    """enum uap_mapping: level in the low two bits (uaptrace.abi.units.Level), and presence."""

    UNKNOWN = 0
    K4 = 1
    M2 = 2
    G1 = 3
    MIXED = 64
    ABSENT = 128


LEVEL_MASK: Final = 3


class Flag(IntFlag):
    """enum uap_flag: what else there is to say of a call."""

    INVALID = 1
    DEFAULT = 2
    IN_CACHE = 4
    IN_SHRINK = 8
    REFILLED = 16
    FAILED = 32
    FLUSH_COVERS = 64
    FLUSHED = 128
    KERNEL_IMAGE = 256
    OTHER_MAPPING = 512
    KERNEL_THREAD = 1024
    VALID_NR = 2048
    ORDER_GUESSED = 4096
    REFILL_PARTIAL = 8192
    UNCOUNTED = 16384
    BY_CALLER = 32768


class Counter(IntEnum):
    """enum uap_counter: index of an eight byte word in each CPU's block."""

    ALLOC_PAGES = 0
    REQUEST = 1
    CACHE_ALLOC = 2
    CACHE_ALLOC_FAILED = 3
    CACHE_HIT = 4
    CACHE_REFILL = 5
    CACHE_REFILL_FALLBACK = 6
    CACHE_REFILL_UNDONE = 7
    CACHE_FREE = 8
    CACHE_RELEASE = 9
    SET_INVALID = 10
    SET_INVALID_FAILED = 11
    SET_DEFAULT = 12
    SET_DEFAULT_FAILED = 13
    CPA = 14
    CPA_FAILED = 15
    SPLIT_2M = 16
    SPLIT_1G = 17
    SPLIT_OTHER = 18
    SHRINK_SCAN = 19
    SHRINK_COUNT = 20
    SHRINK_ASKED_PAGES = 21
    SHRINK_RELEASED_PAGES = 22
    PAGES_REFILLED = 23
    PAGES_ALLOCATED = 24
    PAGES_FREED = 25
    PAGES_RELEASED = 26
    CONTEXT_LOST = 27
    CACHE_ENTERED = 28
    REFILL_ORDER = 32
    RELEASE_ORDER = 44
    ALLOC_ORDER = 56
    FREE_ORDER = 68
    EMITTED = 80
    LOST = 96
    HISTOGRAM_SUM = 112
    HISTOGRAM = 128
    FLUSH_ALL = 384
    FLUSH_RANGE = 385


COUNTER_WORDS: Final = 512


class HistogramId(IntEnum):
    """enum uap_histogram: which calls are timed."""

    CACHE_HIT = 0
    CACHE_REFILL = 1
    CACHE_FREE = 2
    SHRINK = 3
    SET_INVALID = 4
    SET_DEFAULT = 5
    CPA = 6


HISTOGRAM_BUCKETS: Final = 32


SCALAR_COUNTERS: Final = tuple(c for c in Counter if c < Counter.REFILL_ORDER)
"""The counters that are one word each. The others are arrays that begin at their index, or are asked for by name only."""
