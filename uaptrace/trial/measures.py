# SPDX-License-Identifier: Apache-2.0
"""What a trial measures: each figure has a name, a text, a unit, and which way is better. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from uaptrace.abi.events import Counter
from uaptrace.abi.units import Level
from uaptrace.model.snapshot import Cause, Snapshot

SPLIT_LEVELS: Final = (Level.M2, Level.G1)
Figures = Mapping[str, float | None]
"""By name; None where the kernel does not have it, or nobody measured it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run saw. ``verdicts`` are the documents of ``Verdict.to_json()``."""

    worked: Snapshot
    """When the work had ended, before the cache was asked to give everything back."""
    snapshot: Snapshot
    """At the end."""
    verdicts: Sequence[Mapping[str, Any]]
    complaints: Sequence[str]
    """Lines of the kernel's log that are a warning or worse about a bug."""
    workload_s: float
    workload_cpu_s: float
    flushes: Mapping[Counter, int | None]
    """FLUSH_ALL and FLUSH_RANGE at the end; None where that function is not hooked."""
    instructions: int | None
    """Of the work, where the virtual machine counts them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """``lower_is_better`` is None where a difference is neither good nor bad."""

    name: str
    text: str
    lower_is_better: bool | None
    get: Callable[[Seen], float | None]


def _split(level: Level) -> Callable[[Seen], float]:
    """Without what uaptrace itself split while it watched."""
    return lambda seen: seen.snapshot.splits.by_level(level) - seen.snapshot.splits.by_cause.get((level, Cause.SELF), 0)


def _left(level: Level) -> Callable[[Seen], float]:
    return lambda seen: seen.snapshot.direct_map.nr_present(level)


def _calls(*counters: str) -> Callable[[Seen], float | None]:
    def get(seen: Seen) -> float | None:
        known = [seen.snapshot.counters[name] for name in counters if name in seen.snapshot.counters]
        return sum(known) if known else None

    return get


def _cache(get: Callable[[Any], float]) -> Callable[[Seen], float | None]:
    return lambda seen: None if seen.worked.cache is None else get(seen.worked.cache)


def _invariants(seen: Seen) -> float | None:
    return sum(row.violated > 0 for row in seen.snapshot.audit) if seen.snapshot.audit else None


FIGURES: Final = (
    Figure("splits.2m", "2M mappings split", True, _split(Level.M2)),
    Figure("splits.1g", "1G mappings split", True, _split(Level.G1)),
    Figure("splits.unexplained", "splits that no event explains", True, lambda seen: sum(seen.snapshot.splits.unexplained.values())),
    Figure("left.2m", "2M mappings left", False, _left(Level.M2)),
    Figure("left.1g", "1G mappings left", False, _left(Level.G1)),
    Figure("left.entries", "TLB entries to cover the map", True, lambda seen: seen.snapshot.direct_map.nr_entries),
    Figure("left.stranded", "2M regions whole again, still 4K", True, lambda seen: seen.snapshot.direct_map.nr_regions_stranded),
    Figure("left.page_table_bytes", "bytes of 4K page tables", True, lambda seen: seen.snapshot.direct_map.page_table_bytes),
    Figure("calls.set_direct_map", "calls of set_direct_map_*()", True, _calls("set_invalid", "set_default")),
    Figure("calls.change_page_attr", "calls of change_page_attr", True, _calls("cpa")),
    Figure("flushes.all", "calls of flush_tlb_all()", True, lambda seen: seen.flushes[Counter.FLUSH_ALL]),
    Figure("flushes.range", "calls of flush_tlb_kernel_range", True, lambda seen: seen.flushes[Counter.FLUSH_RANGE]),
    Figure("cache.hits", "requests that the cache served", None, _cache(lambda cache: cache.hits)),
    Figure("cache.refills", "refills of the cache", None, _cache(lambda cache: cache.refills)),
    Figure("cache.free_pages", "free pages in the cache", None, _cache(lambda cache: cache.free_pages)),
    Figure("workload.seconds", "seconds of work", True, lambda seen: round(seen.workload_s, 3)),
    Figure("workload.cpu_seconds", "CPU seconds of work", True, lambda seen: round(seen.workload_cpu_s, 3)),
    Figure("workload.instructions", "instructions of work", True, lambda seen: seen.instructions),
    Figure("audit.broken", "invariants broken", True, _invariants),
    Figure("verify.differing_pages", "pages that differ", True, lambda seen: sum(v["differing_pages"] for v in seen.verdicts)),
    Figure("events.lost", "events lost", True, lambda seen: seen.snapshot.loss.total),
    Figure("dmesg.lines", "complaints in the kernel's log", True, lambda seen: len(seen.complaints)),
)
BY_CAUSE: Final = "splits.2m."
"""And then the cause: splits of 2M mappings by it."""
OWN: Final = f"{BY_CAUSE}{Cause.SELF.value}"
"""What uaptrace split while it watched: not in ``splits.2m``."""


def figures_of(seen: Seen) -> dict[str, float | None]:
    """All figures of one run. Those by cause are there for each cause that there was."""
    found = {figure.name: figure.get(seen) for figure in FIGURES}
    for (level, cause), number in seen.snapshot.splits.by_cause.items():
        if level == Level.M2 and number:
            found[f"{BY_CAUSE}{cause.value}"] = number
    return found


def described(names: Sequence[str]) -> list[Figure]:
    """Figures of these names in the order of a table, those by cause below their sum."""
    causes = sorted((name for name in names if name.startswith(BY_CAUSE)), key=lambda name: (name == OWN, name))
    found = []
    for figure in FIGURES:
        if figure.name in names:
            found.append(figure)
        if figure.name == "splits.2m":
            found += [Figure(name, _by_cause(name), True if name != OWN else None, figure.get) for name in causes]
    return found


def _by_cause(name: str) -> str:
    return "  besides, by uaptrace itself" if name == OWN else f"  by {name.removeprefix(BY_CAUSE)}"
