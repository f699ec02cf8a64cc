# SPDX-License-Identifier: Apache-2.0
"""Names that arrive beside the records: processes, stacks, symbols, cgroups. All bounded: the oldest go first that nothing has any more."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from uaptrace.abi.events import MAX_STACK_FRAMES, STACK_FRAMES_PER_RECORD
from uaptrace.abi.wire import comms, frames

from .causes import classify
from .codes import KindCode
from .columns import Columns, Ints
from .snapshot import Cause
from .stacks import without_tracer

T = TypeVar("T")

MAX_NAMES: Final = 12288
"""Of each kind but symbols; more than all rows can have (model.processes, ledger, audit), so that there is room for new ones."""
MAX_SYMBOLS: Final = 32768
_NUMBER_BITS: Final = 32
_NUMBER: Final = (1 << _NUMBER_BITS) - 1
_MAX_LOOKS: Final = 1 << 22
"""How many stacks are looked at, in all, for addresses that got other names. A host that swaps modules 10,000 times a day with 100 stacks
reaches it after four days; from then on a stack is called what its addresses are called last."""


class _Borne(NamedTuple):
    """What a process is called, and when it began (0: not known)."""

    comm: str
    began_ns: int


_NOT_NAMED: Final = _Borne("", 0)
_ADDRESS_BYTES: Final = 8


def number_of(key: Any) -> Any:
    """The tgid of a process, or the number of a stack, of a key; for an array of keys an array."""
    return key & _NUMBER


class Names:
    """What processes, stacks, addresses and cgroups are called.

    Numbers are used again: a tgid by the next process, an address by the next module that is loaded there. So processes and stacks go by
    keys. The first owner of a number has the number itself as key, the ones after it have one of their own, and each key keeps its name.
    """

    def __init__(self, self_tgids: frozenset[int] = frozenset(), start_ns: int = 0) -> None:
        self.processes: dict[int, int] = {}
        """Key of the process that has a tgid now, where it is not the tgid."""
        self.stacks: dict[int, int] = {}
        """The same for stacks."""
        self._self_tgids = self_tgids
        self._start_ns = start_ns
        """By tgid, of the process that has it now; 0 is not known and not kept."""
        self._keys: dict[tuple[int, int], int] = {}
        """By tgid and start, where the key is not the tgid."""
        self._last_key = 0
        self._borne: dict[int, _Borne] = {}
        """By key of the process."""
        self._frames: dict[int, bytes] = {}
        """Addresses as 64-bit words, innermost first; as Python's integers they would take four times as much."""
        self._symbols: dict[int, str] = {}
        self._max_symbols = MAX_SYMBOLS
        self._cgroups: dict[int, str] = {}
        self._stacks: dict[int, tuple[str, ...]] = {}
        self._causes: dict[int, Cause] = {}
        self._former: dict[int, tuple[str, ...]] = {}
        """Stacks, by key, as they were called before their addresses got other names."""
        self._looks_left = _MAX_LOOKS

    def takeovers(self, columns: Columns) -> list[int]:
        """Positions of the TASK records by which a tgid becomes another process's."""
        if not columns.count(KindCode.TASK):
            return []
        index = columns.index(KindCode.TASK)
        now: dict[int, int] = {}
        found = []
        for at, tgid, start_ns in zip(index.tolist(), columns.of("tgid", index).tolist(), _starts(columns, index), strict=True):
            if self._is_another(tgid, start_ns, now.get(tgid, self._began_ns(tgid))):
                found.append(at)
            now[tgid] = start_ns or now.get(tgid, 0)
        return found

    def _began_ns(self, tgid: int) -> int:
        """When the process that has the tgid now began; 0 where it is not known."""
        return self._borne.get(self.processes.get(tgid, tgid), _NOT_NAMED).began_ns

    def _is_another(self, tgid: int, start_ns: int, before_ns: int) -> bool:
        """``before_ns``: start of the process that had the tgid so far, 0 where it is not known."""
        if before_ns:
            return start_ns not in (0, before_ns)
        # The loader has ended when tracing begins: whoever began later is not it.
        return tgid in self._self_tgids and start_ns > self._start_ns

    def apply(self, columns: Columns) -> list[int]:
        """Take in the TASK and STACK records of a chunk. Returns the keys of processes that took over a tgid."""
        taken_over: list[int] = []
        if columns.count(KindCode.TASK):
            index = columns.index(KindCode.TASK)
            tgids = columns.of("tgid", index).tolist()
            for tgid, start_ns, comm in zip(tgids, _starts(columns, index), comms(columns.batch[index]), strict=True):
                if self._is_another(tgid, start_ns, self._began_ns(tgid)):
                    taken_over.append(self._take_over(tgid, start_ns))
                self._name(tgid, start_ns, comm)
        if columns.count(KindCode.STACK):
            self._add_stacks(columns)
        return taken_over

    def _take_over(self, tgid: int, start_ns: int) -> int:
        key = tgid if self._borne.get(tgid, _NOT_NAMED).began_ns == start_ns else self._keys.get((tgid, start_ns))
        if key is None:
            self._last_key += 1
            key = self._keys[tgid, start_ns] = tgid | self._last_key << _NUMBER_BITS
        self.processes.pop(tgid, None)  # so that the newest come last
        if key != tgid:
            self.processes[tgid] = key
        return key

    def _name(self, tgid: int, start_ns: int, comm: str) -> None:
        key = self.processes.get(tgid, tgid)
        before = self._borne.pop(key, _NOT_NAMED)
        self._borne[key] = _Borne(comm, start_ns or before.began_ns)

    def _add_stacks(self, columns: Columns) -> None:
        index = columns.index(KindCode.STACK)
        stack_ids = columns.of("stack_id", index).tolist()
        firsts = (columns.of("order", index) * STACK_FRAMES_PER_RECORD).tolist()
        for stack_id, first, addresses in zip(stack_ids, firsts, frames(columns.batch[index]), strict=True):
            if first >= MAX_STACK_FRAMES:
                continue
            held = self._frames.get(stack_id, b"")
            begin, end = _ADDRESS_BYTES * first, _ADDRESS_BYTES * (first + STACK_FRAMES_PER_RECORD)
            self._frames[stack_id] = held[:begin].ljust(begin, b"\0") + addresses.tobytes() + held[end:]
            key = self.stacks.get(stack_id, stack_id)
            self._stacks.pop(key, None)
            self._causes.pop(key, None)

    def add_symbols(self, names: Mapping[int, str]) -> None:
        """Names of return addresses, which may come after the stacks that have them. Stacks with an address that had another name keep
        it: what comes later with the same addresses is another stack."""
        changed = {address for address, name in names.items() if self._symbols.get(address, name) != name}
        if changed:
            self._keep_names(changed)
        self._symbols.update(names)
        self._stacks.clear()
        self._causes.clear()

    def _keep_names(self, addresses: set[int]) -> None:
        """Gives a new key to each stack that has one of the addresses."""
        if self._looks_left <= 0:
            return
        self._looks_left -= len(self._frames)
        for stack_id, held in self._frames.items():
            if addresses.isdisjoint(_addresses(held)):
                continue
            key = self.stacks.pop(stack_id, stack_id)
            self._former[key] = self.stack(key)
            self._last_key += 1
            self.stacks[stack_id] = stack_id | self._last_key << _NUMBER_BITS

    def add_cgroups(self, paths: Mapping[int, str]) -> None:
        """Paths of cgroups by id."""
        self._cgroups.update(paths)

    @property
    def is_full(self) -> bool:
        """There are more of a kind than are kept: time to forget."""
        tables = (
            self._borne,
            self._keys,
            self.processes,
            self._frames,
            self.stacks,
            self._former,
            self._cgroups,
        )
        return any(len(table) > MAX_NAMES for table in tables) or len(self._symbols) > self._max_symbols

    def forget(self, processes: Set[int], stacks: Set[int], cgroups: Set[int]) -> None:
        """Keep these keys of processes and stacks, and ids of cgroups, which something has, and the newest of the others: a name comes
        before what has it. A process that works all the time is named once, and keeps its name whatever comes and goes beside it."""
        processes = newest(self._borne, processes)
        self._borne = only(self._borne, processes)
        # Where the first owner of a number is kept, the number must not fall back to it.
        self.processes = {tgid: key for tgid, key in self.processes.items() if key in processes or tgid in processes}
        self._keys = {owner: key for owner, key in self._keys.items() if key in processes}
        self._former = only(self._former, stacks)
        stacks = newest({self.stacks.get(number, number): None for number in self._frames}, stacks)
        self.stacks = {number: key for number, key in self.stacks.items() if key in stacks or number in stacks}
        self._frames = {number: held for number, held in self._frames.items() if self.stacks.get(number, number) in stacks}
        self._stacks.clear()
        self._causes.clear()
        self._cgroups = only(self._cgroups, newest(self._cgroups, cgroups))
        if len(self._symbols) > self._max_symbols:
            needed = {address for held in self._frames.values() for address in _addresses(held)}
            self._symbols = only(self._symbols, newest(self._symbols, needed, MAX_SYMBOLS))
            # Stacks may need more than that: the next time comes when a quarter of MAX_SYMBOLS have come, not with each record.
            self._max_symbols = max(MAX_SYMBOLS, len(self._symbols) + MAX_SYMBOLS // 4)

    def comm(self, process: int) -> str:
        """Name of the process with that key, empty where it is not known."""
        return self._borne.get(process, _NOT_NAMED).comm

    def started_ns(self, process: int) -> int | None:
        """When the process with that key began (CLOCK_MONOTONIC); None where it is not known."""
        return self._borne.get(process, _NOT_NAMED).began_ns or None

    def cgroup(self, cgroup_id: int) -> str:
        """Path of the cgroup, empty where it is not known."""
        return self._cgroups.get(cgroup_id, "")

    def stack(self, stack: int) -> tuple[str, ...]:
        """Frames, innermost first: ``symbol+0xoff``, or ``0xaddress`` where the name is not known; empty where there is none."""
        former = self._former.get(stack)
        if former is not None:
            return former
        known = self._stacks.get(stack)
        if known is None:
            addresses = [address for address in _addresses(self._frames.get(number_of(stack), b"")) if address]
            known = self._stacks[stack] = without_tracer(self._symbols.get(address, f"{address:#x}") for address in addresses)
        return known

    def cause(self, stack: int) -> Cause:
        """The cause that the stack tells; ``other`` where it tells none."""
        cause = self._causes.get(stack)
        if cause is None:
            cause = self._causes[stack] = classify(self.stack(stack))
        return cause


def _starts(columns: Columns, index: Ints) -> list[int]:
    """When the processes of TASK records began, 0 where that is not known: it is in the place of cgroup_id (bpf/events.h)."""
    starts: list[int] = columns.of("cgroup_id", index).tolist()
    return starts


def newest(table: Mapping[int, Any], needed: Set[int], most: int = MAX_NAMES) -> set[int]:
    """The keys that are needed, and as many of the table's newest as make three quarters of what it may have, so that the next time is
    not soon."""
    room = max(most * 3 // 4 - len(needed), 0)
    others = [key for key in table if key not in needed]
    return {*needed, *others[max(len(others) - room, 0) :]}


def _addresses(held: bytes) -> list[int]:
    addresses: list[int] = np.frombuffer(held, np.uint64).tolist()
    return addresses


def only(table: Mapping[int, T], keys: Set[int]) -> dict[int, T]:
    """The part of the table with these keys, in its order."""
    return {key: value for key, value in table.items() if key in keys}
