# SPDX-License-Identifier: Apache-2.0
"""A small host that makes the updates of a traced kernel, for tests of recordings and reports. It captures nothing: it is a model of
pages, mappings and the cache that is simple enough to be seen to be right, and keeps the counters that the kernel would keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from uaptrace.abi.events import Counter, Flag, HistogramId, Kind
from uaptrace.abi.units import PAGE_SIZE, PAGES_PER_1G, PAGES_PER_2M, Level
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update

SECOND = 1_000_000_000
K4, M2, G1, ABSENT = 1, 2, 3, 129
NO_ROWS = (0,) * 11
STACKS = {
    1: ("set_direct_map_invalid_noflush", "unmapped_pages_alloc", "__alloc_pages", "secretmem_fault", "__do_fault", "handle_mm_fault"),
    2: ("set_direct_map_invalid_noflush", "secretmem_fault", "__do_fault", "handle_mm_fault", "do_user_addr_fault", "exc_page_fault"),
    3: ("set_memory_ro", "module_enable_ro", "load_module", "__do_sys_finit_module", "do_syscall_64"),
    4: ("set_memory_ro", "bpf_prog_pack_alloc", "bpf_jit_binary_pack_alloc", "bpf_int_jit_compile", "bpf_prog_load", "__sys_bpf"),
}  # fmt: skip
TASKS = {500: ("keyserver", 71), 501: ("vault", 72), 600: ("modprobe", 73), 700: ("systemd", 74)}
HOOKS = [
    "flush_all",
    "cpa",
    "set_invalid",
    "set_default",
    "alloc_pages",
    "cache_alloc",
    "cache_free",
    "cache_release",
    "flush_range",
    "shrink_scan",
]


class SimulatedHost:
    """``series``: with the unmapped cache; otherwise secretmem takes single pages from all over."""

    def __init__(self, *, series: bool = True, seed: int = 1, nr_regions: int = 3072) -> None:
        self.series = series
        self.rng = np.random.default_rng(seed)
        self.now_ns = 5 * SECOND
        self.level = np.full(nr_regions, M2, np.uint8)
        self.level[1024:] = G1
        self.level[1536:2048] = 0
        self.level[0] = K4
        self.pages: dict[int, np.ndarray] = {0: np.ones(PAGES_PER_2M, np.uint8)}
        self.words = np.zeros(512, np.uint64)
        self.free: list[int] = []
        self.used: list[tuple[int, int]] = []
        self.chunks: list[int] = []
        self.cached = 0
        self.released = 0
        self._rows: list[tuple[int, ...]] = []
        self._seen: set[int] = set()
        self._next_region = 300

    def begin(self) -> Iterator[Update]:
        host = HostInfo("simulated", "6.1.192-series" if self.series else "6.1.192", "boot-1", 2, 5 << 30, 5, self.series)
        hooks = tuple(HookStatus(name, name, "fentry") for name in HOOKS if self.series or "cache" not in name)
        yield Start(host, hooks, self.now_ns, 1_750_000_000.0, frozenset({42}), {Level.M2: 2, Level.G1: 0}, 8 << 20)
        yield Symbols({16 * i + 1: f"{name}+0x{i:x}" for i, name in enumerate(self._names())})
        yield Cgroups({71: "/system.slice/keyserver.service", 72: "/system.slice/vault.service", 73: "/", 74: "/init.scope"})
        yield self.map_reading()
        if self.series:
            pfns, orders = np.zeros(0, np.int64), np.zeros(0, np.uint8)
            yield CacheReading(self.now_ns, self.now_ns + 10, pfns, orders, NO_ROWS, NO_ROWS, NO_ROWS, True)
        self.now_ns += 1000
        yield self.counters()

    def map_reading(self) -> MapReading:
        split = np.flatnonzero(self.level == K4)
        pages = np.stack([self.pages[int(r)] for r in split]) if len(split) else np.zeros((0, 512), np.uint8)
        return MapReading(self.now_ns, self.now_ns + 500, 0, self.level.copy(), split, pages, True)

    def counters(self) -> CountersReading:
        self.now_ns += 1000
        size = {Level.K4: K4, Level.M2: M2, Level.G1: G1}
        kernel = {level: int((self.level == code).sum()) * PAGES_PER_2M * PAGE_SIZE for level, code in size.items()}
        splits = {Level.M2: 40 + int(self.words[Counter.SPLIT_2M]), Level.G1: 3 + int(self.words[Counter.SPLIT_1G])}
        free = self.free_row() if self.series else None
        cached = (*(0,) * 9, self.cached, 0) if self.series else None
        released = (*(0,) * 9, self.released, 0) if self.series else None
        return CountersReading(self.now_ns, self.words.copy(), 0, splits, None, kernel, free, cached, released, True)

    def free_row(self) -> tuple[int, ...]:
        """Blocks that merge as far as they can, as the buddy lists of the cache do."""
        row = [0] * 11
        left = set(self.free)
        for order in range(9, -1, -1):
            for pfn in sorted(p for p in left if p % (1 << order) == 0):
                block = range(pfn, pfn + (1 << order))
                if left.issuperset(block):
                    left.difference_update(block)
                    row[order] += 1
        return tuple(row)

    def records(self) -> Records:
        batch = np.array(self._rows, RECORD) if self._rows else np.empty(0, RECORD)
        self._rows = []
        return Records(batch)

    # What happens

    def allocate(self, number: int, tgid: int = 500) -> None:
        """Faults of a memfd_secret mapping."""
        for _ in range(number):
            if self.series:
                self._allocate_from_cache(tgid)
            else:
                candidates = np.flatnonzero(self.level >= K4)
                region = int(candidates[int(self.rng.integers(1, len(candidates)))])
                pages = self.pages.get(region)
                page = 0 if pages is None else int(np.flatnonzero(pages == 1)[0]) if (pages == 1).any() else -1
                if page < 0:
                    continue
                pfn = region * PAGES_PER_2M + page
                self._set_direct_map(pfn, True, tgid, 2, 0)
                self.used.append((pfn, tgid))

    def free_some(self, number: int) -> None:
        """Processes end; in no order."""
        for _ in range(min(number, len(self.used))):
            pfn, tgid = self.used.pop(int(self.rng.integers(len(self.used))))
            if self.series:
                self._emit(Kind.FREE, pfn, 1, tgid, 0, order=0)
                self._count(Counter.CACHE_FREE, Counter.FREE_ORDER)
                self._time(HistogramId.CACHE_FREE, int(self.rng.lognormal(6, 0.4)))
                self.free.append(pfn)
            else:
                self._set_direct_map(pfn, False, tgid, 2, 0)

    def shrink(self) -> None:
        """Memory is short: whole free chunks go back."""
        if not self.series:
            return
        free = set(self.free)
        given = 0
        for chunk in [c for c in self.chunks if free.issuperset(range(c, c + PAGES_PER_2M))]:
            for pfn in range(chunk, chunk + PAGES_PER_2M):
                self._set_direct_map(pfn, False, 700, 0, Flag.IN_SHRINK)
            self._emit(Kind.RELEASE, chunk, PAGES_PER_2M, 700, 0, order=9, nr_present=PAGES_PER_2M, aux=0, flags=Flag.IN_SHRINK)
            self._count(Counter.CACHE_RELEASE)
            self.words[Counter.RELEASE_ORDER + 9] += 1
            self.words[Counter.PAGES_RELEASED] += PAGES_PER_2M
            free.difference_update(range(chunk, chunk + PAGES_PER_2M))
            self.chunks.remove(chunk)
            self.released += 1
            given += PAGES_PER_2M
        self.free = [p for p in self.free if p in free]
        self._emit(Kind.SHRINK, 0, given, 700, 0, aux=max(given, 128))
        self._count(Counter.SHRINK_SCAN)
        self.words[Counter.SHRINK_ASKED_PAGES] += max(given, 128)
        self.words[Counter.SHRINK_RELEASED_PAGES] += given
        self._time(HistogramId.SHRINK, 2_000_000)

    def load_module(self, *, bpf: bool = False) -> None:
        """Its text becomes read-only, which splits what it lies in."""
        region = int(self.rng.choice(np.flatnonzero(self.level[:1024] == M2)))
        self._split_to_4k(region, 700 if bpf else 600, 4 if bpf else 3)

    def idle(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND)

    # Inside

    def _allocate_from_cache(self, tgid: int) -> None:
        self._emit(Kind.REQUEST, 0, 1, tgid, 0, aux=0x10000000)
        self._count(Counter.REQUEST)
        refill = not self.free
        if refill:
            self._refill(tgid)
        pfn = self.free.pop()
        duration = int(self.rng.lognormal(13 if refill else 6.6, 0.5))
        flags = Flag.REFILLED | Flag.FLUSHED if refill else 0
        self._emit(Kind.ALLOC, pfn, 1, tgid, 1, aux=0x10000000, flags=flags, duration=duration, before=ABSENT, after=ABSENT)
        self._count(Counter.CACHE_ALLOC, Counter.ALLOC_ORDER)
        self._count(Counter.CACHE_REFILL if refill else Counter.CACHE_HIT)
        self._time(HistogramId.CACHE_REFILL if refill else HistogramId.CACHE_HIT, duration)
        self.used.append((pfn, tgid))

    def _refill(self, tgid: int) -> None:
        while self.level[self._next_region] not in (M2, G1):
            self._next_region += 1
        region = self._next_region
        self._next_region += 1
        chunk = region * PAGES_PER_2M
        self._emit(Kind.REFILL, chunk, PAGES_PER_2M, tgid, 1, order=9)
        self.words[Counter.REFILL_ORDER + 9] += 1
        self.words[Counter.PAGES_REFILLED] += PAGES_PER_2M
        for pfn in range(chunk, chunk + PAGES_PER_2M):
            self._set_direct_map(pfn, True, tgid, 1, Flag.IN_CACHE)
        self._emit(Kind.REFILLED, chunk, PAGES_PER_2M, tgid, 1, order=9, flags=Flag.FLUSH_COVERS)
        self.free = list(range(chunk + PAGES_PER_2M - 1, chunk - 1, -1))
        self.chunks.append(chunk)
        self.cached += 1

    def _set_direct_map(self, pfn: int, invalid: bool, tgid: int, stack: int, flags: int) -> None:
        region = pfn // PAGES_PER_2M
        self._split_to_4k(region, tgid, stack)
        self.pages[region][pfn % PAGES_PER_2M] = 2 if invalid else 1
        before, after = (K4, ABSENT) if invalid else (ABSENT, K4)
        duration = int(self.rng.lognormal(6.8, 0.3))
        flags |= Flag.INVALID if invalid else Flag.DEFAULT
        self._emit(Kind.SET_DIRECT_MAP, pfn, 1, tgid, stack, flags=flags, before=before, after=after, duration=duration)
        self._count(Counter.SET_INVALID if invalid else Counter.SET_DEFAULT)
        self._time(HistogramId.SET_INVALID if invalid else HistogramId.SET_DEFAULT, duration)

    def _split_to_4k(self, region: int, tgid: int, stack: int) -> None:
        if self.level[region] == G1:
            first = region // 512 * 512
            self.level[first : first + 512] = M2
            self._emit(Kind.SPLIT, first * PAGES_PER_2M, PAGES_PER_1G, tgid, stack, before=G1, after=M2)
            self._count(Counter.SPLIT_1G)
        if self.level[region] == M2:
            self.level[region] = K4
            self.pages[region] = np.ones(PAGES_PER_2M, np.uint8)
            self._emit(Kind.SPLIT, region * PAGES_PER_2M, PAGES_PER_2M, tgid, stack, before=M2, after=K4)
            self._count(Counter.SPLIT_2M)

    def fail_to_hide(self) -> None:
        """A set_direct_map_invalid_noflush() that returned an error."""
        self._count(Counter.SET_INVALID, Counter.SET_INVALID_FAILED)

    def _count(self, *counters: int) -> None:
        for counter in counters:
            self.words[counter] += 1

    def _time(self, histogram: HistogramId, duration_ns: int) -> None:
        self.words[Counter.HISTOGRAM + 32 * histogram + max(duration_ns.bit_length() - 1, 0)] += 1
        self.words[Counter.HISTOGRAM_SUM + histogram] += duration_ns

    def _names(self) -> list[str]:
        return sorted({name for stack in STACKS.values() for name in stack})

    def _emit(
        self, kind: int, pfn: int, nr_pages: int, tgid: int, stack: int, *,
        order: int = 0, aux: int = 0, flags: int = 0, before: int = 0, after: int = 0, nr_present: int = 0, duration: int = 0,
    ) -> None:  # fmt: skip
        comm, cgroup = TASKS[tgid]
        self.now_ns += 100
        if tgid not in self._seen:
            self._seen.add(tgid)
            raw = comm.encode().ljust(16, b"\0")
            pfn_, pages_, tid_ = (int.from_bytes(raw[a:b], "little") for a, b in ((0, 8), (8, 12), (12, 16)))
            self._append((self.now_ns, pfn_, pages_, tid_, tgid, 0, 0, 0, 0, Kind.TASK, 0, 0, 0, 0, 0))
        if stack and -stack not in self._seen:
            self._seen.add(-stack)
            names = self._names()
            addresses = [16 * names.index(name) + 1 for name in STACKS[stack]]
            for i in range(0, len(addresses), 4):
                frames = np.zeros(4, np.uint64)
                frames[: len(addresses[i : i + 4])] = addresses[i : i + 4]
                record: Batch = np.zeros(1, RECORD)
                said = record.tobytes()
                record = np.frombuffer(said[:8] + frames.tobytes() + said[40:], RECORD).copy()
                record["time_ns"], record["stack_id"], record["kind"] = self.now_ns, stack, Kind.STACK
                record["order"], record["nr_present"] = i // 4, len(addresses)
                self._append(tuple(record[0].tolist()))
        self.now_ns += 200 + int(self.rng.exponential(600)) + duration
        self._append(
            (self.now_ns, pfn, nr_pages, tgid, tgid, duration, cgroup, stack, aux, kind, order, before, after, nr_present, flags)
        )  # fmt: skip

    def _append(self, row: tuple[int, ...]) -> None:
        self._rows.append(row)
        self.words[Counter.EMITTED + row[9]] += 1


def host_updates(*, series: bool = True, seconds: int = 12, seed: int = 1, rate: int = 150, failing: bool = False) -> list[Update]:
    """A workload of ``seconds``: faults, frees, memory pressure, modules and BPF programs; ``failing``: a call fails in each."""
    host = SimulatedHost(series=series, seed=seed)
    told: list[Update] = list(host.begin())
    for second in range(seconds):
        end_ns = host.now_ns + SECOND
        host.allocate(rate * (1 + second % 3), 500 if second % 2 else 501)
        if second % 4 == 2:
            host.load_module()
        if second == 5:
            host.load_module(bpf=True)
        host.free_some(rate * (3 if second % 5 == 4 else 1))
        if second % 6 == 5:
            host.free_some(10**9)
            host.shrink()
        if failing:
            host.fail_to_hide()
        told.append(host.records())
        host.now_ns = max(end_ns, host.now_ns)
        told.append(host.counters())
    return told
