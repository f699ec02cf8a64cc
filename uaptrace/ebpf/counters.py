# SPDX-License-Identifier: Apache-2.0
"""The kernel-side counters, read through memory: no system call, whatever the number of CPUs.

The map is a BPF_MAP_TYPE_ARRAY made with BPF_F_MMAPABLE whose value is one block of 512 words (enum uap_counter of
bpf/events.h): element N is CPU N's, and only that CPU writes it. (A per-CPU array cannot be mapped.)
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.events import COUNTER_WORDS

BLOCK_BYTES: Final = COUNTER_WORDS * 8

T = TypeVar("T")


class MappedCounters:
    """The counters of ``nr_cpus`` CPUs behind the map's descriptor ``fd``. Needs no privilege.

    Raises CannotTraceError where the descriptor is not a mappable array of that many blocks.
    """

    def __init__(self, fd: int, nr_cpus: int) -> None:
        if nr_cpus < 1:
            raise CannotTraceError(f"cannot read counters of {nr_cpus} CPUs: pass the number of possible CPUs")
        self.nr_cpus = nr_cpus
        try:
            self._map = mmap.mmap(fd, nr_cpus * BLOCK_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise CannotTraceError(
                f"cannot map descriptor {fd} as counters of {nr_cpus} CPUs ({error}): "
                "it must be an array with BPF_F_MMAPABLE, one 4096 byte element for each CPU"
            ) from error
        self._words = np.frombuffer(self._map, np.uint64).reshape(nr_cpus, COUNTER_WORDS)

    def read(self) -> NDArray[np.uint64]:
        """Sums over CPUs since the map was made: uint64[512], by enum uap_counter.

        Each word is read as a whole (aligned, within one cache line). Words of one reading may be of different
        moments while calls are counted; ``steady`` tells whether they were.
        """
        words: NDArray[np.uint64] = self._words.sum(axis=0, dtype=np.uint64)
        return words

    def close(self) -> None:
        """Unmap. Further reads fail."""
        self._words = np.empty((0, COUNTER_WORDS), np.uint64)
        self._map.close()

    def __enter__(self) -> MappedCounters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class CounterReadings(Generic[T]):
    """Something that was read between two readings of the counters.

    ``words``: uint64[512], the second reading. ``value``: what was read between. ``quiet``: none of the watched counters moved
    from the first to the second, so nothing that they count began or ended meanwhile, and words and value are of one moment.
    ``attempts``: how often it was read.
    """

    words: NDArray[np.uint64]
    value: T
    quiet: bool
    attempts: int


def steady(
    counters: MappedCounters, read: Callable[[], T], *, watched: Sequence[int] | None = None, max_attempts: int = 3
) -> CounterReadings[T]:
    """Call ``read`` until no watched counter moved meanwhile, at most ``max_attempts`` times; the last try is returned in any case.

    ``watched``: indices of enum uap_counter; without it, all of them.
    """
    index = slice(None) if watched is None else list(watched)
    before = counters.read()
    attempts = 0
    while True:
        attempts += 1
        value = read()
        after = counters.read()
        quiet = bool((before[index] == after[index]).all())
        if quiet or attempts >= max_attempts:
            return CounterReadings(after, value, quiet, attempts)
        before = after
