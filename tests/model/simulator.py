# SPDX-License-Identifier: Apache-2.0
"""A kernel with an unmapped cache, small enough to run thousands of its steps in a test.

Its tasks are generators that stop wherever another processor might do something in between, and a seeded choice says who
goes on: that gives the orders of records that a ring shared by several processors can show. What the tracing
programs would send is sent at the same places (bpf/*.bpf.c): FREE, RELEASE and REFILL on entry, ALLOC and SET_DIRECT_MAP on
return, nothing from the end of a call whose beginning was before the programs were attached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Flag as EnumFlag
from enum import auto
from random import Random
from typing import Any

import numpy as np

from tests.model.buddy import BuddyLists
from tests.model.build import make_batch
from uaptrace.abi.events import COUNTER_WORDS, Counter, Flag, Kind
from uaptrace.abi.units import NR_ORDERS, PAGE_SIZE, PAGES_PER_1G, PAGES_PER_2M, Level
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.state import KernelState
from uaptrace.model.updates import (
    LARGE_ABSENT,
    PAGE_ABSENT,
    PAGE_PRESENT,
    CacheReading,
    CountersReading,
    MapReading,
    Records,
    Start,
    Symbols,
    Update,
)

STEP_NS = 2_000_000
K4, M2, G1 = int(Level.K4), int(Level.M2), int(Level.G1)
Task = Generator[None, None, None]


class Fault(EnumFlag):
    """What is wrong with the kernel."""

    NONE = 0
    PARTIAL_UNMAP = auto()
    NO_REMAP = auto()
    BIT_LEFT_SET = auto()
    ERROR_IGNORED = auto()
    NOT_ZEROED = auto()
    FLAG_STRIPPED = auto()
    HANDED_OUT_TWICE = auto()
    NO_FLUSH = auto()
    SHRINKS_TOO_MUCH = auto()


class SimulatedKernel:
    """Page tables, page allocator, unmapped cache and the programs' side of the ring."""

    def __init__(self, seed: int, *, fault: Fault = Fault.NONE, ring_records: int = 1 << 30, orders: tuple[int, ...] = (9, 5, 2)) -> None:
        self.random = Random(seed)
        self.fault = fault
        self.refill_orders = orders
        self.nr_regions = 520
        self.level = np.array([G1] * 512 + [M2] * 8, np.uint8)
        self.present = np.ones(self.nr_regions * 512, np.bool_)
        self.owner = np.zeros(self.nr_regions * 512, np.uint8)
        """0: free in the page allocator, 1: in ordinary use, 2: the cache's."""
        self.dirty = np.zeros(self.nr_regions * 512, np.bool_)
        self.lists = BuddyLists()
        self.bits: set[int] = set()
        self.cached, self.released = [0] * NR_ORDERS, [0] * NR_ORDERS
        self.held: list[tuple[int, int]] = []
        self.ordinary: list[int] = []
        self.splits = {Level.M2: 1000, Level.G1: 7}
        self.time_ns = 10 * STEP_NS
        self.tasks: list[Task] = []
        self.next_tid = 100
        self.fail_unmapping = 0.0
        self.kinds = "a"
        self.attached = False
        self.words = np.zeros(COUNTER_WORDS, np.uint64)
        self.ring: list[dict[str, Any]] = []
        self.ring_records = ring_records
        self.calls_before_attach: set[int] = set()
        self._calls: set[int] = set()
        self._nr_calls = 0

    # Programs

    def count(self, counter: int, n: int = 1) -> None:
        if self.attached:
            self.words[counter] += np.uint64(n)

    def emit(self, kind: Kind, tid: int, **fields: Any) -> None:
        if not self.attached:
            return
        full = len(self.ring) >= self.ring_records
        self.count((Counter.LOST if full else Counter.EMITTED) + kind)
        if not full:
            fields.setdefault("nr_pages", 1 << fields.get("order", 0))
            self.ring.append({"kind": int(kind), "time_ns": self.time_ns, "tid": tid, "tgid": tid, **fields})

    def mapping(self, pfn: int) -> int:
        return int(self.level[pfn // 512]) | (0 if self.present[pfn] else 128)

    def block(self, pfn: int, order: int) -> dict[str, int]:
        nr_present = int(self.present[pfn : pfn + (1 << order)].sum())
        code = K4 | (128 if nr_present == 0 else 64 if nr_present < 1 << order else 0)
        return {"pfn": pfn, "order": order, "nr_present": nr_present, "after": code}

    # The kernel

    def step(self) -> bool:
        """One task goes one step on. False where there is none."""
        if not self.tasks:
            return False
        self.time_ns += STEP_NS
        task = self.random.choice(self.tasks)
        try:
            next(task)
        except StopIteration:
            self.tasks.remove(task)
        return True

    def run(self, steps: int, *, nr_tasks: int = 3) -> None:
        """Run with that many tasks at a time; ``kinds`` weighs what new ones do."""
        start: dict[str, Callable[[int], Task]] = {
            "a": lambda tid: self.allocate(tid, self.random.choice((0, 0, 0, 0, 1, 3))),
            "f": self.free_something,
            "s": lambda tid: self.shrink(tid, self.random.choice((1, 32, 128, 700))),
            "m": self.load_module,
            "c": self.change_presence,
            "o": self.ordinary_use,
        }
        for _ in range(steps):
            while len(self.tasks) < nr_tasks:
                self.next_tid += 1
                # A few processes take turns, so that tasks are met again.
                self.tasks.append(start[self.random.choice(self.kinds)](100 + self.next_tid % 7 if len(self.tasks) == 0 else self.next_tid))
            self.step()

    def finish(self) -> None:
        """Let what was begun end."""
        while self.step():
            pass

    def pages_alloc(self, order: int) -> int | None:
        for _ in range(8):
            region = self.random.choice((3, 4, 5, 300, 512, 513, 514, 515))
            pfn = region * 512 + (self.random.randrange(512) >> order << order)
            if not self.owner[pfn : pfn + (1 << order)].any():
                return pfn
        return None

    def split(self, tid: int, pfn: int, *, traced: bool) -> Task:
        """1G to 2M to 4K: counted first, seen in the page tables next, sent last."""
        while (level := int(self.level[pfn // 512])) > K4:
            of = Level(level)
            self.splits[of] += 1
            if level == G1:
                self.level[pfn // PAGES_PER_1G * 512 :][:512] = M2
            else:
                self.level[pfn // 512] = K4
            yield
            if traced:
                self.count(Counter.SPLIT_2M if level == M2 else Counter.SPLIT_1G)
                nr = of.nr_pages
                self.emit(Kind.SPLIT, tid, pfn=pfn // nr * nr, nr_pages=nr, before=level, after=level - 1, stack_id=77)

    def set_direct_map(self, tid: int, pfn: int, valid: bool, flags: int = 0) -> Generator[None, None, int]:
        """Returns 0, or -12 with nothing changed."""
        self._nr_calls += 1
        call, traced = self._nr_calls, self.attached
        self._calls.add(call)
        before, result = self.mapping(pfn), 0
        flags |= int(Flag.DEFAULT if valid else Flag.INVALID)
        if not valid and self.random.random() < self.fail_unmapping:
            result = -12
        else:
            yield from self.split(tid, pfn, traced=traced)
            self.present[pfn] = valid
        if self.random.random() < 0.1:
            yield
        if traced:
            self.emit(Kind.SET_DIRECT_MAP, tid, pfn=pfn, before=before, after=self.mapping(pfn), aux=result, flags=flags)
        self._calls.discard(call)
        self.calls_before_attach.discard(call)
        return result

    def allocate(self, tid: int, order: int) -> Task:
        self.words[Counter.REQUEST] += np.uint64(self.attached)
        self.emit(Kind.REQUEST, tid, order=order)
        yield
        if self.fault & Fault.FLAG_STRIPPED:
            return
        traced = self.attached
        self.words[Counter.CACHE_ENTERED] += np.uint64(traced)
        flags = 0
        pfn = self.lists.take(order)
        if pfn is None:
            flags = int(Flag.REFILLED if self.fault & Fault.NO_FLUSH else Flag.REFILLED | Flag.FLUSHED)
            for size in self.refill_orders:
                chunk = self.pages_alloc(size) if size >= order else None
                if chunk is not None:
                    pfn = yield from self.refill(tid, chunk, size, order, traced)
                    break
        elif self.fault & Fault.HANDED_OUT_TWICE and order == 0:
            self.lists.lists[0].insert(0, pfn)
        if pfn is not None:
            self.bits.add(pfn // 512)
            self.dirty[pfn : pfn + (1 << order)] = False
        yield
        if traced:
            if pfn is None:
                self.emit(Kind.ALLOC, tid, pfn=0, order=order, flags=int(Flag.FAILED))
            else:
                self.count(Counter.ALLOC_ORDER + order)
                self.emit(Kind.ALLOC, tid, flags=flags, **self.block(pfn, order))
        if pfn is not None:
            self.dirty[pfn : pfn + (1 << order)] = True
            self.held.append((pfn, order))

    def refill(self, tid: int, chunk: int, size: int, order: int, traced: bool) -> Generator[None, None, int | None]:
        nr = 1 << size
        self.owner[chunk : chunk + nr] = 2
        yield
        in_cache = int(Flag.IN_CACHE) if traced else 0
        if traced:
            self.count(Counter.REFILL_ORDER + size)
            self.emit(Kind.REFILL, tid, pfn=chunk, order=size)
        unmapped = 1 << order if self.fault & Fault.PARTIAL_UNMAP else nr
        for i in range(unmapped):
            error = yield from self.set_direct_map(tid, chunk + i, False, in_cache)
            if error and not self.fault & Fault.ERROR_IGNORED:
                for done in range(i):
                    yield from self.set_direct_map(tid, chunk + done, True, in_cache)
                self.owner[chunk : chunk + nr] = 0
                # A release beside this one may have taken the chunk for the cache's and left the bit.
                if not (self.owner[chunk // 512 * 512 : chunk // 512 * 512 + 512] == 2).any():
                    self.bits.discard(chunk // 512)
                yield  # here another processor may get the same pages
                yield
                if traced:
                    self.emit(Kind.REFILL_UNDONE, tid, pfn=chunk, order=size)
                return None
        yield
        if traced and not self.fault & Fault.NO_FLUSH:
            self.emit(Kind.REFILLED, tid, flags=int(Flag.FLUSH_COVERS), **self.block(chunk, size))
        yield
        self.lists.add(chunk, size)
        self.cached[size] += 1
        self.bits |= {chunk // 512}
        return self.lists.take(order)

    def free_something(self, tid: int) -> Task:
        if self.held:
            pfn, order = self.held.pop(self.random.randrange(len(self.held)))
            yield from self.free(tid, pfn, order)

    def free(self, tid: int, pfn: int, order: int) -> Task:
        self.count(Counter.FREE_ORDER + order)
        self.emit(Kind.FREE, tid, **self.block(pfn, order))
        yield
        if not self.fault & Fault.NOT_ZEROED:
            self.dirty[pfn : pfn + (1 << order)] = False
        self.lists.add(pfn, order)

    def shrink(self, tid: int, asked: int) -> Task:
        traced = self.attached
        done = 0
        goal = 3 * asked + 2048 if self.fault & Fault.SHRINKS_TOO_MUCH else asked
        while done < goal:
            taken = self.lists.take_smallest()
            if taken is None:
                break
            pfn, order = taken
            nr = 1 << order
            yield
            if not self.fault & Fault.NO_REMAP:
                for i in range(nr):
                    yield from self.set_direct_map(tid, pfn + i, True, int(Flag.IN_SHRINK) if traced else 0)
            self.count(Counter.RELEASE_ORDER + order)
            not_zero = int(self.dirty[pfn : pfn + nr].sum()) * 8
            self.released[order] += 1
            in_shrink = int(Flag.IN_SHRINK) if traced else 0
            self.emit(Kind.RELEASE, tid, aux=not_zero, flags=in_shrink, **self.block(pfn, order))
            self.owner[pfn : pfn + nr] = 0
            done += nr
            for region in range(pfn // 512, (pfn + nr - 1) // 512 + 1):
                if not self.fault & Fault.BIT_LEFT_SET and not (self.owner[region * 512 : region * 512 + 512] == 2).any():
                    self.bits.discard(region)
            yield
        if traced:
            self.emit(Kind.SHRINK, tid, nr_pages=done, aux=asked)

    def load_module(self, tid: int) -> Task:
        """Splits a mapping of memory that is nobody's in here, presence unchanged."""
        yield from self.split(tid, self.random.choice((6, 7, 400, 516, 517)) * 512, traced=self.attached)

    def change_presence(self, tid: int) -> Task:
        """An attribute change of a range that makes it absent, and back."""
        pfn, nr = self.random.choice((518, 519)) * 512 + self.random.randrange(256), self.random.choice((1, 7, 200))
        for valid in (False, True):
            traced = self.attached
            self._nr_calls += 1
            call = self._nr_calls
            self._calls.add(call)
            yield from self.split(tid, pfn, traced=traced)
            self.present[pfn : pfn + nr] = valid
            state = int(self.present[pfn : pfn + nr].sum())
            yield
            if traced:
                # What the program reads when the call returns: another task may have changed a part since.
                state = int(self.present[pfn : pfn + nr].sum())
                code = K4 | (128 if state == 0 else 64 if state < nr else 0)
                self.emit(Kind.CPA, tid, pfn=pfn, nr_pages=nr, after=code, nr_present=state)
            self._calls.discard(call)
            self.calls_before_attach.discard(call)
            yield

    def ordinary_use(self, tid: int) -> Task:
        """Pages that the cache has nothing to do with, unless the pageblock bit says so."""
        pfn = self.pages_alloc(0)
        if pfn is None:
            return
        self.owner[pfn] = 1
        self.dirty[pfn] = True
        yield
        if self.fault & Fault.BIT_LEFT_SET and pfn // 512 in self.bits:
            self.owner[pfn] = 2
            yield from self.free(tid, pfn, 0)
        else:
            self.owner[pfn] = 0

    # What can be read

    def attach(self) -> None:
        self.attached = True
        self.calls_before_attach = set(self._calls)

    def read_map(self, between: Callable[[], None]) -> MapReading:
        """One half after the other; ``between`` is what happens in the meantime."""
        begin = self.time_ns
        self.time_ns += STEP_NS
        half = self.nr_regions // 2 + self.random.randrange(-8, 250)
        parts = [self._read_regions(0, half)]
        between()
        parts.append(self._read_regions(half, self.nr_regions))
        self.time_ns += STEP_NS
        levels, split, pages = (np.concatenate([p[i] for p in parts]) for i in range(3))
        return MapReading(begin, self.time_ns, 0, levels, split, pages, True)

    def _read_regions(self, first: int, end: int) -> tuple[Any, Any, Any]:
        levels = self.level[first:end].copy()
        split = np.flatnonzero(levels == K4) + first
        present = self.present.reshape(-1, 512)
        pages = np.where(present[split], PAGE_PRESENT, PAGE_ABSENT).astype(np.uint8)
        large_absent = (levels != K4) & ~present[first:end].any(axis=1)
        return np.where(large_absent, levels | LARGE_ABSENT, levels).astype(np.uint8), split, pages

    def rows(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.lists.rows(), tuple(self.cached), tuple(self.released)

    def read_cache(self) -> CacheReading:
        blocks = self.lists.blocks()
        pfns, orders = np.array([b[0] for b in blocks], np.int64), np.array([b[1] for b in blocks], np.uint8)
        return CacheReading(self.time_ns, self.time_ns, pfns, orders, *self.rows(), atomic=True)

    def read_counters(self, regions: list[int], *, quiet: bool) -> CountersReading:
        size = {K4: PAGES_PER_2M * PAGE_SIZE, M2: PAGES_PER_2M * PAGE_SIZE, G1: PAGES_PER_2M * PAGE_SIZE}
        free, cached, released = self.rows()
        return CountersReading(
            time_ns=self.time_ns,
            words=self.words.copy(),
            missed_runs=0,
            splits_total=dict(self.splits),
            collapses_total=None,
            direct_map_bytes={lv: int((self.level == lv).sum()) * size[int(lv)] + (4 << 20) for lv in (Level.K4, Level.M2, Level.G1)},
            rows_free=free,
            rows_cached=cached,
            rows_released=released,
            quiet=quiet,
            pageblock_bits={region: region in self.bits for region in regions},
        )


class Tracer:
    """What a session does: it takes the ring, reads what the model wants, and keeps all updates."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel
        self.state = KernelState()
        self.updates: list[Update] = []

    def give(self, update: Update) -> None:
        self.updates.append(update)
        self.state.update(update)

    def attach(self, between: int = 20) -> None:
        """Attach, and read the baseline while tasks go on."""
        kernel = self.kernel
        kernel.attach()
        self.give(Start(HostInfo(has_series=True), (), kernel.time_ns, 0.0, frozenset(), counts_entries=True))
        self.give(Symbols({0x1000: "unmapped_pages_alloc+0x10"}))
        while kernel.calls_before_attach:  # a call of microseconds; the page tables are read later than that
            kernel.step()
        self.read_map(between)
        self.drain()
        self.give(kernel.read_cache())
        self.read_counters()

    def drain(self) -> None:
        rows, self.kernel.ring = self.kernel.ring, []
        self.kernel.time_ns += STEP_NS
        if rows:
            self.give(Records(make_batch(rows)))

    def read_map(self, between: int) -> None:
        self.drain()
        self.give(self.kernel.read_map(lambda: self.kernel.run(between) if between else None))

    def read_counters(self, *, quiet: bool = True) -> None:
        if quiet:
            self.drain()
        self.give(self.kernel.read_counters(self.state.regions_to_check, quiet=quiet))
        self.kernel.time_ns += STEP_NS

    def serve(self, between: int) -> None:
        """Read again what the state wants."""
        if self.state.needs_map_reading is not None:
            self.read_map(between)
        if self.state.needs_cache_reading:
            self.drain()
            self.give(self.kernel.read_cache())

    def settle(self) -> None:
        """The load has ended: until nothing is to be read again."""
        self.kernel.finish()
        self.drain()
        for _ in range(4):
            self.read_counters()
            self.serve(0)
            self.kernel.time_ns += 500_000_000  # as often as a session compares
        self.read_counters()
