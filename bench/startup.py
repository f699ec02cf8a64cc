# SPDX-License-Identifier: Apache-2.0
"""The parts of a start that can be timed on this machine, outside emulation, whatever its kernel forbids.

Compiling the programs is most of the first start after a boot; attaching them needs a traceable kernel (bench/guest.py). The
constants are a 6.1 kernel's: their values do not change what is compiled.
"""

from __future__ import annotations

import subprocess
import sys
import time

from bench import bpf_run, worst
from bench.rows import Row, emit, not_measured, row
from uaptrace.model.state import KernelState

ROUNDS = 5

COMPILE = r"""
import time
import uaptrace.commands.serve, uaptrace.session
from uaptrace.loader.facts import read_host_facts
from uaptrace.loader.plan import wanted_symbols
read_host_facts(wanted_symbols())
begin = time.process_time()
from uaptrace.loader.hooks import ALLOC_PAGES_SYMBOLS, HOOKS
from uaptrace.loader.plan import plan_hooks
from uaptrace.loader.program import KernelConstants, bpf_folder, compiler_flags, program_text, use_stub_headers
folder = bpf_folder()
use_stub_headers(folder)
import sys
symbols = {symbol: 1 for hook in HOOKS for symbol in hook.symbols if sys.argv[1] == "series" or "unmapped" not in symbol}
plan = plan_hooks(symbols, None, lambda name: True)
base = 0xFFFF888000000000
values = [base, 1 << 40, 0xFFFFEA0000000000, 0xFFFFFFFF82A10000, 4, 0x000FFFFFFFFFF000, 64, 0, 0xFFFFFFFF80000000, 0x10000000]
constants = KernelConstants(*values, 0, 8, 16, 24, 32, 40, 44, 56, 8)
flags = compiler_flags(constants, plan, folder, ring_pages=4096, nr_cpus=2, max_tasks=8192)
from pathlib import Path
import tempfile
from uaptrace.loader.bcc_programs import _bcc, compiled_programs
_bcc()
imported = time.process_time()
with tempfile.TemporaryDirectory() as folder_:
    compiled_programs(program_text(folder), flags, Path(folder_))
    compiled = time.process_time()
    compiled_programs(program_text(folder), flags, Path(folder_))
    kept = time.process_time()
print(imported - begin, compiled - imported, kept - compiled, begin)
"""


def measure() -> list[Row]:
    imports: list[float] = []
    again: list[float] = []
    befores: list[float] = []
    compiles: dict[str, list[float]] = {"series": [], "plain": []}
    for _ in range(ROUNDS):
        for kernel, times in compiles.items():
            done = subprocess.run([sys.executable, "-c", COMPILE, kernel], capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no output"])[-1]
                return [not_measured("startup.compile_s", "s", last)]
            imported, compiled, kept, before = done.stdout.split()[-4:]
            befores.append(float(before))
            imports.append(float(imported))
            times.append(float(compiled))
            again.append(float(kept))
    note = "CPU time, which on an idle machine is the time it takes"
    return [
        row("startup.interpreter_and_facts_s", befores, "s", note=f"Python, the daemon's modules, /proc/kallsyms; {note}"),
        row("startup.import_bcc_s", imports, "s", note=note),
        row("startup.compile_s", compiles["series"], "s", note=f"all programs of a kernel with the series; {note}"),
        row("startup.compile_plain_s", compiles["plain"], "s", note=f"all programs of a kernel without the series; {note}"),
        row("startup.compiled_before_s", again, "s", note="instead of compiling, at every start of a boot but the first"),
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
