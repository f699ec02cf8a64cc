# SPDX-License-Identifier: Apache-2.0
"""Small updates of a made-up host, and recordings of them. For tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uaptrace.abi.events import Kind
from uaptrace.abi.units import Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update
from uaptrace.recording import RecordingWriter


def start(time_ns: int = 1_000) -> Start:
    hooks = (HookStatus("split", "flush_tlb_all", "fentry"), HookStatus("release", None, None, "not in this kernel"))
    return Start(
        HostInfo("testhost", "6.1.0-44-amd64", nr_cpus=2), hooks, time_ns, 1_700_000_000.5, frozenset({42}), {Level.M2: 3}, 1 << 20
    )


def records(n: int, first_ns: int = 2_000) -> Batch:
    batch = np.zeros(n, RECORD)
    batch["time_ns"] = first_ns + 1_000 * np.arange(n)
    batch["kind"] = Kind.SET_DIRECT_MAP
    batch["pfn"] = 4096 + np.arange(n)
    batch["nr_pages"] = 1
    batch["before"], batch["after"] = 1, 129
    return batch


def task(tgid: int, comm: bytes, time_ns: int = 1_500) -> Batch:
    batch = np.zeros(1, RECORD)
    overlay = comm.ljust(16, b"\0")
    batch["time_ns"], batch["kind"], batch["tgid"] = time_ns, Kind.TASK, tgid
    batch["pfn"] = int.from_bytes(overlay[:8], "little")
    batch["nr_pages"] = int.from_bytes(overlay[8:12], "little")
    batch["tid"] = int.from_bytes(overlay[12:], "little")
    return batch


def counters(time_ns: int, allocs: int) -> CountersReading:
    words = np.zeros(512, np.uint64)
    words[2] = allocs
    return CountersReading(time_ns, words, 0, {Level.M2: 7}, None, None, None, None, None, True)


def reading(time_ns: int) -> MapReading:
    levels = np.array([1, 2, 2, 0], np.uint8)
    return MapReading(time_ns - 10, time_ns, 0, levels, np.array([0], np.int64), np.ones((1, 512), np.uint8), True)


def rotated(path: Path, **options: object) -> list[Update]:
    """A recording in several parts; gives what was told, without what the parts repeat."""
    now = [0.0]
    told: list[Update] = []
    writer = RecordingWriter(
        path,
        clock=lambda: now[0],
        sync=False,
        baseline=lambda: [reading(int(now[0] * 1e9)), counters(int(now[0] * 1e9), int(now[0]) * 100)],
        **options,  # type: ignore[arg-type]
    )

    def tell(update: Update) -> None:
        told.append(update)
        writer.write(update)

    tell(start())
    tell(Records(task(7, b"cat")))
    tell(Symbols({4096: "secretmem_fault+0x10"}))
    for i in range(10):
        now[0] += 1.0
        tell(Records(records(100, first_ns=int(now[0] * 1e9))))
        tell(counters(int(now[0] * 1e9) + 1, (i + 1) * 100))
    tell(Cgroups({5: "/system.slice/a.service"}))
    writer.close()
    return told
