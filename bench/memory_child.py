# SPDX-License-Identifier: Apache-2.0
"""The process whose memory bench/memory.py measures: nothing is imported here that the daemon does not import."""

from __future__ import annotations

import os
import sys
from typing import Any

from bench import worst
from uaptrace.loader.parent import DEFAULT_RING_BYTES


def rss_mb(field: str = "VmRSS") -> float:
    """Resident size of this process in MB (10**6 bytes); ``VmHWM``: the most it ever was."""
    with open("/proc/self/status") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith(field + ":"))
    return kib * 1024 / 1e6


class Daemon:
    """Everything that ``uaptrace serve`` keeps in memory, with a state fed from the given ring."""

    def __init__(self, ring_fd: int | None, nr_regions: int, nr_split: int) -> None:
        import uaptrace.commands.serve
        import uaptrace.session.loop  # noqa: F401
        from uaptrace.commands.tracing import settle_memory
        from uaptrace.ebpf.ring import MappedRing
        from uaptrace.exporter.server import serve
        from uaptrace.model.state import KernelState

        self.ring: Any = MappedRing(ring_fd, DEFAULT_RING_BYTES) if ring_fd is not None else None
        self.state = KernelState()
        self.state.update(worst.start())
        self.state.update(worst.reading(nr_regions, nr_split))
        settle_memory()
        self.server = serve(lambda: self.state.snapshot(1, 0.0), "127.0.0.1:0")

    def drain(self) -> int:
        from uaptrace.model.updates import Records

        taken = 0
        while len(batch := self.ring.drain(1 << 20)):
            taken += len(batch)
            self.state.update(Records(batch))
        self.state.snapshot(1, 0.0)
        return taken


def child(case: str, argument: str) -> None:
    """One case; prints figures, one line for each step."""
    if case == "events":
        # 64 GiB, 64 regions of it split: what the events below change.
        daemon = Daemon(int(argument), 32768, 32768 // 512)
        print(0, rss_mb(), rss_mb("VmHWM"), flush=True)
        for _ in sys.stdin:
            print(daemon.drain(), rss_mb(), rss_mb("VmHWM"), flush=True)
    elif case == "layout":
        nr_split = worst.REGIONS_PER_TIB * int(argument) // 100
        daemon = Daemon(None, worst.REGIONS_PER_TIB, nr_split)
        daemon.state.snapshot(1, 0.0)
        print(nr_split, rss_mb(), rss_mb("VmHWM"), flush=True)
    else:
        raise SystemExit(f"no such case: {case}")
    os._exit(0)


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2])
