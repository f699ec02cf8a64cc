# SPDX-License-Identifier: Apache-2.0
"""What the next part of a recording has to repeat, so that it can be read on its own: the start, and names.

The kernel says a name once, and again only when its own tables, which have room for 4,096, have forgotten it. So of each kind more are
kept than that, those that were used last: a process that works all the time keeps its name in each part, whatever comes and goes beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import Kind
from uaptrace.abi.wire import RECORD, Batch, frames
from uaptrace.model.names import MAX_NAMES, newest, only
from uaptrace.model.updates import Cgroups, Start, Symbols, Update

MAX_REMEMBERED: Final = MAX_NAMES
"""Of processes, stacks and cgroups each."""
MAX_SYMBOLS: Final = 65536
"""Those of the stacks that are kept, and the newest."""


class Remembered:
    """Start, names of processes and stacks as they were sent, symbols and cgroups."""

    def __init__(self) -> None:
        self.start: Start | None = None
        self._symbols: dict[int, str] = {}
        self._max_symbols = MAX_SYMBOLS
        self._cgroups: dict[int, str] = {}
        self._tasks: dict[int, bytes] = {}
        self._stacks: dict[int, bytes] = {}
        """The records of each, one after the other."""

    @property
    def symbols(self) -> Mapping[int, str]:
        """By address."""
        return self._symbols

    @property
    def cgroups(self) -> Mapping[int, str]:
        """Paths by id."""
        return self._cgroups

    def see(self, update: Update) -> None:
        """Take in what is no record."""
        match update:
            case Start():
                self.start = update
            case Symbols():
                for address, name in update.names.items():
                    self._symbols.pop(address, None)
                    self._symbols[address] = name
                self._forget_symbols()
            case Cgroups():
                for number, path in update.paths.items():
                    self._cgroups.pop(number, None)
                    self._cgroups[number] = path
                _bound(self._cgroups)

    def see_records(self, batch: Mapping[str, NDArray[Any]] | Batch) -> None:
        """Take in records, column by column."""
        kinds = batch["kind"]
        for i in np.flatnonzero((kinds == Kind.TASK) | (kinds == Kind.STACK)).tolist():
            record = np.empty(1, RECORD)
            for name in RECORD.names or ():
                record[name] = batch[name][i]
            if kinds[i] == Kind.TASK:
                tgid = int(record["tgid"][0])
                self._tasks.pop(tgid, None)
                self._tasks[tgid] = record.tobytes()
            else:
                stack = int(record["stack_id"][0])
                before = self._stacks.pop(stack, b"")
                # The first record of a stack begins it anew.
                self._stacks[stack] = (before if record["order"][0] else b"") + record.tobytes()
        for table, column in ((self._tasks, "tgid"), (self._stacks, "stack_id"), (self._cgroups, "cgroup_id")):
            _use(table, batch[column])
            _bound(table)

    def records(self) -> Batch:
        """The names of processes and stacks."""
        return np.frombuffer(b"".join([*self._tasks.values(), *self._stacks.values()]), RECORD)

    def _forget_symbols(self) -> None:
        if len(self._symbols) <= self._max_symbols:
            return
        needed = set(frames(np.frombuffer(b"".join(self._stacks.values()), RECORD)).ravel().tolist())
        self._symbols = only(self._symbols, newest(self._symbols, needed, MAX_SYMBOLS))
        self._max_symbols = max(MAX_SYMBOLS, len(self._symbols) + MAX_SYMBOLS // 4)


def _use(table: dict[int, Any], used: NDArray[Any]) -> None:
    """What was used comes last. Where there is much room nothing is dropped soon, and the order does not matter."""
    if len(table) <= MAX_REMEMBERED // 2:
        return
    for key in np.unique(used).tolist():
        value = table.pop(key, None)
        if value is not None:
            table[key] = value


def _bound(table: dict[int, Any]) -> None:
    while len(table) > MAX_REMEMBERED:
        del table[next(iter(table))]
