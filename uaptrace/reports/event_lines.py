# SPDX-License-Identifier: Apache-2.0
"""Records as lines: for ``uaptrace trace``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TextIO

from uaptrace.abi.errors import UsageError
from uaptrace.abi.events import LEVEL_MASK, Flag, Kind, Mapping
from uaptrace.abi.units import Level
from uaptrace.abi.wire import comms
from uaptrace.model.updates import Records, Update
from uaptrace.process.plain import plain

_QUIET_KINDS: Final = frozenset({Kind.TASK, Kind.STACK})
_NAMES: Final = {kind.name.lower(): kind for kind in Kind if kind not in (Kind.NONE,)}


class EventPrinter:
    """Writes a line for each record. Not on the hot path: a person reads it."""

    def __init__(self, out: TextIO, *, as_json: bool, kinds: tuple[str, ...] = ()) -> None:
        unknown = [kind for kind in kinds if kind.lower() not in _NAMES]
        if unknown:
            raise UsageError(f"no such kind of event: {unknown[0]} (there are: {', '.join(_NAMES)})")
        self._out = out
        self._as_json = as_json
        self._kinds = frozenset(_NAMES[kind.lower()] for kind in kinds)
        self._comms: dict[int, str] = {}

    def take(self, update: Update) -> None:
        """Print the records of an update; other updates are passed over."""
        if not isinstance(update, Records):
            return
        for record in update.batch:
            kind = int(record["kind"])
            if kind == Kind.TASK:
                self._comms[int(record["tgid"])] = comms([record])[0]  # type: ignore[arg-type]
            if (self._kinds and kind not in self._kinds) or (not self._kinds and kind in _QUIET_KINDS):
                continue
            event = describe(record, self._comms.get(int(record["tgid"]), ""))
            self._out.write((json.dumps(event) if self._as_json else _line(event)) + "\n")
        self._out.flush()


def describe(record: Any, comm: str) -> dict[str, Any]:
    """A record as a dictionary of what it says; fields that its kind does not use are left out."""
    kind = int(record["kind"])
    event: dict[str, Any] = {
        "time_ns": int(record["time_ns"]),
        "event": Kind(kind).name.lower() if kind in Kind._value2member_map_ else f"kind_{kind}",
        "comm": comm,
        "tgid": int(record["tgid"]),
    }
    if kind == Kind.TASK:
        return event
    event["tid"] = int(record["tid"])
    if kind not in (Kind.REQUEST, Kind.SHRINK) or int(record["flags"]) & Flag.BY_CALLER:
        event["pfn"] = int(record["pfn"])
    event["nr_pages"] = int(record["nr_pages"])
    event |= {name: says(int(record[field])) for name, field, says, kinds in _FIELDS if kind in kinds}
    if not int(record["before"]):
        event.pop("before", None)  # it was not read: recordings have had it of set_direct_map_*() too
    if int(record["duration_ns"]):
        event["duration_ns"] = int(record["duration_ns"])
    if flags := int(record["flags"]):
        event["flags"] = [flag.name.lower() for flag in Flag if flags & flag and flag.name]
    return event


def mapping_label(mapping: int) -> str:
    """``2m``, ``4k absent``, ``none``."""
    label = Level(mapping & LEVEL_MASK).label
    if mapping & Mapping.ABSENT:
        return f"{label} absent"
    return f"{label} mixed" if mapping & Mapping.MIXED else label


def _line(event: dict[str, Any]) -> str:
    seconds, rest = divmod(event["time_ns"], 1_000_000_000)
    head = f"{seconds:6d}.{rest // 1000:06d} {plain(event['comm']) or '?':<15s} {event['tgid']:>7d} {event['event']:<14s}"
    skip = ("time_ns", "event", "comm", "tgid", "tid", "flags", "before", "after")
    words = [f"{name}={value}" for name, value in event.items() if name not in skip]
    if "before" in event:
        words.append(f"{event['before']} -> {event['after']}")
    elif "after" in event:
        words.append(f"now {event['after']}")
    words.extend(event.get("flags", []))
    return f"{head} {' '.join(words)}"


def _gfp(aux: int) -> str:
    return f"{aux & 0xFFFFFFFF:#x}"


_BLOCKS: Final = frozenset({Kind.REFILL, Kind.REFILLED, Kind.ALLOC, Kind.FREE, Kind.RELEASE, Kind.REFILL_UNDONE})
_FIELDS: Final[tuple[tuple[str, str, Callable[[int], Any], frozenset[Kind]], ...]] = (
    ("order", "order", int, _BLOCKS | {Kind.REQUEST}),
    ("before", "before", mapping_label, frozenset({Kind.SPLIT, Kind.SET_DIRECT_MAP})),
    ("after", "after", mapping_label, frozenset({Kind.SPLIT, Kind.SET_DIRECT_MAP, Kind.CPA, Kind.ALLOC, Kind.REFILLED, Kind.RELEASE})),
    ("nr_present", "nr_present", int, frozenset({Kind.ALLOC, Kind.REFILLED, Kind.FREE, Kind.RELEASE})),
    ("ret", "aux", int, frozenset({Kind.SET_DIRECT_MAP, Kind.CPA})),
    ("gfp", "aux", _gfp, frozenset({Kind.REQUEST, Kind.ALLOC})),
    ("asked", "aux", int, frozenset({Kind.SHRINK})),
)
"""(name, field of the record, how it is said, kinds that have it), in the order in which they are printed."""
