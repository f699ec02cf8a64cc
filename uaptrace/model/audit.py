# SPDX-License-Identifier: Apache-2.0
"""The invariants of the unmapped cache, held against what the programs read from the page tables.

Some are decided by one record alone (2, 3, 8): such a violation stands at once. The others follow from several records
(1, 4, 5, 7, 9, 11), and a record that was lost between them would accuse a kernel that did nothing wrong. They wait until
the next reading of the counters says that nothing was lost up to then; if something was, they are dropped.

A call that was under way when tracing began sends nothing when it returns: a page that it takes is still free for the
model. States are judged by only after such calls have ended (GRACE_NS), and only those that were recorded since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from uaptrace.abi.events import Kind
from uaptrace.abi.hooks import HOOKS
from uaptrace.abi.units import PAGES_PER_2M

from .audit_calls import ReturnedErrors, ShrinkScans
from .audit_findings import (
    EXPECTED,
    Finding,
    WaitingRequest,
    finding_at,
    finding_of,
    half_refilled,
    half_restored,
    mapped_block,
    never_entered,
    not_from_cache,
    shown_violation,
    state_seen,
    unclean_block,
    waiting_request,
)
from .codes import FlagCode, KindCode, kind_set
from .columns import Columns, Ints, distinct
from .hook_status import HookStatus, attached_labels
from .names import Names
from .snapshot import InvariantRow
from .unmapped_cache import CAPTURED, CERTAIN, Contradictions

NR_INVARIANTS: Final = 11
MAX_FIRST: Final = 16
GRACE_NS: Final = 3_000_000_000
SUSPECT_NS: Final = 500_000_000
"""How long a pageblock's bit must have been seen set, with nothing of the block in the cache, before that is a finding."""
REQUEST_TIMEOUT_NS: Final = 5_000_000_000
"""A request without an answer is said to be undecided after this time; no time makes it a violation."""
_MAX_REQUESTS: Final = 65536
"""Requests that wait for an answer; the oldest are forgotten undecided."""
_OF_BLOCKS: Final = kind_set(KindCode.REFILL, KindCode.REFILLED, KindCode.ALLOC, KindCode.FREE, KindCode.RELEASE, KindCode.REFILL_UNDONE)
TITLES: Final = (
    "",
    "a request with the flag enters the unmapped cache",
    "a block that is handed out is absent from the direct map",
    "a refilled chunk is absent as a whole and flushed",
    "an error of set_direct_map is not ignored",
    "a block is on the lists once, or handed out once",
    "a block without pages of the cache has its pageblock bit clear",
    "what is freed into the cache came from it",
    "a released page is back in the direct map",
    "no content outlives its owner",
    "a chunk that was split stays split",
    "a shrinker scan releases no more than it was asked for",
)


@dataclass(slots=True)
class _Tally:
    checked: int = 0
    violated: int = 0
    first: list[Finding] = field(default_factory=list)
    waiting: list[tuple[int, int, Finding | None]] = field(default_factory=list)
    """Violations that wait for the next reading of the counters: time, how many, and what is shown of the one."""
    waiting_checks: int = 0

    def add_waiting(self, time_ns: int, count: int) -> None:
        """Violations of which nothing is shown: all of them wait as one."""
        if self.waiting and self.waiting[-1][2] is None:
            before_ns, before, _ = self.waiting.pop()
            time_ns, count = max(time_ns, before_ns), count + before
        self.waiting.append((time_ns, count, None))


class Audit:
    """Judges records and readings. ``hooks``: what is attached; empty where that is not known."""

    def __init__(self, hooks: Iterable[HookStatus] = (), *, has_series: bool = True) -> None:
        statuses = tuple(hooks)
        attached = attached_labels(statuses)
        self._missing = {number: _missing(number, attached) if statuses else "" for number in range(1, NR_INVARIANTS + 1)}
        self._has_series = has_series
        self._tallies = [_Tally() for _ in range(NR_INVARIANTS + 1)]
        self._requests: dict[int, WaitingRequest] = {}
        self._errors = ReturnedErrors()
        self._scans = ShrinkScans()
        self._suspects: dict[int, tuple[int, int]] = {}
        """Regions whose pageblock bit was found set while no page was the cache's: in how many readings in a row."""
        self._accused: set[int] = set()
        self._excess_before = False
        self._released_blocks = 0
        self._now_ns = 0
        self._unentered_base: int | None = None
        """At least as many requests as had not entered the cache before those that wait; None where that is not known."""
        self._was_compared = False

    # Records

    def apply(self, columns: Columns, contradictions: Contradictions | None, unclean: Ints, *, cache_trusted: bool, settled: bool) -> None:
        """Judge a chunk. ``contradictions`` and ``unclean`` are what UnmappedCache.apply() returned for it;
        ``cache_trusted``: the cache was read, and nothing was lost since; ``settled``: no call is under way whose beginning
        was not seen."""
        if not self._has_series:
            return
        if columns.count(KindCode.REQUEST) or self._requests:
            self._judge_requests(columns)
        if columns.count(KindCode.ALLOC):
            self._judge_allocations(columns)
        if columns.count(KindCode.REFILLED):
            self._judge_refilled(columns)
        if columns.count(KindCode.SET_DIRECT_MAP) or self._errors:
            self._judge_errors(columns)
        if columns.count(KindCode.RELEASE):
            self._judge_releases(columns, unclean if cache_trusted else unclean[:0])
        if columns.count(KindCode.SHRINK) or columns.count(KindCode.RELEASE):
            self._judge_shrinks(columns)
        if cache_trusted:
            self._judge_states(columns, contradictions, settled)
        if self._suspects:
            self._forget_suspects(columns)

    def _judge_requests(self, columns: Columns) -> None:
        """1: between two REQUEST records of a task there is a sign that the first one entered the cache."""
        if not self._was_compared and self._unentered_base is None:
            self._unentered_base = 0  # the counters began with these records
        if self._missing[1] or self._judge_given(columns):
            return
        task = columns.by_task
        if not len(task):
            return
        tid = columns.of("tid", task)
        is_request = columns.kind[task] == KindCode.REQUEST
        same = tid[1:] == tid[:-1]
        followed = is_request[:-1] & same
        broken = followed & is_request[1:]
        self._check(1, int(np.count_nonzero(followed)), waiting=True)
        if self._requests:
            first = np.concatenate([[True], ~same])
            for t, at, again in zip(tid[first].tolist(), task[first].tolist(), is_request[first].tolist(), strict=True):
                request = self._requests.pop(t, None)
                if request is None:
                    continue
                self._check(1, 1, waiting=True)
                if again:
                    self._violate(never_entered(request, int(columns.column("time_ns")[at])), waiting=True)
        earlier = dict(zip(task[1:][broken].tolist(), task[:-1][broken].tolist(), strict=True))
        self._violate_each(
            columns,
            1,
            np.sort(task[1:][broken]),
            lambda at: never_entered(waiting_request(columns, earlier[at]), int(columns.column("time_ns")[at])),
            waiting=True,
        )
        last = np.concatenate([~same, [True]]) & is_request
        for at, t in zip(task[last].tolist(), tid[last].tolist(), strict=True):
            self._requests.pop(t, None)  # so that the newest come last
            self._requests[t] = waiting_request(columns, at)
        while len(self._requests) > _MAX_REQUESTS:
            del self._requests[next(iter(self._requests))]

    def _judge_given(self, columns: Columns) -> bool:
        """1, by pages that callers were given: each is absent from the direct map. False where nothing tells of any: one hook sees
        calls, the other pages."""
        asked = columns.index(KindCode.REQUEST)
        given = asked[(columns.of("flags", asked) & FlagCode.BY_CALLER) != 0]
        self._check(1, len(given))
        self._violate_each(columns, 1, given[columns.of("nr_present", given) > 0], lambda at: not_from_cache(columns, at))
        return len(given) > 0

    def _judge_allocations(self, columns: Columns) -> None:
        index = columns.index(KindCode.ALLOC)
        flags = columns.of("flags", index)
        present = columns.of("nr_present", index)
        good = (flags & FlagCode.FAILED) == 0
        read = (columns.of("after", index) != 0) | (present > 0)
        self._check(2, int(np.count_nonzero(good & read)))
        self._violate_each(columns, 2, index[good & (present > 0)], lambda at: mapped_block(columns, at))
        if self._missing[3]:
            return
        unflushed = good & ((flags & FlagCode.REFILLED) != 0) & ((flags & FlagCode.FLUSHED) == 0)
        if unflushed.any():
            self._check(3, int(np.count_nonzero(unflushed)))
            self._violate_each(
                columns,
                3,
                index[unflushed],
                lambda at: finding_of(columns, at, 3, "a TLB flush after the refill", "handed out without one"),
            )

    def _judge_refilled(self, columns: Columns) -> None:
        """3: all pages of the chunk are absent when the flush comes, and the flush covers them."""
        if self._missing[3]:
            return
        index = columns.index(KindCode.REFILLED)
        present = columns.of("nr_present", index)
        covers = (columns.of("flags", index) & FlagCode.FLUSH_COVERS) != 0
        self._check(3, len(index))
        self._violate_each(columns, 3, index[(present > 0) | ~covers], lambda at: half_refilled(columns, at))

    def _judge_errors(self, columns: Columns) -> None:
        """4: after set_direct_map failed in the cache, the page is neither handed out, nor released as if nothing had been."""
        if self._missing[4]:
            return
        nr_calls, findings = self._errors.judge(columns)
        self._check(4, nr_calls, waiting=True)
        for finding in findings:
            self._violate(finding, waiting=True)

    def _judge_releases(self, columns: Columns, unclean: Ints) -> None:
        index = columns.index(KindCode.RELEASE)
        nr_pages = columns.of("nr_pages", index)
        present = columns.of("nr_present", index)
        self._released_blocks += len(index)
        read = (columns.of("after", index) != 0) | (present > 0)
        self._check(8, int(np.count_nonzero(read)))
        self._violate_each(columns, 8, index[read & (present < nr_pages)], lambda at: half_restored(columns, at))
        if self._missing[9]:
            return
        self._check(9, int(np.count_nonzero(columns.of("aux", index) >= 0)), waiting=True)
        self._violate_each(columns, 9, unclean, lambda at: unclean_block(columns, at), waiting=True)

    def _judge_shrinks(self, columns: Columns) -> None:
        """11: a scan may release one block more than it was asked for."""
        if self._missing[11]:
            return
        self._check(11, columns.count(KindCode.SHRINK), waiting=True)
        for finding in self._scans.judge(columns):
            self._violate(finding, waiting=True)

    def _judge_states(self, columns: Columns, contradictions: Contradictions | None, settled: bool) -> None:
        """5 and 7: what a record says fits what its pages were before."""
        if self._missing[5]:
            return
        nr = sum(columns.count(kind) for kind in (KindCode.REFILL, KindCode.ALLOC, KindCode.RELEASE))
        if settled:
            self._check(5, nr + columns.count(KindCode.FREE), waiting=True)
        self._check(7, columns.count(KindCode.FREE), waiting=True)
        if contradictions is None:
            return
        for at, verdict, pfn, state, nr_pages in zip(
            contradictions.record.tolist(),
            contradictions.verdict.tolist(),
            contradictions.pfn.tolist(),
            contradictions.state.tolist(),
            contradictions.nr_pages.tolist(),
            strict=True,
        ):
            if verdict == CAPTURED:
                # Seen leaving the cache, or never seen in it: freed into it all the same, and still mapped.
                if int(columns.column("nr_present")[at]):
                    was = "it had left the cache" if state else "it was never seen in the cache"
                    finding = finding_of(columns, at, 7, "a page that was handed out by the cache", f"{was} and is in the direct map")
                    self._violate(finding_at(finding, pfn, nr_pages), waiting=True)
                continue
            if verdict != CERTAIN or not settled:
                continue
            kind = Kind(int(columns.kind[at]))
            self._violate(finding_at(finding_of(columns, at, 5, EXPECTED[kind], state_seen(kind, state)), pfn, nr_pages), waiting=True)

    def _forget_suspects(self, columns: Columns) -> None:
        index = columns.index_of(_OF_BLOCKS)
        if len(index):
            first = columns.of("pfn", index) // PAGES_PER_2M
            last = (columns.of("pfn", index) + np.maximum(columns.of("nr_pages", index), 1) - 1) // PAGES_PER_2M
            for region in {*distinct(first).tolist(), *distinct(last).tolist()}:
                self._suspects.pop(region, None)
                self._accused.discard(region)

    # Readings

    def confirm(self, time_ns: int) -> None:
        """Nothing was lost up to ``time_ns``: what waited for that stands."""
        for number, tally in enumerate(self._tallies):
            tally.checked += tally.waiting_checks
            tally.waiting_checks = 0
            later = [w for w in tally.waiting if w[0] > time_ns]
            for _, count, finding in sorted((w for w in tally.waiting if w[0] <= time_ns), key=lambda w: w[0]):
                self._stand(number, finding, count)
            tally.waiting = later
        self._now_ns = max(self._now_ns, time_ns)

    def judge_unanswered(self, requests: int, entered: int, time_ns: int) -> None:
        """1, for requests that were the last of their task: all that wait never entered the cache where the kernel's own counts, of one
        quiet moment, differ by as many. ``requests``, ``entered``: counted in the kernel since tracing began."""
        if self._missing[1] or not self._has_series:
            return
        unentered = requests - entered - self._tallies[1].violated - sum(count for _, count, _ in self._tallies[1].waiting)
        self._was_compared = True
        self._unentered_base = unentered if self._unentered_base is None else min(self._unentered_base, unentered)
        if not self._requests or unentered - self._unentered_base < len(self._requests):
            return
        for tid, request in list(self._requests.items()):
            # A request that has just begun is on its way to the cache; one that has been on its way that long never gets there.
            if time_ns - request.time_ns > REQUEST_TIMEOUT_NS:
                del self._requests[tid]
                self._check(1, 1)
                self._stand(1, never_entered(request, request.time_ns))

    def drop(self) -> None:
        """Something was lost since the last reading: what was concluded from several records means nothing."""
        for tally in self._tallies:
            tally.waiting.clear()
            tally.waiting_checks = 0
        self._requests.clear()
        self._unentered_base, self._was_compared = None, True
        self._errors.clear()
        self._scans.clear()
        self._suspects.clear()

    def judge_pageblocks(self, bits: dict[int, bool], empty: set[int], time_ns: int, *, quiet: bool) -> None:
        """6: ``bits``: the pageblock's bit by region, of which those in ``empty`` had pages of the cache and
        have none now, nor any page that is absent from the direct map."""
        if self._missing[6] or not self._has_series:
            return
        self._suspects = {region: times for region, times in self._suspects.items() if region in empty and bits.get(region)}
        for region, is_set in bits.items():
            if region not in empty:
                continue
            if not is_set:
                self._check(6, 1)
                self._accused.discard(region)
                continue
            # Once, and it may be about to be cleared. Twice without a record of the region in between, and it stands, unless a
            # record is still in the ring: those are known to have been taken in at a quiet reading, or by the next one.
            times, first_ns = self._suspects.get(region, (0, time_ns))
            times += 1
            self._suspects[region] = (times, first_ns)
            # No call takes that long; one that was interrupted on its way may well outlast two readings in a row.
            if region not in self._accused and times >= (2 if quiet else 3) and time_ns - first_ns >= SUSPECT_NS:
                self._accused.add(region)
                self._check(6, 1)
                seen = f"the bit is set, {times} times in a row"
                self._violate(Finding(6, time_ns, region * PAGES_PER_2M, PAGES_PER_2M, "the pageblock's bit is clear", seen, 0, 0))

    def judge_sum(self, free: tuple[int, ...], cached: tuple[int, ...], released: tuple[int, ...], handed_out: int, time_ns: int) -> None:
        """7 in figures: free and handed out pages are not more than what came in and did not leave. All of one quiet moment."""
        if self._missing[7] or not self._has_series:
            return
        held = sum(n << order for order, n in enumerate(free)) + handed_out
        owned = sum(n << order for order, n in enumerate(cached)) - sum(n << order for order, n in enumerate(released))
        excess = held > owned
        self._check(7, 1)
        if excess and self._excess_before:
            seen = f"{held} pages free or handed out, {owned} ever came in and did not leave"
            self._violate(Finding(7, time_ns, 0, held - owned, "no more pages than came in", seen, 0, 0))
        self._excess_before = excess and not self._excess_before

    @property
    def is_waiting(self) -> bool:
        """Whether another reading of the counters would decide something."""
        undecided = any(tally.waiting for tally in self._tallies) or self._excess_before or not self._suspects.keys() <= self._accused
        return undecided or len(self._requests) > self._nr_unanswered()

    def _nr_unanswered(self) -> int:
        """Requests that are late. A task may wait for a refill for as long as reclaim takes: only what it does next decides."""
        return sum(self._now_ns - request.time_ns > REQUEST_TIMEOUT_NS for request in self._requests.values())

    # Results

    def _check(self, number: int, n: int, *, waiting: bool = False) -> None:
        tally = self._tallies[number]
        if waiting:
            tally.waiting_checks += n
        else:
            tally.checked += n

    def _violate(self, finding: Finding, *, waiting: bool = False) -> None:
        if not waiting:
            self._stand(finding.number, finding)
            return
        tally = self._tallies[finding.number]
        if len(tally.first) + len(tally.waiting) < 4 * MAX_FIRST:
            tally.waiting.append((finding.time_ns, 1, finding))
        else:
            tally.add_waiting(finding.time_ns, 1)

    def _violate_each(
        self, columns: Columns, number: int, index: Ints, finding: Callable[[int], Finding], *, waiting: bool = False
    ) -> None:
        """All these records break it. Only as many findings are made as can be shown: a broken kernel breaks it every time."""
        tally = self._tallies[number]
        room = max(0, (4 if waiting else 1) * MAX_FIRST - len(tally.first) - len(tally.waiting))
        for at in index[:room].tolist():
            self._violate(finding(at), waiting=waiting)
        rest = index[room:]
        if len(rest) and waiting:
            tally.add_waiting(int(columns.of("time_ns", rest).max()), len(rest))
        elif len(rest):
            self._stand(number, None, len(rest))

    def _stand(self, number: int, finding: Finding | None, count: int = 1) -> None:
        tally = self._tallies[number]
        tally.violated += count
        if finding is not None and len(tally.first) < MAX_FIRST:
            tally.first.append(finding)

    def findings(self) -> Iterator[Finding]:
        """All that may be shown."""
        for tally in self._tallies:
            yield from tally.first
            yield from (finding for _, _, finding in tally.waiting if finding is not None)

    def rows(self, names: Names, nr_still_split: int) -> tuple[InvariantRow, ...]:
        """All invariants. ``nr_still_split``: regions that the cache has left and that are still mapped by 4K entries."""
        rows = []
        for number in range(1, NR_INVARIANTS + 1):
            tally = self._tallies[number]
            rows.append(
                InvariantRow(
                    number=number,
                    title=TITLES[number],
                    checked=self._released_blocks if number == 10 else tally.checked,
                    violated=tally.violated,
                    first=tuple(shown_violation(finding, names) for finding in tally.first),
                    note=self._note(number, nr_still_split),
                )
            )
        return tuple(rows)

    def _note(self, number: int, nr_still_split: int) -> str:
        if not self._has_series:
            return "not checked: this kernel has no unmapped cache"
        if self._missing[number]:
            return f"not checked: {self._missing[number]} not attached"
        if number == 10:
            return f"a cost, not a defect: {nr_still_split} regions of 2 MiB that the cache left are still mapped by 4K pages"
        unanswered = self._nr_unanswered() if number == 1 else 0
        if unanswered:
            return f"not decided: {unanswered} requests have had no answer for {REQUEST_TIMEOUT_NS // 10**9} s or more"
        return ""


def _missing(number: int, attached: frozenset[str]) -> str:
    """Hooks without which an invariant cannot be judged, and that are not attached."""
    seen = attached | {name.lower() for hook in HOOKS if hook.label in attached for name in hook.also_sees}
    return ", ".join(hook.label for hook in HOOKS if number in hook.invariants and hook.label not in seen)
