# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: a page fails while the direct map is traced, and the kernel takes it out of there.

``python -m tests.vm.guest_memory_failure FOLDER``. Writes FOLDER/address, the physical address of a page that this process holds and
that a 2M mapping has; whoever runs the machine reports an error there. Then writes FOLDER/result.json.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path

from tests.vm.guest_session import Guest, kernel_says, say
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_2M, Level
from uaptrace.kernel.procfs import parse_meminfo
from uaptrace.loader.parent import LoaderOptions, load
from uaptrace.reports.documents import snapshot_to_json
from uaptrace.session.live import LiveSource
from uaptrace.session.loop import Session

CHECK_INTERVAL = Path("/sys/devices/system/machinecheck/machinecheck0/check_interval")
HELD_BYTES = 64 << 20
TIMEOUT_S = 300


def pfns_of(memory: mmap.mmap, address: int) -> list[int]:
    """Page frames of memory of this process (Documentation/admin-guide/mm/pagemap.rst)."""
    nr_pages = len(memory) // PAGE_SIZE
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), nr_pages * 8, address // PAGE_SIZE * 8)
    return [entry & ((1 << 55) - 1) for entry in struct.unpack(f"{nr_pages}Q", entries)]


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def corrupted_bytes() -> int:
    return parse_meminfo(Path("/proc/meminfo").read_text()).get("HardwareCorrupted", 0)


def main() -> None:
    folder = Path(sys.argv[1])
    source = LiveSource(load(LoaderOptions()))
    session = Session(source)
    session.start()
    guest = Guest(session)
    guest.phase("baseline")
    memory = mmap.mmap(-1, HELD_BYTES)
    for offset in range(0, HELD_BYTES, PAGE_SIZE):
        memory[offset] = 1
    levels = session.state.direct_map.levels.copy()
    pfn = next(pfn for pfn in pfns_of(memory, address_of(memory)) if levels[pfn // PAGES_PER_2M] == Level.M2)
    before, kernel_before = snapshot_to_json(session.finish()), kernel_says()
    # Errors that need no handling at once are found when the kernel looks for them: every second instead of every five minutes.
    CHECK_INTERVAL.write_text("1")
    (folder / "address.new").write_text(f"{pfn * PAGE_SIZE:#x}")
    (folder / "address.new").rename(folder / "address")
    say(f"waiting for page {pfn:#x} to fail")
    deadline = time.monotonic() + TIMEOUT_S
    session.run(0.25, until=lambda: corrupted_bytes() > 0 or time.monotonic() > deadline)
    guest.look("failed", None, kernel_before, before)
    result = {
        "corrupted_bytes": corrupted_bytes(),
        "level": int(session.state.direct_map.levels[pfn // PAGES_PER_2M]),
        "phases": guest.phases,
    }
    source.close()
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
