# SPDX-License-Identifier: Apache-2.0
"""Memory taken until the kernel reclaims."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import time
from pathlib import Path
from typing import Final, NoReturn

from uaptrace.testhost.work.common import Result, WorkError, hold, libc
from uaptrace.testhost.work.shrinkers import CACHE_FILE, released_pages

REFAULTS: Final = "workingset_refault_file"
MAX_REFAULTS: Final = 257
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise WorkError("no MemAvailable in /proc/meminfo")


def vmstat(name: str) -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    return 0


def eat_memory() -> NoReturn:
    """Takes memory until the cache gives pages back, or programs begin to be read again.

    The second is the sign of thrashing: the kernel drops pages of running programs. Going on from
    there would stop the machine for minutes before anything is killed.
    """
    Path("/proc/self/oom_score_adj").write_text("1000")
    libc.mlockall(MCL_CURRENT | MCL_FUTURE)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    released, refaults = released_pages(), vmstat(REFAULTS)
    coarse, fine = 16 << 20, 1 << 20
    eaten = [mmap.mmap(-1, coarse, flags) for _ in range(0, available_bytes() * 9 // 10, coarse)]
    while released_pages() == released and vmstat(REFAULTS) - refaults < MAX_REFAULTS:
        eaten.append(mmap.mmap(-1, fine, flags))
    os._exit(0)


def press(seconds: float) -> Result:
    """Rounds of memory pressure by a child that is the kernel's first choice to be killed."""
    result: Result = {"rounds": 0, "killed_by_kernel": 0}
    end = time.monotonic() + seconds
    released, scanned = released_pages(), vmstat("slabs_scanned")
    while True:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                eat_memory()
            os._exit(1)
        result["rounds"] += 1
        status = os.waitpid(child, 0)[1]
        result["killed_by_kernel"] += os.WIFSIGNALED(status)
        if time.monotonic() >= end:
            break
    result["slabs_scanned"] = vmstat("slabs_scanned") - scanned
    if CACHE_FILE.exists():
        result["released_pages"] = released_pages() - released
    return result


def pressure(args: argparse.Namespace) -> Result:
    result = press(args.seconds)
    hold(args)
    return result
