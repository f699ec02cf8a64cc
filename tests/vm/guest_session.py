# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: one live session, and what the kernel and we say after each phase."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from uaptrace.kernel.debugfs import parse_unmapped_alloc
from uaptrace.kernel.procfs import parse_meminfo, parse_vmstat
from uaptrace.reports.documents import audit_to_json, snapshot_to_json
from uaptrace.session.live import LiveSource
from uaptrace.session.loop import Session
from uaptrace.session.verification import map_verdict

TOP = Path(__file__).parents[2]
WORKLOAD = str(TOP / "kernel/workload")
UAPTRACE = str(TOP / ".venv/bin/uaptrace")
DEBUGFS_ROWS = Path("/sys/kernel/debug/unmapped_alloc")
PTDUMP = Path("/sys/kernel/debug/page_tables/kernel")


def say(text: str) -> None:
    print(f"[{time.monotonic():7.1f}] {text}", file=sys.stderr, flush=True)


def kernel_says() -> dict[str, Any]:
    """The kernel's own figures, read by this test and not by the tool."""
    vmstat = parse_vmstat(Path("/proc/vmstat").read_text())
    meminfo = parse_meminfo(Path("/proc/meminfo").read_text())
    rows = parse_unmapped_alloc(DEBUGFS_ROWS.read_text()) if DEBUGFS_ROWS.exists() else None
    return {
        "splits": {"2m": vmstat.get("direct_map_level2_splits"), "1g": vmstat.get("direct_map_level3_splits")},
        "direct_map": {name: value for name, value in meminfo.items() if name.startswith("DirectMap")},
        "rows": None if rows is None else {"free": rows.free, "cached": rows.cached, "released": rows.released},
    }


def direct_map_section(dump: str) -> str:
    """Lines of the direct map in the kernel's dump of its page tables."""
    return dump.split("---[ Low Kernel Mapping ]---")[1].split("---[")[0]


def entries_in_dump(dump: str) -> int:
    """Present entries of the direct map: lines of its section that have attributes."""
    found = re.findall(r"^0x(\w+)-0x(\w+) +\w+ +\S.* (pud|pmd|pte)$", direct_map_section(dump), re.MULTILINE)
    sizes = {"pud": 1 << 30, "pmd": 2 << 20, "pte": 4096}
    return sum((int(end, 16) - int(start, 16)) // sizes[level] for start, end, level in found)


class Guest:
    """One live session, and what it saw in each phase. Runs as root: the workloads and the kernel's own files need it."""

    def __init__(self, session: Session[LiveSource]) -> None:
        self.session = session
        self.phases: list[dict[str, Any]] = []

    def workload(self, *arguments: str) -> dict[str, Any]:
        """Run the workload while the session takes events in; its own report."""
        with subprocess.Popen([sys.executable, WORKLOAD, *arguments], stdout=subprocess.PIPE, text=True) as process:
            self.session.run(0.5, until=lambda: process.poll() is not None)
            assert process.stdout is not None
            said = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"workload {' '.join(arguments)} failed with status {process.returncode}: {said}")
        report: dict[str, Any] = json.loads(said)
        return report

    def phase(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run a workload (or nothing), let everything settle, and compare."""
        before = kernel_says()
        earlier = self.session.finish()
        say(f"{name}: {' '.join(arguments)}")
        report = self.workload(*arguments) if arguments else None
        return self.look(name, report, before, snapshot_to_json(earlier))

    def look(self, name: str, report: Any, before: Any, earlier: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {"name": name, "workload": report, "kernel_before": before, "before": earlier}
        fresh = map_verdict(self.session, "kcore")
        seen["kcore"] = fresh.to_json()
        if PTDUMP.exists():
            seen["ptdump"] = map_verdict(self.session, "ptdump").to_json()
            seen["entries_in_dump"] = entries_in_dump(PTDUMP.read_text())
        snapshot = self.session.finish()
        seen["kernel_after"] = kernel_says()
        seen["after"] = snapshot_to_json(snapshot)
        seen["audit"] = audit_to_json(snapshot)
        self.phases.append(seen)
        say(f"  kcore differs by {fresh.differing}, lost {snapshot.loss.total}, {snapshot.exactness.reasons or 'exact'}")
        return seen
