# SPDX-License-Identifier: Apache-2.0
"""The parts of a start that can be timed on this machine, outside emulation, whatever its kernel forbids.

Attaching needs a traceable kernel (bench/guest.py). Compiling is needed only where the programs do not come with uaptrace.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench import bpf_run, worst
from bench.rows import Row, emit, not_measured, row
from uaptrace.model.state import KernelState

ROUNDS = 5

COMPILE = r"""
import sys, tempfile, time
from pathlib import Path
import uaptrace.cli, uaptrace.commands.serve
started = time.process_time()
import uaptrace.loader.child
from uaptrace.loader.constants import VARIABLES
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.plan import wanted_symbols
from uaptrace.loader.program import bpf_folder, compiler_flags, program_text
from uaptrace.loader.programs import compiled_programs
read_host_facts(wanted_symbols() | set(VARIABLES))
facts = time.process_time()
import bcc
imported = time.process_time()
folder = bpf_folder()
text = program_text(folder)
with tempfile.TemporaryDirectory() as kept_in:
    begin = time.process_time()
    compiled_programs(text, compiler_flags(), folder)
    shipped = time.process_time()
    compiled_programs(text, compiler_flags(), folder, fresh=True, kept_in=Path(kept_in))
    compiled = time.process_time()
import uaptrace.session.loop, uaptrace.session.live, uaptrace.exporter.server
print(started, facts - started, imported - facts, compiled - shipped, shipped - begin, time.process_time() - compiled)
"""


def runs() -> list[list[float]]:
    """Figures of COMPILE. RuntimeError where it cannot compile."""
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
        found.append([float(word) for word in done.stdout.split()[-6:]])
    return found


def start_s() -> tuple[float, float]:
    """Of a start: up to the first step that it says in the guest too (bench/guest.py), and what compiling adds. Medians."""
    figures = runs()
    until_symbols = statistics.median(started + facts for started, facts, *_ in figures)
    return until_symbols, statistics.median(imported + compiled - shipped for _, _, imported, compiled, shipped, _ in figures)


def measure() -> list[Row]:
    try:
        started, facts, imported, compiled, shipped, meanwhile = zip(*runs(), strict=True)
    except RuntimeError as error:
        return [not_measured("startup.compile_s", "s", str(error))]
    note = "CPU time, which on an idle machine is the time it takes"
    return [
        row("startup.interpreter_s", started, "s", note=f"Python and the command line, until the loader is started; {note}"),
        row("startup.facts_s", facts, "s", note=f"the loader's modules and /proc/kallsyms; {note}"),
        row("startup.shipped_s", shipped, "s", note=f"the programs as they come with uaptrace; {note}"),
        row("startup.import_bcc_s", imported, "s", note=f"only with --compile, or where they do not come with it; {note}"),
        row("startup.compile_s", compiled, "s", note=f"the same, at the first such start; {note}"),
        row("startup.meanwhile_s", meanwhile, "s", note=f"the daemon's modules, imported while the loader works; {note}"),
    ]


def measure_baseline() -> list[Row]:
    """Taking in a baseline of 1 TiB with 1% split: the model's part of it."""
    times = []
    for _ in range(ROUNDS):
        reading = worst.reading(worst.REGIONS_PER_TIB, worst.REGIONS_PER_TIB // 100)
        state = KernelState()
        state.update(worst.start())
        begin = time.thread_time()
        state.update(reading)
        state.snapshot(1, 0.0)
        times.append(time.thread_time() - begin)
    return [row("startup.take_in_1tib_s", times, "s", note="model and first snapshot for a baseline of 1 TiB with 1% split; CPU time")]


def main() -> int:
    if why := bpf_run.why_not():
        emit([not_measured("startup.compile_s", "s", why)])
    else:
        emit(measure())
    emit(measure_baseline())
    return 0


if __name__ == "__main__":
    sys.exit(main())
