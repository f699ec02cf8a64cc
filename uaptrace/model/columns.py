# SPDX-License-Identifier: Apache-2.0
"""Columns of a batch, gathered once, and the order of records by task or page without a slow stable sort."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import NR_KINDS
from uaptrace.abi.wire import Batch

from .codes import KindCode, KindSet, kind_set
from .loops import Fields

CHUNK_RECORDS: Final = 32768
"""Records handled at a time: 2 MiB of records, so that every later pass over them finds them in the processor's cache."""

_FEW: Final = 4
"""Fewer than one in so many: picked out of the records one by one, without turning the column into an array first."""

NOTHING: Final[Mapping[int, int]] = MappingProxyType({})
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_TASK_KINDS: Final = kind_set(KindCode.REQUEST, KindCode.REFILL, KindCode.REFILLED, KindCode.ALLOC, KindCode.REFILL_UNDONE)


def stable_order(keys: Ints) -> Ints:
    """Positions that sort ``keys`` (int64, each in [0, 2**40)), equal keys in the order they came.

    The position goes into the low bits and the sum is sorted: numpy sorts plain int64 with vector instructions,
    which is several times faster than any of its stable argsorts.
    """
    n = len(keys)
    bits = max(1, int(n - 1).bit_length())
    packed = (keys << bits) | np.arange(n, dtype=np.int64)
    packed.sort()
    return packed & ((1 << bits) - 1)


def distinct(values: Ints) -> Ints:
    """The values without repetitions, ascending. np.unique() hashes, which for what comes here takes several times as long."""
    values = np.sort(values)
    if len(values) < 2:
        return values
    new = np.empty(len(values), np.bool_)
    new[0] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return values[new]


class Columns:
    """One chunk of records, column by column.

    A column is copied out of the 56 or 64 byte records when it is first asked for. ``counts`` is int64[256]: records by kind.
    ``processes``, ``stacks``: whose key is not their number, because the number had another owner before (model.names).
    """

    def __init__(self, batch: Batch, processes: Mapping[int, int] = NOTHING, stacks: Mapping[int, int] = NOTHING) -> None:
        self.batch = batch
        self.processes = processes
        self.stacks = stacks
        self.kind: Bytes = np.ascontiguousarray(batch["kind"])
        self.counts: Ints = np.bincount(self.kind, minlength=256)
        self._columns: dict[str, Ints] = {}
        self._indices: dict[int, Ints] = {}

    def __len__(self) -> int:
        return len(self.kind)

    def column(self, name: str) -> Ints:
        """The whole column as int64 (a pfn fits: physical addresses have at most 52 bits)."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self.batch[name].astype(np.int64)
        return column

    def process(self, at: int) -> int:
        """Key of the process of one record."""
        tgid = int(self.batch["tgid"][at])
        return self.processes.get(tgid, tgid)

    def stack(self, at: int) -> int:
        """Key of the stack of one record."""
        stack_id = int(self.batch["stack_id"][at])
        return self.stacks.get(stack_id, stack_id)

    def count(self, kind: int) -> int:
        """Number of records of that kind."""
        return int(self.counts[kind])

    def index(self, kind: int) -> Ints:
        """Positions of the records of that kind, ascending."""
        index = self._indices.get(kind)
        if index is None:
            index = self._indices[kind] = np.flatnonzero(self.kind == kind)
        return index

    def index_of(self, kinds: KindSet) -> Ints:
        """Positions of the records of any of the kinds, ascending."""
        return np.flatnonzero(kinds[self.kind])

    def of(self, name: str, index: Ints) -> Ints:
        """The column at the given positions."""
        column = self._columns.get(name)
        if column is None and len(index) * _FEW < len(self.kind):
            picked: Ints = self.batch[name][index].astype(np.int64)
            return picked
        return self.column(name)[index]

    @cached_property
    def fields(self) -> Fields:
        """The same, for compiled loops."""
        return Fields(self.batch)

    @property
    def unknown_kinds(self) -> int:
        """Records whose kind this version does not know."""
        return int(self.counts[0] + self.counts[NR_KINDS:].sum())

    @cached_property
    def by_task(self) -> Ints:
        """Positions of the records that tell how a task's allocation goes (_TASK_KINDS), task by task, each in ring order."""
        index = self.index_of(_TASK_KINDS)
        return index[stable_order(self.of("tid", index))]
