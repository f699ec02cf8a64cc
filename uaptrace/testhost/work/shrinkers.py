# SPDX-License-Identifier: Apache-2.0
"""The cache's shrinker, and others, asked for pages."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Final

from uaptrace.testhost.work.common import Result, WorkError, hold

SHRINKERS: Final = Path("/sys/kernel/debug/shrinker")
CACHE_FILE: Final = Path("/sys/kernel/debug/unmapped_alloc")


def cache_rows() -> dict[str, list[int]]:
    """The rows of the cache's file in debugfs; empty where there is none."""
    with contextlib.suppress(OSError):
        lines = (line.partition(":") for line in CACHE_FILE.read_text().splitlines())
        return {name: [int(value) for value in values.split()] for name, _, values in lines if name in ("Free", "Cached", "Released")}
    return {}


def pages_of(blocks: list[int]) -> int:
    return sum(nr << order for order, nr in enumerate(blocks))


def released_pages() -> int:
    rows = cache_rows()
    return pages_of(rows["Released"]) if rows else 0


def shrinker_files(which: str) -> list[Path]:
    if not SHRINKERS.is_dir():
        return []
    pattern = "*" if which == "all" else f"{which}-*"
    return sorted(path / "scan" for path in SHRINKERS.glob(pattern) if (path / "scan").exists())


def ask_shrinkers(files: list[Path], nr_pages: int) -> int:
    """Asks each shrinker for a number of objects; returns how many took the request."""
    nr_asked = 0
    for file in files:
        # one that counts per memory cgroup refuses this form
        with contextlib.suppress(OSError):
            file.write_text(f"0 0 {nr_pages}\n")
            nr_asked += 1
    return nr_asked


def shrink(args: argparse.Namespace) -> Result:
    released = released_pages()
    files = shrinker_files(args.shrinker)
    result: Result = {"shrinker": args.shrinker, "asked_pages": args.pages}
    if files:
        result["shrinkers"] = ask_shrinkers(files, args.pages)
    elif args.shrinker != "all" and SHRINKERS.is_dir():
        raise WorkError(f"this kernel has no shrinker {args.shrinker}")
    else:
        print("workload: no shrinkers in debugfs (CONFIG_SHRINKER_DEBUG): dropping slab caches instead", file=sys.stderr)
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        result["shrinkers"] = 0
    if CACHE_FILE.exists():
        result["released_pages"] = released_pages() - released
    hold(args)
    return result
