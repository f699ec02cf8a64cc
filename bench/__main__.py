# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: every benchmark in a process of its own, bench/results.json, and the table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from bench.publish import publish
from bench.rows import Row, machine, not_measured, table

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("consumer", "pipeline", "recordings", "archive", "memory", "scrape", "startup", "guest")
RESULTS = Path(__file__).with_name("results.json")


def run(group: str) -> list[Row]:
    """Rows of one group; one that says why where it failed."""
    command = [sys.executable, "-m", f"bench.{group}"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        rows.append(not_measured(f"{group}.failed", "", f"{' '.join(command[1:])} ended with status {done.returncode}"))
    return rows


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """The old rows with the new in their places, and what is only new behind them."""
    fresh = {row.name: row for row in new}
    rows = [fresh.pop(row.name, row) for row in old]
    return [*rows, *fresh.values()]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Run the benchmarks. docs/performance.md says what each row means."
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all without it")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where rows are written (default: bench/results.json)")
    parser.add_argument("--no-guest", action="store_true", help="leave out what boots virtual machines (most of the time)")
    parser.add_argument("--keep", action="store_true", help="keep rows of an earlier run that this one does not measure")
    parser.add_argument("--show", action="store_true", help="measure nothing: print the table of the file")
    parser.add_argument("--publish", action="store_true", help="measure nothing: put the file's rows into docs/performance.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    if arguments.show:
        print(table([Row(**row) for row in json.loads(arguments.output.read_text())["rows"]]))
        return 0
    if arguments.publish:
        stored = json.loads(arguments.output.read_text())
        publish(stored["machine"], [Row(**row) for row in stored["rows"]])
        return 0
    rows: list[Row] = []
    for group in arguments.groups or GROUPS:
        if group == "guest" and arguments.no_guest:
            continue
        print(f"bench: {group}", file=sys.stderr, flush=True)
        rows += run(group)
    if arguments.keep and arguments.output.exists():
        rows = merged([Row(**row) for row in json.loads(arguments.output.read_text())["rows"]], rows)
    text = json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1)
    arguments.output.write_text(text + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
