# SPDX-License-Identifier: Apache-2.0
"""The state of a traced kernel, from updates alone: no input or output, no clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from uaptrace.abi.events import NR_KINDS, Counter, Kind
from uaptrace.abi.hooks import HOOKS, Need
from uaptrace.abi.units import Level
from uaptrace.abi.wire import Batch

from .audit import GRACE_NS, Audit
from .columns import CHUNK_RECORDS, Columns
from .direct_map import DirectMap
from .found_splits import FoundSplits
from .hook_status import HookStatus
from .ledger import Ledger
from .loops import MAX_OPEN_REFILLS
from .map_regions import MAX_ROWS as MAX_MAP_ROWS
from .names import Names
from .processes import Processes
from .reconcile import NO_SPLITS, Losses, MeminfoComparison, RowComparison, SplitComparison
from .silence import Silences
from .snapshot import (
    Exactness,
    HostInfo,
    Loss,
    Snapshot,
    SplitsView,
    UnmappedCacheView,
)
from .tallies import Tallies
from .unmapped_cache import MAX_ROWS as MAX_CACHE_ROWS
from .unmapped_cache import UnmappedCache
from .updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update, blocks_fit

MAX_REGIONS_TO_CHECK: Final = 2048
_MAX_CUTS: Final = 64
"""How often a tgid becomes another process's within a chunk, before it is no more told which records came before."""


class KernelState:
    """Everything known of one kernel. ``update()`` takes in, ``snapshot()`` shows; the rest says what to read next.

    Records may come in batches of any size; how a stream is cut changes nothing.
    """

    def __init__(self) -> None:
        self._begin(Start(HostInfo(), (), 0, 0.0, frozenset()))
        self._started = False

    def _begin(self, start: Start) -> None:
        self._start = start
        self._started = True
        self.direct_map = DirectMap()
        self.cache = UnmappedCache()
        self._names = Names(start.self_tgids, start.time_ns)
        self._ledger = Ledger(start.self_tgids)
        self._processes = Processes()
        self._audit = Audit(start.hooks, has_series=start.host.has_series)
        self._losses = Losses()
        self._splits = SplitComparison()
        self._found_splits = FoundSplits()
        self._meminfo = MeminfoComparison()
        self._rows = RowComparison()
        self._silences = Silences(start.hooks)
        self._tallies = Tallies(start.hooks, self.cache.by_order)
        self._counters: CountersReading | None = None
        self._was_quiet = False
        self._map_reason = ""
        self._cache_lost_ns: int | None = None
        """Records of the cache were lost up to this time: it must be read again, and until then nothing is concluded from it."""
        self._settles_ns: int | None = start.time_ns + GRACE_NS
        """When calls that were under way unseen have ended; None once that is past."""
        self._cache_differs_ns: int | None = None
        self._cache_reason = ""
        self._cache_unread = ""
        """Why no reading of the cache could be used so far: what the label ends with."""
        self._infer_handed_out = False
        self._unreadable: frozenset[int] = frozenset()
        """2M regions whose page tables could not be read."""
        self._nr_map_readings = 0
        self._nr_complete_readings = 0
        self._nr_cache_readings = 0
        self._last_exact_ns: int | None = None
        self._last_exact_wall: tuple[int, float] | None = None
        """The same moment, and as time since the epoch."""
        self._missing_hooks = _missing_hooks(start.hooks, start.host.has_series)

    # In

    def update(self, update: Update) -> None:
        """Take in one update. A second Start begins anew."""
        match update:
            case Records():
                self._take_records(update.batch)
            case CountersReading():
                self._take_counters(update)
            case MapReading():
                self._take_map(update)
            case CacheReading():
                self._take_cache(update)
            case Symbols():
                self._names.add_symbols(update.names)
                self._forget_names()
            case Cgroups():
                self._names.add_cgroups(update.paths)
                self._forget_names()
            case Start():
                self._begin(update)

    def _take_records(self, batch: Batch) -> None:
        for at in range(0, len(batch), CHUNK_RECORDS):
            chunk = batch[at : at + CHUNK_RECORDS]
            if self._settles_ns is not None and len(chunk) and int(chunk["time_ns"].max()) >= self._settles_ns:
                first = int(np.argmax(chunk["time_ns"] >= np.uint64(self._settles_ns)))
                if first:
                    self._take_chunk(chunk[:first])
                    chunk = chunk[first:]
                self._settles_ns = None
                self.cache.doubt_states()
            self._take_chunk(chunk)

    def _take_chunk(self, chunk: Batch) -> None:
        """A part at a time, such that a tgid is one process's all through it."""
        columns = self._columns(chunk)
        cuts = [at for at in self._names.takeovers(columns)[:_MAX_CUTS] if at]
        if not cuts:
            self._take_part(columns)
            return
        for begin, end in pairwise([0, *cuts, len(chunk)]):
            self._take_part(self._columns(chunk[begin:end]))

    def _columns(self, batch: Batch) -> Columns:
        return Columns(batch, self._names.processes, self._names.stacks)

    def _take_part(self, columns: Columns) -> None:
        self._tallies.apply(columns)
        for process in self._names.apply(columns):
            self._processes.take_over(process)
        self._processes.apply(columns)
        self._ledger.apply(columns)
        self._found_splits.apply(columns)
        self.direct_map.apply(columns)
        nr_dropped = self.cache.nr_refills_dropped
        contradictions, unclean = self.cache.apply(columns)
        if self.cache.nr_refills_dropped > nr_dropped:
            self._cache_lost_ns = int(columns.column("time_ns").max())
            self._cache_reason = f"more than {MAX_OPEN_REFILLS} refills were under way at once"
        trusted = self.cache.is_read and self._cache_lost_ns is None and not self._silences.is_silent
        self._audit.apply(columns, contradictions, unclean, cache_trusted=trusted, settled=self._settles_ns is None)
        self._forget_names()

    def _forget_names(self) -> None:
        """Where there are too many: those that no row has."""
        if not self._names.is_full:
            return
        findings = list(self._audit.findings())
        self._names.forget(
            self._processes.processes | self._ledger.processes | {finding.process for finding in findings},
            self._ledger.stacks | {finding.stack for finding in findings},
            self._processes.cgroups | self._ledger.cgroups,
        )

    def _take_map(self, reading: MapReading) -> None:
        if self.direct_map.is_read:
            self._nr_map_readings += 1
        self.direct_map.load(reading)
        end = reading.first_region + len(reading.levels)
        kept = () if reading.complete else (r for r in self._unreadable if not reading.first_region <= r < end)
        self._unreadable = frozenset((*kept, *reading.unreadable))
        self._found_splits.see(self.direct_map.levels, reading.first_region, len(reading.levels))
        if reading.complete:
            self._nr_complete_readings += 1
        self._infer_if_known()

    def _take_cache(self, reading: CacheReading) -> None:
        if not reading.atomic:
            fit = blocks_fit(reading.pfns, reading.orders)
            self._cache_unread = (
                ": it was used during each reading" if fit else ": in the last reading, free blocks overlap or are not aligned"
            )
            return
        self._nr_cache_readings += 1
        self.cache.load(reading.pfns.astype(np.int64), reading.orders, keep_handed_out=self._cache_lost_ns is None)
        if self._cache_lost_ns is not None and self._cache_lost_ns <= reading.begin_ns:
            self._cache_lost_ns = None
        if self._cache_differs_ns is not None and self._cache_differs_ns <= reading.begin_ns:
            self._cache_differs_ns = None
        self._rows.set_base_again()
        self._rows.take_rows(reading.rows_cached, reading.rows_released, self.cache)
        self._infer_handed_out = True
        self._infer_if_known()

    def _infer_if_known(self) -> None:
        if self._infer_handed_out and self.direct_map.is_read and self.direct_map.uncertain_ranges() is None:
            absent = self.direct_map.absent_rows()
            if absent is None:
                self.cache.give_up()
            else:
                self.cache.infer_handed_out(*absent)
            self._infer_handed_out = False

    def _take_counters(self, reading: CountersReading) -> None:
        self._counters = reading
        self._tallies.take(reading)
        self._was_quiet |= reading.quiet
        new = self._losses.take(reading, self._tallies.taken)
        if new.of_map:
            self._doubt_map(reading.time_ns, new.reason)
        if new.of_cache:
            self._doubt_cache(reading.time_ns, new.reason)
        self._doubt_everything(reading.time_ns, self._silences.take(reading, (self._losses.missed_runs or 0) + self._losses.contexts_lost))
        if new.runs:
            self._settles_ns = reading.time_ns + GRACE_NS
        if new.of_audit or self._silences.is_silent:
            self._audit.drop()
        else:
            self._audit.confirm(reading.time_ns)
        if reading.quiet and self._start.counts_entries:
            requests, entered = (int(reading.words[c]) for c in (Counter.REQUEST, Counter.CACHE_ENTERED))
            self._audit.judge_unanswered(requests, entered, reading.time_ns)
        found = self._found_splits.count(self.direct_map.levels) if self._ledger.other_mappings else NO_SPLITS
        self._doubt_map(reading.time_ns, self._splits.take(reading, self._ledger, found))
        if self.direct_map.uncertain_ranges() is None:
            self._doubt_map(reading.time_ns, self._compare_meminfo(reading))
        if self._start.host.has_series:
            self._take_cache_counters(reading)
        if self._is_exact():
            self._last_exact_ns = reading.time_ns

    def _compare_meminfo(self, reading: CountersReading) -> str:
        return self._meminfo.take(reading, self.direct_map, self._ledger, self._splits, self._nr_complete_readings)

    def _take_cache_counters(self, reading: CountersReading) -> None:
        reason = self._rows.take(reading, self.cache, self._nr_cache_readings)
        if reason:
            self._cache_differs_ns = reading.time_ns
        if self.cache.is_read and self._cache_lost_ns is None:
            if reading.pageblock_bits or self._audit.is_waiting:
                empty = set(self.direct_map.wholly_present(self.cache.empty_regions()).tolist())
                self._audit.judge_pageblocks(dict(reading.pageblock_bits), empty, reading.time_ns, quiet=reading.quiet)
                self.cache.not_handed_out([region for region, is_set in reading.pageblock_bits.items() if not is_set])
            rows = (reading.rows_free, reading.rows_cached, reading.rows_released)
            if reading.quiet and rows[0] is not None and rows[1] is not None and rows[2] is not None:
                self._audit.judge_sum(rows[0], rows[1], rows[2], self.cache.certainly_handed_out_pages(), reading.time_ns)

    def _doubt_everything(self, time_ns: int, reason: str) -> None:
        """Calls went by unseen: of pages, of the cache, and halves of calls."""
        if not reason:
            return
        self._doubt_map(time_ns, reason)
        self._doubt_cache(time_ns, reason)
        self._settles_ns = time_ns + GRACE_NS
        self._audit.drop()

    def _doubt_cache(self, time_ns: int, reason: str) -> None:
        self._cache_lost_ns = time_ns
        self._cache_reason = reason
        self.cache.pending = {}

    def _doubt_map(self, time_ns: int, reason: str) -> None:
        if reason:
            self._map_reason = reason
            self.direct_map.doubt_all(time_ns)

    # What to read next

    @property
    def needs_map_reading(self) -> str | list[tuple[int, int]] | None:
        """None; "all", which wants a complete reading; or ranges (first region, number of regions), ascending."""
        if not self._started or not self.direct_map.is_read:
            return "all"
        return self.direct_map.uncertain_ranges()

    @property
    def needs_cache_reading(self) -> bool:
        """Whether the unmapped cache must be read (again). Never on a kernel without the series."""
        if not self._start.host.has_series or self.cache.is_overfull:
            return False
        return not self.cache.is_read or self._cache_lost_ns is not None or self._cache_differs_ns is not None

    @property
    def needs_counters_reading(self) -> bool:
        """Whether one more reading of the counters would decide something, also if no record comes: a difference or a finding
        that stands only if it is found twice, or a request that is not answered yet."""
        waiting = (self._audit, self._rows, self._splits, self._silences)
        return self._counters is not None and any(part.is_waiting for part in waiting)

    @property
    def regions_to_check(self) -> list[int]:
        """Regions whose pageblock bit is worth reading with the next counters: the cache was in them, or may have been, and
        no page of theirs is free or surely handed out. At most MAX_REGIONS_TO_CHECK, ascending."""
        if not self._start.host.has_series or not self.cache.is_read:
            return []
        empty = self.cache.empty_regions()
        guessed = self.cache.guessed_regions()
        half = MAX_REGIONS_TO_CHECK // 2
        return sorted({*empty[-half:].tolist(), *guessed[-half:].tolist()})

    # Out

    def reasons(self) -> list[str]:
        """Why the state is not exact, each in one short sentence; none where it is."""
        if not self._started:
            return ["nothing is traced yet"]
        reasons = [f"{what} are not seen: the hook {name} is not attached" for name, what in self._missing_hooks]
        reasons += self._silences.reasons()
        reasons += self._map_reasons()
        if self._start.host.has_series:
            reasons += self._cache_reasons()
        if self._counters is None:
            reasons.append("not compared with the kernel's counters yet")
        elif not self._was_quiet:
            reasons.append("not compared with the kernel's counters yet: there was no quiet moment")
        elif any(self._splits.surplus.values()):
            reasons.append(f"records tell of {sum(self._splits.surplus.values())} splits more than the kernel counted")
        return reasons

    def _map_reasons(self) -> list[str]:
        reasons = []
        if not self.direct_map.is_read:
            reasons.append("baseline not read yet")
        else:
            uncertain = self.direct_map.uncertain_ranges()
            if uncertain == "all":
                why = self._map_reason or "the direct map may have changed unseen"
                reasons.append(f"{why}: the page tables are to be read again")
            elif uncertain:
                number = self.direct_map.nr_uncertain_regions()
                reasons.append(f"{number} regions of 2 MiB changed in a way that was not read: they are to be read again")
        if self.direct_map.is_overfull:
            reasons.append(f"more than {MAX_MAP_ROWS} regions of 2 MiB have absent pages: which pages is not followed")
        if self._unreadable:
            reasons.append(f"the page tables of {len(self._unreadable)} regions of 2 MiB could not be read")
        return reasons

    def _cache_reasons(self) -> list[str]:
        if self.cache.is_overfull:
            return [f"the unmapped cache is in more than {MAX_CACHE_ROWS} regions of 2 MiB: its pages are not followed"]
        if not self.cache.is_read:
            return [f"the unmapped cache was not read at a quiet moment yet{self._cache_unread}"]
        if self._cache_lost_ns is not None:
            return [f"{self._cache_reason}: the unmapped cache is to be read again"]
        return [self._rows.reason] if self._rows.reason else []

    def _is_exact(self) -> bool:
        return not self.reasons()

    def snapshot(self, time_ns: int, wall_time_s: float, *, regions: bool = False, rows: bool = True) -> Snapshot:
        """The state at ``time_ns`` (CLOCK_MONOTONIC of the traced host).

        ``regions``: with the table for pictures; ``rows``: with splits and processes one by one, which metrics do without.
        """
        reasons = self.reasons()
        if not reasons:
            self._last_exact_ns = max(time_ns, self._last_exact_ns or 0)
        has_series = self._start.host.has_series
        reading = self._counters
        kernel_bytes = dict(reading.direct_map_bytes) if reading is not None and reading.direct_map_bytes is not None else None
        emptied = self.cache.empty_regions()
        return Snapshot(
            time_ns=time_ns,
            wall_time_s=wall_time_s,
            start_time_ns=self._start.time_ns,
            host=self._start.host,
            exactness=Exactness(not reasons, tuple(reasons), self._last_exact_ns, self._nr_map_readings),
            loss=self._loss_view(),
            direct_map=replace(self.direct_map.view(kernel_bytes), is_read=self.direct_map.is_read),
            splits=SplitsView(
                by_cause=self._ledger.by_cause(self._names),
                unexplained=dict(self._splits.unexplained),
                undecided=dict(self._splits.undecided),
                during_attach={level: int(self._start.splits_during_attach.get(level, 0)) for level in (Level.M2, Level.G1)},
                kernel_total=dict(self._splits.kernel_total) if self._splits.kernel_total is not None else None,
                kernel_collapses=dict(self._splits.collapses) if self._splits.collapses is not None else None,
                other_mappings=self._ledger.other_mappings,
            ),
            cache=self._cache_view() if has_series else None,
            operations=self._tallies.operations(),
            latency=self._tallies.latency(),
            shrinker=self._tallies.shrinker() if has_series else None,
            counters=self._tallies.counters(),
            processes=self._processes.rows(self._names) if rows else (),
            split_rows=self._ledger.rows(self._names) if rows else (),
            audit=self._audit.rows(self._names, self.direct_map.nr_still_split(emptied)),
            hooks=self._start.hooks,
            reconcile_error_bytes=self._meminfo.error_bytes,
            reconcile_error_blocks=self._rows.error_blocks if has_series else None,
            regions=self.direct_map.region_table(*self.cache.free_by_region()) if regions else None,
            start_wall_time_s=self._start.wall_time_s,
            last_exact_wall_time_s=self._exact_wall_s(time_ns, wall_time_s),
            silence=self._silences.view(),
        )

    def _exact_wall_s(self, time_ns: int, wall_time_s: float) -> float | None:
        """When the state was last exact by the clock of the host, computed once for each such moment."""
        if self._last_exact_ns is None:
            return None
        if self._last_exact_wall is None or self._last_exact_wall[0] != self._last_exact_ns:
            self._last_exact_wall = (self._last_exact_ns, wall_time_s - (time_ns - self._last_exact_ns) / 1e9)
        return self._last_exact_wall[1]

    def _loss_view(self) -> Loss:
        lost = self._losses.lost
        missing = int(self._losses.missing.sum())
        bad = self.direct_map.bad_records + self.cache.bad_records
        return Loss(
            events_taken=int(self._tallies.taken.sum()),
            events_lost=int(lost.sum()),
            lost_by_kind={Kind(k).name.lower(): int(lost[k]) for k in range(1, NR_KINDS)},
            decode_errors=self._tallies.unknown_kinds + bad + missing,
            missed_runs=self._losses.missed_runs,
            contexts_lost=self._losses.contexts_lost,
        )

    def _cache_view(self) -> UnmappedCacheView:
        cached_total, released_total = self._rows.totals(self.cache)
        return UnmappedCacheView(
            cached_total=cached_total,
            released_total=released_total,
            free=self.cache.free_blocks(),
            cached=tuple(self._rows.cached(self.cache).tolist()),
            released=tuple(self._rows.released(self.cache).tolist()),
            allocated=self._tallies.count_by_order(Counter.ALLOC_ORDER),
            freed=self._tallies.count_by_order(Counter.FREE_ORDER),
            handed_out_pages=self.cache.handed_out_pages(),
            requests=self._tallies.count(Counter.CACHE_ALLOC),
            hits=self._tallies.count(Counter.CACHE_HIT),
            refills=self._tallies.count(Counter.CACHE_REFILL),
            refill_fallbacks=self._tallies.count(Counter.CACHE_REFILL_FALLBACK),
            failures=self._tallies.count(Counter.CACHE_ALLOC_FAILED),
            kernel_free=self._rows.kernel_free,
            kernel_cached=self._rows.kernel_cached,
            kernel_released=self._rows.kernel_released,
        )


def _missing_hooks(hooks: tuple[HookStatus, ...], has_series: bool) -> tuple[tuple[str, str], ...]:
    """Hooks that exactness needs and that are not attached, and what is not seen for lack of them."""
    if not hooks:
        return ()  # not known: an input that does not say what was attached
    listed = {hook.name.lower() for hook in hooks}
    attached = {hook.name.lower() for hook in hooks if hook.mechanism is not None or not hook.needed}
    for hook in HOOKS:
        if hook.label in attached:
            attached |= {name.lower() for name in hook.also_sees} - listed
    needed = [hook for hook in HOOKS if hook.unseen and (has_series or hook.need is not Need.SERIES)]
    return tuple((hook.label, hook.unseen) for hook in needed if hook.label not in attached)
