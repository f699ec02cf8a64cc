# SPDX-License-Identifier: Apache-2.0
"""A recording as a question: its requests, the memory of its host, and what else it tells of that host. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from uaptrace.abi.errors import RecordingError
from uaptrace.model.tlb import TlbPart
from uaptrace.model.updates import MapReading, Start, Update
from uaptrace.policies.physical_memory import Memory, recorded_memory
from uaptrace.policies.requests import Requests, requests_from_updates

DEFAULT_FRAGMENTATION: Final = 0.3


class Facts:
    """What a recording says about the host; nothing without one."""

    def __init__(self) -> None:
        self.levels: Any = None
        self.buddyinfo = ""
        self.memory_bytes: int | None = None
        self.hostname = ""
        self.kernel_release = ""
        self.nr_cpus = 0
        self.tlb: tuple[TlbPart, ...] = ()

    def see(self, update: Update) -> None:
        """The host of the last start, and the first map that was read whole."""
        if isinstance(update, Start):
            self.memory_bytes = update.host.memory_bytes
            self.buddyinfo = update.host.buddyinfo
            self.hostname = update.host.hostname
            self.kernel_release = update.host.kernel_release
            self.nr_cpus = update.host.nr_cpus
            self.tlb = update.host.tlb
        elif isinstance(update, MapReading) and update.complete and self.levels is None:
            self.levels = update.levels.copy()


def recorded_question(
    updates: Iterable[Update],
    name: str,
    *,
    seed: int,
    memory: int | None = None,
    fragmentation: float | None = None,
    keep_map: bool = False,
) -> tuple[Requests, Memory, Facts]:
    """``memory`` and ``fragmentation`` instead of the host's; ``keep_map``: begin with the recorded direct map.

    Raises RecordingError where there is nothing to replay.
    """
    facts = Facts()

    def seen() -> Iterator[Update]:
        for update in updates:
            facts.see(update)
            yield update

    requests = requests_from_updates(seen(), name)
    if len(requests) == 0:
        raise RecordingError(f"{name} has no request to replay; record a workload that uses memfd_secret, modules or BPF")
    physical = recorded_memory(
        facts.levels,
        facts.buddyinfo,
        size_bytes=memory,
        host_bytes=facts.memory_bytes,
        fragmentation=fragmentation,
        default_fragmentation=DEFAULT_FRAGMENTATION,
        keep_map=keep_map,
        seed=seed,
    )
    return requests, physical, facts
