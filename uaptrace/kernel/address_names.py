# SPDX-License-Identifier: Apache-2.0
"""Which addresses still need a name, and when /proc/kallsyms, which takes milliseconds to read, is worth reading for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from uaptrace.kernel.kallsyms import name_addresses

MAX_TRIES: Final = 3
"""An address that has no name after so many readings has none until modules change."""
PAUSE_NS: Final = 2_000_000_000
"""After a reading in which an address had no name, the next one waits so long."""
MODULES_INTERVAL_NS: Final = 500_000_000
"""/proc/modules is read so often at most."""
MAX_ADDRESSES: Final = 1 << 16
"""The oldest are forgotten."""


class AddressNames:
    """Names of the addresses that stacks brought.

    An address of a module is used again by the next module that is loaded there, and so is one of a BPF program. So what has such a
    name is looked up again whenever modules change or something else is looked up. ``read_kallsyms`` and ``read_modules``: what
    /proc/kallsyms and /proc/modules say; empty where they say nothing.
    """

    def __init__(self, read_kallsyms: Callable[[], bytes], read_modules: Callable[[], bytes]) -> None:
        self._read_kallsyms = read_kallsyms
        self._read_modules = read_modules
        self._tries: dict[int, int] = {}
        """Readings in which an address without a name was not found."""
        self._names: dict[int, str] = {}
        self._modules: frozenset[bytes] = frozenset()
        self._changed = False
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
        again = {address for address, name in self._names.items() if _is_used_again(name)} if wanted or self._changed else set()
        if not wanted and not again:
            self._changed = False
            return {}
        if now_ns - self._failed_ns < PAUSE_NS:
            return {}
        self._changed = False
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
        modules = frozenset(map(_identity, self._read_modules().splitlines()))
        if modules != self._modules:
            self._modules = modules
            self._changed = True
            self._tries = dict.fromkeys(self._tries, 0)


def _identity(line: bytes) -> bytes:
    """Of a line of /proc/modules: name, size and address, without what changes while a module stays."""
    fields = line.split()
    return b" ".join((*fields[:2], fields[5])) if len(fields) > 5 else line


def _is_used_again(name: str) -> bool:
    return name.endswith("]")


def _bound(table: dict[int, Any]) -> None:
    while len(table) > MAX_ADDRESSES:
        del table[next(iter(table))]
