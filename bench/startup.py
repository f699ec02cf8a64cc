# SPDX-License-Identifier: Apache-2.0
"""The parts of a start that can be timed on this machine, outside emulation, whatever its kernel forbids.

Compiling the programs is most of the first start after a boot; attaching them needs a traceable kernel (bench/guest.py). The
constants are a 6.1 kernel's: their values do not change what is compiled.
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
from uaptrace.loader.attaching import compiled_programs
from uaptrace.loader.constants import VARIABLES
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.hooks import HOOKS
from uaptrace.loader.plan import plan_hooks, wanted_symbols
from uaptrace.loader.program import KernelConstants, bpf_folder, compiler_flags, program_text, use_stub_headers
read_host_facts(wanted_symbols() | set(VARIABLES))
facts = time.process_time()
import bcc
imported = time.process_time()
folder = bpf_folder()
use_stub_headers(folder)
symbols = {symbol: 1 for hook in HOOKS for symbol in hook.symbols if sys.argv[1] == "series" or "unmapped" not in symbol}
plan = plan_hooks(symbols, None, lambda name: True)
base = 0xFFFF888000000000
values = [base, 1 << 40, 0xFFFFEA0000000000, 0xFFFFFFFF82A10000, 4, 0x000FFFFFFFFFF000, 64, 0, 0xFFFFFFFF80000000, 0x10000000]
constants = KernelConstants(*values, 0, 8, 16, 24, 32, 40, 44, 56, 8)
flags = compiler_flags(constants, plan, folder, ring_pages=4096, nr_cpus=2, max_tasks=8192)
text = program_text(folder)
with tempfile.TemporaryDirectory() as kept_in:
    begin = time.process_time()
    compiled_programs(text, flags, Path(kept_in))
    compiled = time.process_time()
    compiled_programs(text, flags, Path(kept_in))
    kept = time.process_time()
import uaptrace.session.loop, uaptrace.session.live, uaptrace.exporter.server
print(started, facts - started, imported - facts, compiled - begin, kept - compiled, time.process_time() - kept)
"""


def runs(kernel: str) -> list[list[float]]:
    """Figures of COMPILE for a kernel with the series or a plain one. RuntimeError where it cannot compile."""
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", COMPILE, kernel], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
        found.append([float(word) for word in done.stdout.split()[-6:]])
    return found


def start_s() -> tuple[float, float]:
    """Of a start on a kernel with the series: up to the first step that it says in the guest too (bench/guest.py), and what the first start
    takes more than a later one. Medians."""
    figures = runs("series")
    until_symbols = statistics.median(started + facts for started, facts, *_ in figures)
    return until_symbols, statistics.median(imported + compiled - kept for _, _, imported, compiled, kept, _ in figures)


def measure() -> list[Row]:
    try:
        parts = {kernel: runs(kernel) for kernel in ("series", "plain")}
    except RuntimeError as error:
        return [not_measured("startup.compile_s", "s", str(error))]
    started, facts, imported, _, kept, meanwhile = zip(*parts["series"], *parts["plain"], strict=True)
    compiled = {kernel: [figures[3] for figures in of_kernel] for kernel, of_kernel in parts.items()}
    note = "CPU time, which on an idle machine is the time it takes"
    return [
        row("startup.interpreter_s", started, "s", note=f"Python and the command line, until the loader is started; {note}"),
        row("startup.facts_s", facts, "s", note=f"the loader's modules and /proc/kallsyms; {note}"),
        row("startup.compiled_before_s", kept, "s", note="instead of the next two, at every start but the first on a kernel"),
        row("startup.import_bcc_s", imported, "s", note=note),
        row("startup.compile_s", compiled["series"], "s", note=f"all programs of a kernel with the series; {note}"),
        row("startup.compile_plain_s", compiled["plain"], "s", note=f"all programs of a kernel without the series; {note}"),
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
