# SPDX-License-Identifier: Apache-2.0
"""Holds a live session against what it did not make itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from uaptrace.abi.errors import UsageError
from uaptrace.abi.events import Counter
from uaptrace.abi.units import PAGE_SIZE, Level
from uaptrace.kernel.ptdump import parse_ptdump
from uaptrace.model.compare import compare
from uaptrace.model.snapshot import Snapshot
from uaptrace.model.updates import MapReading
from uaptrace.session.live import LiveSource
from uaptrace.session.loop import Session

_TRIES: Final = 10
_FAULTS: Final = ("missing", "refused")
"""States of a hook that something goes unseen for."""
_MAP_COUNTERS: Final = (Counter.SET_INVALID, Counter.SET_DEFAULT, Counter.CPA, Counter.SPLIT_2M, Counter.SPLIT_1G)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``unit`` is pages or figures. ``settled``: nothing changed between the reading and the state it was compared with."""

    oracle: str
    unit: str
    compared: int
    differing: int
    first: tuple[tuple[str, str, str], ...]
    """(what, ours, theirs) of the first that differ."""
    snapshot: Snapshot
    settled: bool
    expected: int = 0
    """Pages that the state has: so many have to be compared at least. 0 for figures."""
    untold: int = 0
    """Pages of which the oracle says nothing (uaptrace.model.compare)."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing is proven, though nothing differs; empty where it is."""
        found = [f"the hook {hook.name} is {hook.state}: {hook.reason}" for hook in self.snapshot.hooks if hook.state in _FAULTS]
        if self.compared + self.untold < max(self.expected, 1):
            found.append(f"only {self.compared} of {self.expected} {self.unit} were compared")
        if not self.snapshot.exactness.exact:
            found.append("the state is inexact: " + "; ".join(self.snapshot.exactness.reasons))
        return tuple(found)

    @property
    def rereads(self) -> int:
        """How often page tables were read again since tracing began: what was found changed then is not what events told."""
        return self.snapshot.exactness.nr_rereads

    def to_json(self) -> dict[str, Any]:
        """``compared_pages`` and ``differing_pages`` (0 and the number of figures under ``_figures`` for the counters oracle)."""
        return {
            "oracle": self.oracle,
            f"compared_{self.unit}": self.compared,
            f"differing_{self.unit}": self.differing,
            "first": [{"what": what, "ours": ours, "theirs": theirs} for what, ours, theirs in self.first],
            "exact": self.snapshot.exactness.exact,
            "reasons": list(self.snapshot.exactness.reasons),
            "lost": self.snapshot.loss.total,
            "settled": self.settled,
            f"expected_{self.unit}": self.expected,
            f"untold_{self.unit}": self.untold,
            "rereads": self.rereads,
            "doubts": list(self.doubts),
        }


def map_verdict(session: Session[LiveSource], oracle: str) -> Verdict:
    """Compare page by page with a reading made in a moment in which nothing changed, as far as one is found in ten tries."""
    verdict = None
    for _ in range(_TRIES):
        snapshot = session.finish()
        before = session.source.count(_MAP_COUNTERS)
        begin = time.monotonic_ns()
        reading = _independent_reading(session, oracle, begin)
        settled = session.source.count(_MAP_COUNTERS) == before and not session.take_records()
        found = compare(session.state.direct_map, reading, absent_is_hole=oracle == "ptdump")
        verdict = Verdict(
            oracle,
            "pages",
            found.compared_pages,
            found.differing_pages,
            tuple((f"pfn {first.pfn}", first.ours, first.theirs) for first in found.first),
            snapshot,
            settled,
            expected=snapshot.direct_map.total_bytes // PAGE_SIZE,
            untold=found.untold_pages,
        )
        if settled:
            break
    assert verdict is not None
    return verdict


def counters_verdict(session: Session[LiveSource]) -> Verdict:
    """Compare what the state says of sizes, splits and the cache with the kernel's own figures."""
    snapshot = session.finish()
    rows = list(_figures(snapshot))
    differing = [row for row in rows if row[1] != row[2]]
    return Verdict("counters", "figures", len(rows), len(differing), tuple(differing), snapshot, snapshot.exactness.exact)


def _figures(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    for level in (Level.M2, Level.G1):
        if snapshot.splits.kernel_total is not None:
            explained = sum(n for (lv, _), n in snapshot.splits.by_cause.items() if lv == level)
            yield f"splits of {level.label} mappings", str(explained), str(snapshot.splits.by_level(level))
    if snapshot.reconcile_error_bytes is not None:
        yield "bytes by size of mapping, changes", "0", str(snapshot.reconcile_error_bytes)
    cache = snapshot.cache
    if cache is not None:
        for name, ours, theirs in (
            ("free", cache.free, cache.kernel_free),
            ("cached", cache.cached, cache.kernel_cached),
            ("released", cache.released, cache.kernel_released),
        ):
            if theirs is not None:
                for order, (here, there) in enumerate(zip(ours, theirs, strict=True)):
                    yield f"{name} blocks of order {order}", str(here), str(there)


def _independent_reading(session: Session[LiveSource], oracle: str, begin_ns: int) -> MapReading:
    if oracle == "kcore":
        return session.source.read_map()[0]
    text = session.source.read_ptdump()
    if text is None:
        raise UsageError("this kernel has no page table dump (CONFIG_PTDUMP_DEBUGFS): use --oracle kcore")
    constants = session.source.loaded.constants
    return parse_ptdump(text, constants.page_offset, constants.direct_map_size, begin_ns, time.monotonic_ns())
