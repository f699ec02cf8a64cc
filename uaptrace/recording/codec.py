# SPDX-License-Identifier: Apache-2.0
"""Updates other than records as a JSON text and the bytes of their arrays, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Start, Symbols, Update
from uaptrace.recording import schema
from uaptrace.units import PAGES_PER_2M, Level

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncodedUpdate:
    """One row of a recording that is not a record. ``time_ns`` is None for updates that have no time of their own."""

    code: int
    time_ns: int | None
    text: str
    data: bytes


def encode(update: Update) -> EncodedUpdate:
    """The row of an update; Records are not encoded here (they are columns)."""
    match update:
        case Start():
            return _encoded(
                schema.CODE_START,
                update.time_ns,
                {
                    "host": asdict(update.host),
                    "hooks": [asdict(hook) for hook in update.hooks],
                    "time_ns": update.time_ns,
                    "wall_time_s": update.wall_time_s,
                    "self_tgids": sorted(update.self_tgids),
                    "splits_during_attach": _levels_out(update.splits_during_attach),
                    "ring_bytes": update.ring_bytes,
                    "counts_entries": update.counts_entries,
                },
            )
        case MapReading():
            packed, bits = _pack_pages(update.pages)
            return _encoded(
                schema.CODE_MAP_READING,
                update.end_ns,
                {
                    "begin_ns": update.begin_ns,
                    "end_ns": update.end_ns,
                    "first_region": update.first_region,
                    "complete": update.complete,
                    "nr_regions": len(update.levels),
                    "nr_split_regions": len(update.split_regions),
                    "bits_per_page": bits,
                    "unreadable": list(update.unreadable),
                },
                update.levels.astype("<u1", copy=False).tobytes() + update.split_regions.astype("<i8", copy=False).tobytes() + packed,
            )
        case CacheReading():
            return _encoded(
                schema.CODE_CACHE_READING,
                update.end_ns,
                {
                    "begin_ns": update.begin_ns,
                    "end_ns": update.end_ns,
                    "nr_blocks": len(update.pfns),
                    "rows_free": update.rows_free,
                    "rows_cached": update.rows_cached,
                    "rows_released": update.rows_released,
                    "atomic": update.atomic,
                },
                update.pfns.astype("<i8", copy=False).tobytes() + update.orders.astype("<u1", copy=False).tobytes(),
            )
        case CountersReading():
            return _encoded(
                schema.CODE_COUNTERS_READING,
                update.time_ns,
                {
                    "time_ns": update.time_ns,
                    "missed_runs": update.missed_runs,
                    "splits_total": _optional(update.splits_total, _levels_out),
                    "collapses_total": _optional(update.collapses_total, _levels_out),
                    "direct_map_bytes": _optional(update.direct_map_bytes, _levels_out),
                    "rows_free": update.rows_free,
                    "rows_cached": update.rows_cached,
                    "rows_released": update.rows_released,
                    "quiet": update.quiet,
                    "pageblock_bits": {str(region): bit for region, bit in update.pageblock_bits.items()},
                    "hooks_off": dict(update.hooks_off),
                    "unseen_pages": update.unseen_pages,
                },
                update.words.astype("<u8", copy=False).tobytes(),
            )
        case Symbols():
            return _encoded(schema.CODE_SYMBOLS, None, {f"{address:#x}": name for address, name in update.names.items()})
        case Cgroups():
            return _encoded(schema.CODE_CGROUPS, None, {str(id_): path for id_, path in update.paths.items()})
        case _:
            raise TypeError(f"{type(update).__name__} is not encoded as one row")


def decode(code: int, text: str, data: bytes) -> Update:
    """The update of a row. ValueError or KeyError where the row does not say what its kind promises."""
    return _DECODERS[code](json.loads(text), data)


def _encoded(code: int, time_ns: int | None, said: Mapping[str, object], data: bytes = b"") -> EncodedUpdate:
    return EncodedUpdate(code, time_ns, json.dumps(said, separators=(",", ":"), default=_plain), data)


def _plain(value: Any) -> object:
    """numpy's numbers, which readers of the kernel's memory may well leave in a field."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _optional(value: T | None, function: Callable[[T], object]) -> object:
    return None if value is None else function(value)


def _levels_out(by_level: Mapping[Level, int]) -> dict[str, int]:
    return {Level(level).label: int(number) for level, number in by_level.items()}


_LEVEL_BY_LABEL: Final = {level.label: level for level in Level}


def _levels_in(said: Mapping[str, int] | None) -> MappingProxyType[Level, int] | None:
    if said is None:
        return None
    return MappingProxyType({_LEVEL_BY_LABEL[label]: int(number) for label, number in said.items()})


def _row_in(said: list[int] | None) -> tuple[int, ...] | None:
    return None if said is None else tuple(said)


def _pack_pages(pages: NDArray[np.uint8]) -> tuple[bytes, int]:
    """Three states take two bits: a layout that is split throughout stays 1/4 of its size before compression even starts."""
    flat = np.ascontiguousarray(pages, np.uint8).reshape(-1, 4)
    if flat.size == 0 or flat.max() > 3:
        return flat.tobytes(), 8
    packed = flat[:, 0] | (flat[:, 1] << 2)
    packed |= flat[:, 2] << 4
    packed |= flat[:, 3] << 6
    return packed.tobytes(), 2


def _unpack_pages(raw: bytes, offset: int, nr_regions: int, bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return np.frombuffer(raw, np.uint8, nr_regions * PAGES_PER_2M, offset).reshape(nr_regions, PAGES_PER_2M).copy()
    if bits != 2:
        raise ValueError(f"{bits} bits per page")
    packed = np.frombuffer(raw, np.uint8, nr_regions * PAGES_PER_2M // 4, offset)
    pages = np.empty((len(packed), 4), np.uint8)
    for i in range(4):
        np.bitwise_and(packed >> (2 * i), 3, out=pages[:, i])
    return pages.reshape(nr_regions, PAGES_PER_2M)


def _known(cls: type[T], said: Mapping[str, Any]) -> T:
    """A dataclass out of JSON: fields that a later version added are left out, missing ones keep their default."""
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in said.items() if name in names})


def _start(said: Any, data: bytes) -> Start:
    return Start(
        host=_known(HostInfo, said["host"]),
        hooks=tuple(_hook(hook) for hook in said["hooks"]),
        time_ns=said["time_ns"],
        wall_time_s=said["wall_time_s"],
        self_tgids=frozenset(said["self_tgids"]),
        splits_during_attach=_levels_in(said["splits_during_attach"]) or MappingProxyType({}),
        ring_bytes=said["ring_bytes"],
        counts_entries=bool(said.get("counts_entries", False)),
    )


def _hook(said: Mapping[str, Any]) -> HookStatus:
    """Older recordings do not say what was not needed, only why it was not attached: these were the loader's sentences."""
    if "needed" not in said and str(said.get("reason", "")).startswith(_NOT_NEEDED):
        said = {**said, "needed": False}
    return _known(HookStatus, said)


_NOT_NEEDED: Final = (
    "the series is not in this kernel",
    "only with --page-alloc-hook",
    "set_direct_map_valid_noflush() is not in this kernel",
)


def _map_reading(said: Any, data: bytes) -> MapReading:
    nr_regions, nr_split = int(said["nr_regions"]), int(said["nr_split_regions"])
    return MapReading(
        begin_ns=said["begin_ns"],
        end_ns=said["end_ns"],
        first_region=said["first_region"],
        levels=np.frombuffer(data, np.uint8, nr_regions).copy(),
        split_regions=np.frombuffer(data, "<i8", nr_split, nr_regions).astype(np.int64),
        pages=_unpack_pages(data, nr_regions + 8 * nr_split, nr_split, said["bits_per_page"]),
        complete=said["complete"],
        unreadable=tuple(int(region) for region in said.get("unreadable", ())),
    )


def _cache_reading(said: Any, data: bytes) -> CacheReading:
    nr_blocks = int(said["nr_blocks"])
    return CacheReading(
        begin_ns=said["begin_ns"],
        end_ns=said["end_ns"],
        pfns=np.frombuffer(data, "<i8", nr_blocks).astype(np.int64),
        orders=np.frombuffer(data, np.uint8, nr_blocks, 8 * nr_blocks).copy(),
        rows_free=_row_in(said["rows_free"]),
        rows_cached=_row_in(said["rows_cached"]),
        rows_released=_row_in(said["rows_released"]),
        atomic=said["atomic"],
    )


def _counters_reading(said: Any, data: bytes) -> CountersReading:
    return CountersReading(
        time_ns=said["time_ns"],
        words=np.frombuffer(data, "<u8").astype(np.uint64),
        missed_runs=said["missed_runs"],
        splits_total=_levels_in(said["splits_total"]),
        collapses_total=_levels_in(said["collapses_total"]),
        direct_map_bytes=_levels_in(said["direct_map_bytes"]),
        rows_free=_row_in(said["rows_free"]),
        rows_cached=_row_in(said["rows_cached"]),
        rows_released=_row_in(said["rows_released"]),
        quiet=said["quiet"],
        pageblock_bits=MappingProxyType({int(region): bool(bit) for region, bit in said["pageblock_bits"].items()}),
        # Recordings from before uaptrace listened for silence have neither.
        hooks_off=MappingProxyType({str(name): str(what) for name, what in said.get("hooks_off", {}).items()}),
        unseen_pages=int(said.get("unseen_pages", 0)),
    )


def _symbols(said: Any, data: bytes) -> Symbols:
    return Symbols(MappingProxyType({int(address, 16): name for address, name in said.items()}))


def _cgroups(said: Any, data: bytes) -> Cgroups:
    return Cgroups(MappingProxyType({int(id_): path for id_, path in said.items()}))


_DECODERS: Final[Mapping[int, Callable[[Any, bytes], Update]]] = MappingProxyType(
    {
        schema.CODE_START: _start,
        schema.CODE_MAP_READING: _map_reading,
        schema.CODE_CACHE_READING: _cache_reading,
        schema.CODE_COUNTERS_READING: _counters_reading,
        schema.CODE_SYMBOLS: _symbols,
        schema.CODE_CGROUPS: _cgroups,
    }
)
