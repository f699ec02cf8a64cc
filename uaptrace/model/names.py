# SPDX-License-Identifier: Apache-2.0
"""Names that arrive beside the records: processes, stacks, symbols, cgroups. All bounded, the oldest go first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from uaptrace.events import MAX_STACK_FRAMES, STACK_FRAMES_PER_RECORD
from uaptrace.wire import comms, frames

from .causes import classify
from .codes import KindCode
from .columns import Columns
from .snapshot import Cause
from .stacks import without_tracer

MAX_NAMES: Final = 65536
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Names:
    """What tgids, stack ids, addresses and cgroup ids are called."""

    def __init__(self) -> None:
        self._comms: dict[int, str] = {}
        self._frames: dict[int, list[int]] = {}
        self._symbols: dict[int, str] = {}
        self._cgroups: dict[int, str] = {}
        self._stacks: dict[int, tuple[str, ...]] = {}
        self._causes: dict[int, Cause] = {}

    def apply(self, columns: Columns) -> None:
        """Take in the TASK and STACK records of a chunk."""
        if columns.count(KindCode.TASK):
            index = columns.index(KindCode.TASK)
            for tgid, comm in zip(columns.of("tgid", index).tolist(), comms(columns.batch[index]), strict=True):
                self._comms.pop(tgid, None)  # so that the newest come last
                self._comms[tgid] = comm
            _bound(self._comms)
        if columns.count(KindCode.STACK):
            index = columns.index(KindCode.STACK)
            stack_ids = columns.of("stack_id", index).tolist()
            firsts = (columns.of("order", index) * STACK_FRAMES_PER_RECORD).tolist()
            for stack_id, first, addresses in zip(stack_ids, firsts, frames(columns.batch[index]).tolist(), strict=True):
                if first >= MAX_STACK_FRAMES:
                    continue
                held = self._frames.setdefault(stack_id, [])
                held.extend([0] * (first + STACK_FRAMES_PER_RECORD - len(held)))
                held[first : first + STACK_FRAMES_PER_RECORD] = addresses
                self._stacks.pop(stack_id, None)
                self._causes.pop(stack_id, None)
            _bound(self._frames)

    def add_symbols(self, names: Mapping[int, str]) -> None:
        """Names of return addresses, which may come after the stacks that have them."""
        self._symbols.update(names)
        _bound(self._symbols)
        self._stacks.clear()
        self._causes.clear()

    def add_cgroups(self, paths: Mapping[int, str]) -> None:
        """Paths of cgroups by id."""
        self._cgroups.update(paths)
        _bound(self._cgroups)

    def comm(self, tgid: int) -> str:
        """Name of the process, empty where it is not known."""
        return self._comms.get(tgid, "")

    def cgroup(self, cgroup_id: int) -> str:
        """Path of the cgroup, empty where it is not known."""
        return self._cgroups.get(cgroup_id, "")

    def stack(self, stack_id: int) -> tuple[str, ...]:
        """Frames, innermost first: ``symbol+0xoff``, or ``0xaddress`` where the name is not known; empty where there is none."""
        stack = self._stacks.get(stack_id)
        if stack is None:
            addresses = [address for address in self._frames.get(stack_id, ()) if address]
            stack = without_tracer(self._symbols.get(address, f"{address:#x}") for address in addresses)
            self._stacks[stack_id] = stack
            _bound(self._stacks)
        return stack

    def cause(self, stack_id: int) -> Cause:
        """The cause that the stack tells; ``other`` where it tells none."""
        cause = self._causes.get(stack_id)
        if cause is None:
            cause = self._causes[stack_id] = classify(self.stack(stack_id))
            _bound(self._causes)
        return cause


def _bound(table: dict[_Key, _Value]) -> None:
    while len(table) > MAX_NAMES:
        del table[next(iter(table))]
