# SPDX-License-Identifier: Apache-2.0
"""Instructions that each way of hooking the page allocator adds, counted inside a virtual machine that counts them as time.

    kernel/boot --no-kvm --cpus 1 --qemu-opts="-icount shift=1,sleep=off" -- .venv/bin/python bench/guest_probe_cost.py

works on the patched kernel and on a distribution's (``--kernel debian-6.1``). With ``-icount shift=1`` each guest instruction takes two
nanoseconds of guest time and nothing else does, so the figures do not depend on the machine or on what else runs on it.

Each mechanism is compared with nothing attached, in one boot, in the order off on on off (and on off off on in every second
round), so that a drift of the guest falls on both alike. A fault is the first write to a page of a private anonymous mapping
without huge pages. QEMU counts each turn of a string instruction, a processor counts one of them: the rest of those that clear a page
is taken off what a fault takes.
Prints one line of JSON for each mechanism.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import mmap
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import bpf_run
from uaptrace.abi.hooks import ALLOC_PAGES_SYMBOLS, SERIES_SYMBOL
from uaptrace.ebpf.libbpf import link_program
from uaptrace.testhost.work.secret_memory import raise_memlock

PAGE = 4096
NS_PER_INSTRUCTION = 2
FLAG = "0x10000000"
SYS_MEMFD_SECRET = 447
SETTLED = 0.005
MAX_RUNS = 20
OWN_RING_BYTES = 64 << 20

# Each program that looks for the flag does what the real one would at the least when it finds it: it counts.
TEXT = r"""
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
struct block { u64 words[512]; };
BPF_ARRAY(seen, u64, 1);
BPF_ARRAY(active, u64, 1);
BPF_PERCPU_ARRAY(per_cpu, u64, 4);
BPF_F_TABLE("array", u32, struct block, mapped, NR_CPUS, 1024);

static __always_inline int found(void)
{
	u32 zero = 0;
	u64 *n = seen.lookup(&zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

int empty(u64 *ctx) { return 0; }
int flag_test(u64 *ctx) { return ctx[0] & FLAG ? found() : 0; }
int flag_and_refill_test(u64 *ctx)
{
	u32 zero = 0;
	u64 *n;

	if (ctx[0] & FLAG)
		return found();
	n = active.lookup(&zero);
	return n && *n ? found() : 0;
}
int count_per_cpu(u64 *ctx)
{
	int zero = 0;
	u64 *n = per_cpu.lookup(&zero);

	if (n)
		(*n)++;
	return 0;
}
int count_mapped(u64 *ctx)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct block *b = mapped.lookup(&cpu);

	if (b)
		__sync_fetch_and_add(&b->words[0], 1);
	return 0;
}
int count_shared(u64 *ctx) { return found(); }
int kprobe_flag_test(struct pt_regs *ctx) { return ctx->di & FLAG ? found() : 0; }
int tracepoint_flag_test(u64 *ctx) { return ctx[2] & FLAG ? found() : 0; }
int tracepoint_flag_and_order_test(u64 *ctx) { return (ctx[2] & FLAG) || (u32)ctx[1] ? found() : 0; }
"""

# Name of the row, function of TEXT, how it is attached.
MECHANISMS = (
    ("fentry_empty", "empty", "fentry"),
    ("fentry_flag_test", "flag_test", "fentry"),
    ("fentry_flag_and_refill_test", "flag_and_refill_test", "fentry"),
    ("fentry_count_per_cpu_array", "count_per_cpu", "fentry"),
    ("fentry_count_mapped_array", "count_mapped", "fentry"),
    ("fentry_count_shared_word", "count_shared", "fentry"),
    ("fexit_flag_test", "flag_test", "fexit"),
    ("kprobe_flag_test", "kprobe_flag_test", "kprobe"),
    ("raw_tracepoint_empty", "empty", "raw_tracepoint"),
    ("raw_tracepoint_flag_test", "tracepoint_flag_test", "raw_tracepoint"),
    ("raw_tracepoint_flag_and_order_test", "tracepoint_flag_and_order_test", "raw_tracepoint"),
)


def allocator() -> tuple[str, bool]:
    """The function that every page allocation passes on this kernel, and whether the kernel has the series."""
    with open("/proc/kallsyms") as file:
        names = {line.split(None, 3)[2] for line in file}
    return next(name for name in ALLOC_PAGES_SYMBOLS if name in names), SERIES_SYMBOL in names


class Programs:
    """All programs, compiled once (bcc's compiler is slow in an emulated guest); each is attached on its own."""

    def __init__(self, symbol: str) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(bpf_run.BPF_DIR)
        import bcc

        class Bare(bcc.BPF):  # type: ignore[misc]
            def _trace_autoload(self) -> None:
                """Nothing by itself."""

        text = TEXT.replace("NR_CPUS", str(os.cpu_count())).replace("FLAG", FLAG)
        self._bpf = Bare(text=text.encode())
        self._lib = bcc.libbcc.lib
        self._kinds = bcc.BPF
        self._symbol = symbol.encode()

    def calls(self) -> int:
        """What count_per_cpu has counted since the programs were loaded."""
        return int(sum(self._bpf[b"per_cpu"][0]))

    @contextlib.contextmanager
    def attached(self, function: str, how: str) -> Iterator[None]:
        """The function attached to the allocator; detached on the way out."""
        kinds = {"fentry": self._kinds.TRACING, "fexit": self._kinds.TRACING, "kprobe": self._kinds.KPROBE}
        prefix = {"fentry": b"kfunc__", "fexit": b"kretfunc__"}.get(how)
        # bcc takes the function to attach to from the program's name.
        name = prefix + self._symbol if prefix else function.encode()
        lib, module, source = self._lib, self._bpf.module, function.encode()
        program = lib.bcc_func_load(
            module,
            kinds.get(how, self._kinds.RAW_TRACEPOINT),
            name,
            lib.bpf_function_start(module, source),
            lib.bpf_function_size(module, source),
            lib.bpf_module_license(module),
            lib.bpf_module_kern_version(module),
            0,
            None,
            0,
            None,
            -1,
        )
        if program < 0:
            raise OSError(ctypes.get_errno(), f"cannot load {function} for {how}")
        if how == "kprobe":
            link = lib.bpf_attach_kprobe(program, 0, b"p_bench_" + self._symbol, self._symbol, 0, 0)
        elif how == "raw_tracepoint":
            link = lib.bpf_attach_raw_tracepoint(program, b"mm_page_alloc")
        else:
            link = lib.bpf_attach_kfunc(program)
        if link < 0:
            raise OSError(ctypes.get_errno(), f"cannot attach {how} to {self._symbol.decode()}")
        try:
            yield
        finally:
            os.close(link)
            os.close(program)


class Own:
    """All of uaptrace's own programs, compiled and loaded once as ``uaptrace serve`` has them, attached and detached at will."""

    def __init__(self, page_alloc: str) -> None:
        from uaptrace.abi.hooks import PageAllocHook
        from uaptrace.loader.parent import LoaderOptions, load

        # Nobody takes the records: a ring that none of the runs fills.
        self._loaded = load(LoaderOptions(page_alloc=PageAllocHook(page_alloc), ring_bytes=OWN_RING_BYTES))
        for link in self._loaded.link_fds:
            os.close(link)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        links = [attach_again(program) for program in self._loaded.program_fds]
        try:
            yield
        finally:
            for link in links:
                os.close(link)

    def close(self) -> None:
        replace(self._loaded, link_fds=()).close()


def attach_again(program: int) -> int:
    """A link for a loaded fentry, fexit or tracepoint program."""
    try:
        return link_program(program)  # fentry programs know where they belong
    except OSError:
        return link_program(program, "mm_page_alloc")


def turns_of_clear_page() -> int:
    """Turns of the string instruction by which this kernel clears a page (arch/x86/lib/clear_page_64.S): of a byte each, or of eight."""
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    return PAGE if "erms" in flags else PAGE // 8


class Faults:
    """The work that is measured; ``ns()`` is guest time for each page, which is instructions.

    ``clears``: whether each fault clears its page. One whose page comes from the unmapped cache does not: it is clear already.
    """

    def __init__(self, nr_pages: int, *, clears: bool = True) -> None:
        self.nr_pages = nr_pages
        self.uncounted = turns_of_clear_page() - 1 if clears else 0

    def ns(self) -> float:
        area = mmap.mmap(-1, self.nr_pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_NOHUGEPAGE)
        pages = np.frombuffer(area, np.uint8)[::PAGE]
        begin = time.perf_counter_ns()
        pages[:] = 1
        end = time.perf_counter_ns()
        del pages
        area.close()
        return (end - begin) / self.nr_pages


class SecretFaults(Faults):
    """Faults of memfd_secret(): with the series each is a request with the flag, without it each page is made absent on its own."""

    def ns(self) -> float:
        return self._times_ns()[0] / self.nr_pages

    def _times_ns(self) -> tuple[int, int]:
        """Of all faults, and of giving the pages back."""
        raise_memlock()
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(SYS_MEMFD_SECRET, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "memfd_secret: boot with secretmem.enable=1")
        os.ftruncate(fd, self.nr_pages * PAGE)
        area = mmap.mmap(fd, self.nr_pages * PAGE)
        os.close(fd)
        pages = np.frombuffer(area, np.uint8)[::PAGE]
        begin = time.perf_counter_ns()
        pages[:] = 1
        end = time.perf_counter_ns()
        del pages
        back = time.perf_counter_ns()
        area.close()
        return end - begin, time.perf_counter_ns() - back


class SecretReleases(SecretFaults):
    """The way back: the last mapping of secret memory goes, and each page is made present again. It is cleared there."""

    def ns(self) -> float:
        return self._times_ns()[1] / self.nr_pages


def settled(work: Faults) -> list[float]:
    """Three runs in a row that agree within half a percent: after a change the guest is busy with it for a while."""
    runs = [work.ns()]
    while len(runs) < MAX_RUNS:
        runs.append(work.ns())
        last = runs[-3:]
        if len(runs) > 3 and max(last) - min(last) < SETTLED * min(last):
            break
    return runs[-3:]


def compare(work: Faults, attach: Callable[[], contextlib.AbstractContextManager[None]], rounds: int) -> dict[str, Any]:
    """Off and on in balanced order; instructions for each page."""
    off: list[float] = []
    on: list[float] = []
    for i in range(rounds):
        order = (False, True, True, False) if i % 2 == 0 else (True, False, False, True)
        for attached in order:
            with attach() if attached else contextlib.nullcontext():
                (on if attached else off).extend(settled(work))
    base, with_it = statistics.median(off) / NS_PER_INSTRUCTION, statistics.median(on) / NS_PER_INSTRUCTION
    # Neighbours in order give the spread: each "on" run against the middle of all "off" runs.
    added = sorted(value / NS_PER_INSTRUCTION - base for value in on)
    return {
        "base_instructions": round(base - work.uncounted, 1),
        "added_instructions": round(with_it - base, 1),
        "added_min": round(added[0], 1),
        "added_max": round(added[-1], 1),
        "off_spread_percent": round(100 * (max(off) - min(off)) / statistics.median(off), 3),
        "runs": len(on),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pages", type=int, default=2000, help="faults in one run")
    parser.add_argument("--rounds", type=int, default=2, help="balanced rounds for each mechanism")
    parser.add_argument("--only", action="append", help="only this mechanism")
    parser.add_argument(
        "--own", action=argparse.BooleanOptionalAction, default=True, help="also uaptrace's own programs (compiles anew for each)"
    )
    arguments = parser.parse_args()
    gc.disable()
    symbol, has_series = allocator()
    faults = Faults(arguments.pages)

    def say(name: str, work: str, **row: Any) -> None:
        print(
            json.dumps({"mechanism": name, "work": work, "symbol": symbol, "series": has_series, "kernel": platform.release(), **row}),
            flush=True,
        )

    programs = Programs(symbol)
    for _ in range(3):  # a guest that has just booted is still settling
        settled(faults)
    with programs.attached("count_per_cpu", "fentry"):
        faults.ns()
        before = programs.calls()
        faults.ns()
        allocations = (programs.calls() - before) / arguments.pages
    say("allocations", "anonymous", per_fault=round(allocations, 4))
    for name, function, how in MECHANISMS:
        if arguments.only and name not in arguments.only:
            continue
        try:
            row = compare(faults, lambda function=function, how=how: programs.attached(function, how), arguments.rounds)  # type: ignore[misc]
        except OSError as error:
            say(name, "anonymous", error=str(error))
            continue
        say(name, "anonymous", per_allocation=round(row["added_instructions"] / allocations, 1), **row)
    if arguments.own:
        works: list[tuple[str, Faults]] = [("anonymous", faults)]
        try:
            secret = SecretFaults(min(1000, arguments.pages), clears=not has_series)
            secret.ns()
            works += [("memfd_secret", secret), ("memfd_secret_back", SecretReleases(secret.nr_pages))]
        except OSError as error:
            say("uaptrace", "memfd_secret", error=str(error))
        for page_alloc in ("auto", "callers", "tracepoint", "entry") if has_series else ("auto", "count"):
            own = Own(page_alloc)
            time.sleep(2)  # the loader has just given back its memory
            for kind, work in works:
                say(f"uaptrace_page_alloc_{page_alloc}", kind, **compare(work, own.attached, arguments.rounds))
            own.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
