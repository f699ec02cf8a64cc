# SPDX-License-Identifier: Apache-2.0
"""Which addresses still need a name, and when /proc/kallsyms, which takes milliseconds to read, is worth reading for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Self

from uaptrace.kernel.kallsyms import name_addresses

MAX_TRIES: Final = 3
"""An address that has no name after so many readings has none until modules change."""
PAUSE_NS: Final = 2_000_000_000
"""After a reading in which an address had no name, the next one waits so long."""
MODULES_INTERVAL_NS: Final = 500_000_000
"""/proc/modules is read so often at most."""
MAX_ADDRESSES: Final = 1 << 14
"""The oldest are forgotten, and asked for again when a stack brings them. Fewer than the model keeps: what is not asked for it has."""


class AddressNames:
    """Names of the addresses that stacks brought.

    An address of a module is used again by the next module that is loaded there, and so is one of a BPF program. So what has such a
    name is looked up again whenever something else is looked up, and a module's whenever modules come. On a kernel with many symbols a
    reading takes a tenth of a second: every stack has a BPF program's name, so those alone are no reason for one.
    ``read_kallsyms`` and ``read_modules``: what /proc/kallsyms and /proc/modules say; empty where they say nothing.
    """

    def __init__(self, read_kallsyms: Callable[[], bytes], read_modules: Callable[[], bytes]) -> None:
        self._read_kallsyms = read_kallsyms
        self._read_modules = read_modules
        self._tries: dict[int, int] = {}
        """Readings in which an address without a name was not found."""
        self._names: dict[int, str] = {}
        self._modules: frozenset[_Module] = frozenset()
        self._came = False
        self._looked_ns = -MODULES_INTERVAL_NS
        self._failed_ns = -PAUSE_NS

    def want(self, addresses: Iterable[int]) -> None:
        """Addresses of stacks; 0 is none."""
        for address in addresses:
            if address and address not in self._names:
                self._tries.setdefault(address, 0)
        _bound(self._tries)

    def new(self, now_ns: int) -> dict[int, str]:
        """Names that are new, or other than before. ``now_ns``: of a clock that does not go back."""
        self._look_at_modules(now_ns)
        wanted = {address for address, tries in self._tries.items() if tries < MAX_TRIES}
        is_asked = _is_used_again if wanted else _is_of_module
        again = {address for address, name in self._names.items() if is_asked(name)} if wanted or self._came else set()
        if not wanted and not again:
            self._came = False
            return {}
        if now_ns - self._failed_ns < PAUSE_NS:
            return {}
        self._came = False
        found = name_addresses(self._read_kallsyms(), wanted | again)
        for address in wanted - found.keys():
            self._tries[address] += 1
            self._failed_ns = now_ns
        for address in wanted & found.keys():
            del self._tries[address]
        news = {address: name for address, name in found.items() if self._names.get(address) != name}
        self._names.update(news)
        _bound(self._names)
        return news

    def _look_at_modules(self, now_ns: int) -> None:
        if now_ns - self._looked_ns < MODULES_INTERVAL_NS:
            return
        self._looked_ns = now_ns
        modules = frozenset(map(_Module.of, self._read_modules().splitlines()))
        if came := modules - self._modules:
            self._came = True
            for address in self._tries:
                if any(module.may_have(address) for module in came):
                    self._tries[address] = 0
        self._modules = modules


class _Module(NamedTuple):
    """A line of /proc/modules, without what changes while a module stays. ``size`` is 0 where the line does not say where it is."""

    name: bytes
    size: int
    address: int

    @classmethod
    def of(cls, line: bytes) -> Self:
        fields = line.split()
        try:
            return cls(fields[0], int(fields[1]), int(fields[5], 16))
        except (IndexError, ValueError):
            return cls(line, 0, 0)

    def may_have(self, address: int) -> bool:
        return not self.size or not self.address or self.address <= address < self.address + self.size


def _is_used_again(name: str) -> bool:
    return name.endswith("]")


def _is_of_module(name: str) -> bool:
    """Not of what the kernel makes itself, which it lists in the same way (kernel/kallsyms.c)."""
    return _is_used_again(name) and not name.endswith(" [bpf]") and " [__builtin__" not in name


def _bound(table: dict[int, Any]) -> None:
    while len(table) > MAX_ADDRESSES:
        del table[next(iter(table))]
