# SPDX-License-Identifier: Apache-2.0
"""The running kernel as a source of updates: the ring, the counters, the page tables, struct page and the kernel's own figures.

Needs no privilege: everything comes through descriptors that the loader handed over, and files that anyone may read.
"""

from __future__ import annotations

import os
import platform
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.wire import frames
from uaptrace.ebpf.counters import MappedCounters, steady
from uaptrace.ebpf.information import missed_runs
from uaptrace.ebpf.reader import BpfMemory
from uaptrace.ebpf.ring import MappedRing
from uaptrace.kernel.address_names import AddressNames
from uaptrace.kernel.beat_figures import FigureFiles, MapFigures
from uaptrace.kernel.container import HOST_NAME_VARIABLE
from uaptrace.kernel.debugfs import CacheRows, parse_unmapped_alloc, read_fd
from uaptrace.kernel.host import host_name
from uaptrace.kernel.kcore import Kcore, KernelMemory
from uaptrace.kernel.kfence import is_on, pool_regions
from uaptrace.kernel.page_tables import PageTableReader
from uaptrace.kernel.procfs import collapse_counters, direct_map_bytes, parse_meminfo, parse_vmstat, split_counters
from uaptrace.kernel.struct_page import PageblockBits, page_layout, read_free_blocks, steady_read
from uaptrace.kernel.tlb import tlb_of_this_processor
from uaptrace.loader.paging import paging_layout
from uaptrace.loader.parent import Loaded
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update
from uaptrace.session.hook_switches import HookSwitches

CACHE_OPERATIONS: Final = (
    Counter.CACHE_ENTERED,
    Counter.CACHE_ALLOC,
    Counter.CACHE_REFILL,
    Counter.CACHE_FREE,
    Counter.CACHE_RELEASE,
    Counter.CACHE_REFILL_UNDONE,
)
_STEADY_TRIES: Final = 8


class LiveSource:
    """Updates out of what the loader handed over. Not for use by two threads at once."""

    def __init__(self, loaded: Loaded, root: Path = Path("/")) -> None:
        self._loaded = loaded
        self._root = root
        self._ring = MappedRing(loaded.ring_fd, loaded.ring_bytes)
        self._counters = MappedCounters(loaded.counters_fd, loaded.nr_cpus)
        self._memory: KernelMemory
        if loaded.has_reader:
            self._memory = BpfMemory(loaded.files["reader"], loaded.files["window"])
        else:
            self._memory = Kcore(loaded.files["kcore"])
        constants = loaded.constants
        self._tables = PageTableReader(
            self._memory,
            paging_layout(constants),
            time.monotonic_ns,
        )
        self._page_layout = page_layout(constants.vmemmap, loaded.offsets) if loaded.has_series else None
        self._pageblocks = self._pageblock_reader()
        self._switches = HookSwitches(loaded.files, loaded.hooks, loaded.link_fds)
        self._figures = FigureFiles(root)
        self.unseen_pages = 0
        """Pages that were found changed and no hook told of: what holds the state against the tables counts them here."""
        self._epoll = select.epoll()
        self._epoll.register(self._ring.fileno(), select.EPOLLIN)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._names = AddressNames(partial(self._read_file, "kallsyms"), partial(self._read_file, "modules"))

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    def start(self) -> Start:
        """The first update."""
        loaded = self._loaded
        return Start(
            host=self._host(),
            hooks=loaded.hooks,
            time_ns=time.monotonic_ns(),
            wall_time_s=time.time(),
            self_tgids=frozenset({loaded.loader_tgid, os.getpid()}),
            splits_during_attach={
                level: loaded.splits_hooked.get(level, 0) - loaded.splits_before.get(level, 0) for level in loaded.splits_hooked
            },
            ring_bytes=loaded.ring_bytes,
            counts_entries=True,
        )

    # ---- events ----

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until the ring has something, wake() was called or the time is over. Whether anything happened."""
        ready = self._epoll.poll(-1 if timeout_s is None else timeout_s)
        for fd, _ in ready:
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
        return bool(ready)

    def rest(self, timeout_s: float) -> None:
        """Let records gather for a while; wake() ends it, and so does a ring that fills."""
        if self._ring.rest(timeout_s, self._wake_fd):
            os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """End a wait() from another thread."""
        os.eventfd_write(self._wake_fd, 1)

    def records(self) -> Iterator[Update]:
        """Everything in the ring now. A Records update must be used before the next one is asked for."""
        # Bounded: under a steady load there would always be more, and readings would never get their turn.
        budget = 2 * self._loaded.ring_bytes
        while budget > 0:
            batch = self._ring.drain()
            if not len(batch):
                break
            budget -= batch.nbytes
            stacks = batch[batch["kind"] == Kind.STACK]
            if len(stacks):
                self._names.want(frames(stacks).ravel().tolist())
            yield Records(batch)
        self._ring.release()

    def names(self) -> Iterator[Update]:
        """Names of addresses that stacks brought, as far as they are new."""
        if named := self._names.new(time.monotonic_ns()):
            yield Symbols(named)

    def _read_file(self, name: str) -> bytes:
        """A file that the loader opened; empty where it could not."""
        return read_fd(self._loaded.files[name]).encode() if name in self._loaded.files else b""

    def cgroups(self, ids: Iterable[int]) -> Iterator[Update]:
        """Paths of the cgroups, by the inode of their folder, which is their id (man 7 cgroups)."""
        wanted = set(ids)
        found: dict[int, str] = {}
        base = self._cgroup_root()
        if base is None or not wanted:
            return
        for folder, subfolders, _ in os.walk(base):
            try:
                inode = os.stat(folder).st_ino
            except OSError:
                continue
            if inode in wanted:
                found[inode] = "/" + os.path.relpath(folder, base).removeprefix(".")
                if len(found) == len(wanted):
                    break
            subfolders.sort()
        if found:
            yield Cgroups(found)

    # ---- readings ----

    def read_map(self, ranges: Sequence[tuple[int, int]] | None = None) -> list[MapReading]:
        """The page tables: all of them, or the given (first region, number of regions)."""
        if ranges is None:
            self._memory.refresh()
            return [self._tables.read_all()]
        return [self._tables.read_regions(first, nr) for first, nr in ranges]

    def read_cache(self, regions: Iterable[int]) -> CacheReading | None:
        """Free blocks from struct page in the given regions (those that are not mapped by large pages hold all of them)."""
        layout = self._page_layout
        if layout is None:
            return None
        wanted = list(regions)
        begin = time.monotonic_ns()
        drained = self._ring.used_bytes == 0
        pfns, orders, seen, atomic = steady_read(
            self._cache_operations, lambda: (*read_free_blocks(self._memory, layout, wanted), self._rows()), _STEADY_TRIES
        )
        return CacheReading(
            begin_ns=begin,
            end_ns=time.monotonic_ns(),
            pfns=pfns,
            orders=orders,
            rows_free=seen.free if seen else None,
            rows_cached=seen.cached if seen else None,
            rows_released=seen.released if seen else None,
            atomic=atomic and drained and self._ring.used_bytes == 0,
        )

    def read_counters(self, pageblocks: Iterable[int] = ()) -> CountersReading:
        """The kernel-side counters with the kernel's own figures. ``quiet`` where all are of one moment and the ring is empty."""
        wanted = list(pageblocks)
        reading = steady(
            self._counters,
            lambda: (
                parse_vmstat((self._root / "proc/vmstat").read_text()),
                parse_meminfo((self._root / "proc/meminfo").read_text()),
                self._rows(),
                self._pageblocks.read(wanted) if self._pageblocks else {},
            ),
        )
        vmstat, meminfo, rows, bits = reading.value
        return CountersReading(
            time_ns=time.monotonic_ns(),
            words=reading.words,
            missed_runs=self._missed_runs(),
            splits_total=split_counters(vmstat),
            collapses_total=collapse_counters(vmstat),
            direct_map_bytes=direct_map_bytes(meminfo),
            rows_free=rows.free if rows else None,
            rows_cached=rows.cached if rows else None,
            rows_released=rows.released if rows else None,
            quiet=reading.quiet and self._ring.used_bytes == 0,
            pageblock_bits=bits,
            hooks_off=self._switches.off(),
            unseen_pages=self.unseen_pages,
        )

    # ---- what needs no event (uaptrace/session/heartbeat.py) ----

    def hooks_off(self) -> dict[str, str]:
        """What stops the kernel from calling hooks now, by names of uaptrace.model.silence.Silence, and where that shows."""
        return self._switches.off()

    def figures(self) -> MapFigures:
        """The kernel's own figures of the direct map and the cache."""
        rows = self._rows()
        seen = (rows.free, rows.cached, rows.released) if rows else ()
        return self._figures.read(self.count((Counter.SPLIT_2M, Counter.SPLIT_1G)), seen, self._cache_operations())

    def look(self, first_region: int, max_tables: int, end_region: int) -> tuple[MapReading, bool]:
        """A part of the tables (PageTableReader.read_part), and whether nothing was counted meanwhile and the ring is empty."""
        seen = steady(self._counters, lambda: self._tables.read_part(first_region, max_tables, end_region), max_attempts=1)
        return seen.value, seen.quiet and self._ring.used_bytes == 0

    def unhooked_regions(self) -> list[int]:
        """Regions of KFENCE's pool, where it is on: it changes its own pages where nothing can be hooked."""
        return pool_regions(self._memory, self._loaded.symbols, self._loaded.constants.page_offset, self._tables.read_regions)

    def baseline(self) -> list[Update]:
        """Readings that stand on their own: the whole map, the cache and the counters."""
        maps = self.read_map()
        cache = self.read_cache(region for reading in maps for region in reading.regions_of_small_pages())
        return [*maps, *([cache] if cache is not None else []), self.read_counters()]

    def count(self, counters: Iterable[Counter]) -> int:
        """Sum of some kernel-side counters now."""
        words = self._counters.read()
        return sum(int(words[counter]) for counter in counters)

    def read_ptdump(self) -> str | None:
        """The kernel's own dump of its page tables (CONFIG_PTDUMP_DEBUGFS); None where it has none."""
        fd = self._loaded.files.get("ptdump")
        return None if fd is None else read_fd(fd)

    def close(self) -> None:
        """Detach everything."""
        self._epoll.close()
        os.close(self._wake_fd)
        self._ring.close()
        self._counters.close()
        self._figures.close()
        self._loaded.close()

    # ---- inside ----

    def _missed_runs(self) -> int | None:
        """None too where a hook is a kprobe: what the kernel leaves out there (struct kprobe's and kretprobe's nmissed) shows nowhere."""
        kprobes = any(hook.mechanism == "kprobe" for hook in self._loaded.hooks)
        return None if kprobes else missed_runs(self._loaded.program_fds)

    def _cache_operations(self) -> int:
        return self.count(CACHE_OPERATIONS)

    def _rows(self) -> CacheRows | None:
        fd = self._loaded.files.get("unmapped_alloc")
        return None if fd is None else parse_unmapped_alloc(read_fd(fd))

    def _pageblock_reader(self) -> PageblockBits | None:
        loaded = self._loaded
        needed = ("mem_section", "mem_section.usage", "mem_section_usage.pageblock_flags")
        if not loaded.has_series or "mem_section" not in loaded.symbols or any(name not in loaded.offsets for name in needed):
            return None
        try:
            return PageblockBits(self._memory, loaded.symbols["mem_section"], loaded.offsets)
        except (OSError, LookupError):
            return None

    def _host(self) -> HostInfo:
        loaded = self._loaded
        meminfo = parse_meminfo((self._root / "proc/meminfo").read_text())
        return HostInfo(
            hostname=host_name(os.environ.get(HOST_NAME_VARIABLE) or platform.node(), self._root),
            kernel_release=platform.release(),
            boot_id=(self._root / "proc/sys/kernel/random/boot_id").read_text().strip(),
            nr_cpus=os.cpu_count() or 0,
            memory_bytes=meminfo.get("MemTotal"),
            paging_levels=loaded.constants.levels,
            has_series=loaded.has_series,
            kfence=is_on(self._memory, loaded.symbols),
            buddyinfo=(self._root / "proc/buddyinfo").read_text(),
            tlb=tlb_of_this_processor(),
        )

    def _cgroup_root(self) -> Path | None:
        for candidate in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
            path = self._root / candidate
            if (path / "cgroup.controllers").exists():
                return path
        return None
