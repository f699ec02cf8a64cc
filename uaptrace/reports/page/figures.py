# SPDX-License-Identifier: Apache-2.0
"""The key figures of a recording, and the differences between two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from uaptrace.abi.units import Level
from uaptrace.model.snapshot import Snapshot
from uaptrace.reports.page.gather import Recorded
from uaptrace.views import words

Unit = Literal["count", "share", "bytes", "ns", "pages"]
Better = Literal["less", "more", ""]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; ``value`` is None where it is not known."""

    key: str
    label: str
    value: float | None
    unit: Unit
    better: Better
    note: str = ""

    @property
    def text(self) -> str:
        """The value for people."""
        return in_words(self.value, self.unit)


@dataclass(frozen=True, slots=True)
class Difference:
    """The same figure of two recordings. ``verdict``: better, worse, or empty where it is neither, or no difference."""

    first: Figure
    second: Figure

    @property
    def change(self) -> float | None:
        """Second less first."""
        if self.first.value is None or self.second.value is None:
            return None
        return self.second.value - self.first.value

    @property
    def verdict(self) -> Literal["better", "worse", ""]:
        change = self.change
        if not change or not self.first.better:
            return ""
        return "better" if (change < 0) == (self.first.better == "less") else "worse"

    @property
    def text(self) -> str:
        """The change for people: ``+12``, ``−99.6%``, ``the same``."""
        change = self.change
        if change is None or self.first.value is None:
            return words.UNKNOWN
        if change == 0:
            return "the same"
        sign = "+" if change > 0 else "−"
        if self.first.unit == "share":
            return f"{sign}{abs(change) * 100:.1f} points"
        absolute = sign + in_words(abs(change), self.first.unit)
        if self.first.value == 0:
            return absolute
        relative = change / self.first.value
        return (
            f"{absolute} (×{self.second.value / self.first.value:.1f})"
            if relative > 3 and self.second.value
            else f"{absolute} ({sign}{abs(relative):.1%})"
        )


def in_words(value: float | None, unit: Unit) -> str:
    """A figure for people; a dash where it is not known."""
    if value is None:
        return words.UNKNOWN
    match unit:
        case "share":
            return words.percent(value)
        case "bytes":
            return words.size(round(value))
        case "ns":
            return words.duration(value)
        case _:
            return words.number(round(value))


def _large(snapshot: Snapshot) -> float | None:
    return snapshot.direct_map.large_share


def _when_mapped(read: Callable[[Snapshot], float]) -> Callable[[Snapshot], float | None]:
    return lambda s: read(s) if s.direct_map.total_bytes else None


def _quantile(name: str, quantile: float) -> Callable[[Snapshot], float | None]:
    return lambda s: s.latency[name].quantile_ns(quantile) if name in s.latency else None


def _hit_share(snapshot: Snapshot) -> float | None:
    cache = snapshot.cache
    return cache.hits / cache.requests if cache is not None and cache.requests else None


def _violated(snapshot: Snapshot) -> float | None:
    return sum(row.violated for row in snapshot.audit) if any(row.checked for row in snapshot.audit) else None


_OF_END: Final[tuple[tuple[str, str, Unit, Better, Callable[[Snapshot], float | None]], ...]] = (
    ("large_share", "in 2M and 1G mappings at the end", "share", "more", _large),
    ("splits_2m", "2M mappings split", "count", "less", lambda s: s.splits.by_level(Level.M2)),
    ("splits_1g", "1G mappings split", "count", "less", lambda s: s.splits.by_level(Level.G1)),
    ("regions_touched", "2M regions with absent pages", "count", "less", _when_mapped(lambda s: s.direct_map.nr_regions_touched)),
    ("regions_stranded", "2M regions restored but still 4K", "count", "less", _when_mapped(lambda s: s.direct_map.nr_regions_stranded)),
    ("largest_intact_bytes", "longest run of large mappings", "bytes", "more", _when_mapped(lambda s: s.direct_map.largest_intact_bytes)),
    ("entries", "TLB entries to cover what is mapped", "count", "less", _when_mapped(lambda s: s.direct_map.nr_entries)),
    ("tlb_reach_bytes", "of it within reach of the TLB at once, at most", "bytes", "more", lambda s: s.tlb_reach_bytes),
    ("page_table_bytes", "page tables of 4K entries", "bytes", "less", _when_mapped(lambda s: s.direct_map.page_table_bytes)),
    ("absent_bytes", "absent from the direct map at the end", "bytes", "", _when_mapped(lambda s: s.direct_map.absent_bytes)),
    ("cache_requests", "requests to the unmapped cache", "count", "", lambda s: s.cache.requests if s.cache else None),
    ("cache_hit_share", "requests served without a refill", "share", "more", _hit_share),
    ("set_invalid_calls", "set_direct_map_invalid calls", "count", "less", lambda s: s.operations["set_invalid"].calls),
    ("set_default_calls", "set_direct_map_default calls", "count", "less", lambda s: s.operations["set_default"].calls),
    ("cache_hit_p99_ns", "allocation without a refill, 99% below", "ns", "less", _quantile("cache_hit", 0.99)),
    ("cache_refill_p99_ns", "allocation with a refill, 99% below", "ns", "less", _quantile("cache_refill", 0.99)),
    ("set_invalid_p99_ns", "making a page absent, 99% below", "ns", "less", _quantile("set_invalid", 0.99)),
    ("violations", "broken invariants", "count", "less", _violated),
    ("events_lost", "events lost", "count", "less", lambda s: s.loss.total),
)  # fmt: skip


def figures(recorded: Recorded) -> list[Figure]:
    """Key figures, in the order in which they are told."""
    out = [Figure("duration_ns", "watched for", recorded.watched_s * 1e9, "ns", "")]
    large = recorded.begin.direct_map.large_share
    out.append(Figure("large_share_begin", "in 2M and 1G mappings at the start", large, "share", ""))
    for key, label, unit, better, read in _OF_END:
        out.append(Figure(key, label, read(recorded.end), unit, better))
    return out


def differences(first: Recorded, second: Recorded) -> list[Difference]:
    """Each key figure of both that at least one of them knows."""
    pairs = zip(figures(first), figures(second), strict=True)
    return [Difference(a, b) for a, b in pairs if a.value is not None or b.value is not None]


def sentence(recorded: Recorded) -> str:
    """The recording in two sentences."""
    begin, end = recorded.begin.direct_map.large_share, recorded.end.direct_map.large_share
    splits = recorded.end.splits
    number = {level: splits.by_level(level) for level in (Level.M2, Level.G1)}
    if not sum(number.values()):
        said = f"No large mapping was split in {spoken(recorded.watched_s)}"
    else:
        parts = [
            words.plural(n, f"mapping of {words.LEVEL_WORDS[level]}", f"mappings of {words.LEVEL_WORDS[level]}")
            for level, n in number.items()
            if n
        ]
        said = f"{' and '.join(parts)} {'was' if sum(number.values()) == 1 else 'were'} split in {spoken(recorded.watched_s)}"
        by_cause: dict[str, int] = {}
        for (_, cause), n in splits.by_cause.items():
            by_cause[cause.value] = by_cause.get(cause.value, 0) + n
        name, most = max(by_cause.items(), key=lambda item: item[1], default=("", 0))
        if most:
            said += f", {'all' if most == sum(number.values()) else f'{most:,} of them'} by {name}"
    said += "."
    if begin is None or end is None:
        return said + " The direct map was not read, so its layout is not known."
    if begin == end:
        return said + f" {words.percent(end)} of the direct map is in 2M and 1G mappings, as at the start."
    return said + f" {words.percent(end)} of the direct map is in 2M and 1G mappings; at the start it was {words.percent(begin)}."


def comparison(first: Recorded, second: Recorded) -> str:
    """The difference that matters most, in a sentence."""
    a, b = (sum(r.end.splits.by_level(level) for level in (Level.M2, Level.G1)) for r in (first, second))
    if a == b:
        splits = f"Both split {words.plural(a, 'large mapping')}."
    elif a and b < a:
        splits = f"{words.percent(1 - b / a)} fewer splits: {b:,} instead of {a:,}."
    else:
        splits = f"More splits: {b:,} instead of {a:,}."
    share_a, share_b = first.end.direct_map.large_share, second.end.direct_map.large_share
    if share_a is None or share_b is None:
        return splits
    if share_a == share_b:
        return f"{splits} {words.percent(share_b)} of the direct map is in 2M and 1G mappings at the end of both."
    return f"{splits} {words.percent(share_b)} of the direct map is in 2M and 1G mappings at the end instead of {words.percent(share_a)}."


def spoken(seconds: float) -> str:
    """A length of time in a sentence."""
    return f"{seconds:.1f} s" if seconds < 60 else words.clock(seconds)
