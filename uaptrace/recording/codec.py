# SPDX-License-Identifier: Apache-2.0
"""Updates other than records as a JSON text and the bytes of their arrays, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import MAX_REGIONS, PAGES_PER_2M, Level
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.tlb import MAX_TLB_ENTRIES, MAX_TLB_LEVEL, MAX_TLB_PARTS, TlbPart
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Start, Symbols, Update, blocks_fit
from uaptrace.recording import schema
from uaptrace.recording.checks import (
    MAX_ADDRESS,
    MAX_BUDDYINFO,
    MAX_BYTES,
    MAX_COUNT,
    MAX_CPUS,
    MAX_HOOKS,
    MAX_NAMES,
    MAX_PAGEBLOCKS,
    MAX_PAGING_LEVELS,
    MAX_PATH,
    MAX_PFN,
    MAX_SELF,
    MAX_SYMBOL,
    MAX_TGID,
    MAX_WALL_S,
    BadValueError,
    Data,
    Said,
    array,
    check_blocks,
    check_buddyinfo,
    check_levels,
    check_pages,
    check_words,
    parse_json,
)

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
                    "host": asdict(update.host) | {"tlb": [_tlb_part_out(part) for part in update.host.tlb]},
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


def decode(code: int, text: str, data: Data) -> Update:
    """The update of a row. BadValueError where the row does not say what its kind promises."""
    what = schema.UPDATE_NAMES[code]
    return _DECODERS[code](Said(what, parse_json(text, what)), data)


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


def _pack_pages(pages: NDArray[np.uint8]) -> tuple[bytes, int]:
    """Three states take two bits: a layout that is split throughout stays 1/4 of its size before compression even starts."""
    flat = np.ascontiguousarray(pages, np.uint8).reshape(-1, 4)
    if flat.size == 0 or flat.max() > 3:
        return flat.tobytes(), 8
    packed = flat[:, 0] | (flat[:, 1] << 2)
    packed |= flat[:, 2] << 4
    packed |= flat[:, 3] << 6
    return packed.tobytes(), 2


def _unpack_pages(what: str, raw: Data, offset: int, nr_regions: int, bits: int) -> NDArray[np.uint8]:
    nr_pages = nr_regions * PAGES_PER_2M
    if bits == 8:
        pages: NDArray[np.uint8] = array(what, raw, np.uint8, nr_pages, offset).copy()
    elif bits == 2:
        packed = array(what, raw, np.uint8, nr_pages // 4, offset)
        pages = np.empty((len(packed), 4), np.uint8)
        for i in range(4):
            np.bitwise_and(packed >> (2 * i), 3, out=pages[:, i])
    else:
        raise BadValueError(f"{what}: {bits} bits per page, not 2 or 8")
    check_pages(what, pages)
    return pages.reshape(nr_regions, PAGES_PER_2M)


def _start(said: Said, data: Data) -> Start:
    """Keys that a later version added are left out; of those that an earlier one lacked, the default holds."""
    return Start(
        host=_host(said.part("host")),
        hooks=tuple(_hook(said, hook) for hook in said.each("hooks", MAX_HOOKS)),
        time_ns=said.integer("time_ns"),
        wall_time_s=said.real("wall_time_s", MAX_WALL_S),
        self_tgids=frozenset(said.integers("self_tgids", MAX_SELF, MAX_TGID)),
        splits_during_attach=MappingProxyType(said.by_level("splits_during_attach") or {}),
        ring_bytes=said.integer("ring_bytes", MAX_BYTES),
        counts_entries=said.flag("counts_entries", default=False),
    )


def _host(said: Said) -> HostInfo:
    return HostInfo(
        hostname=said.text("hostname", default=""),
        kernel_release=said.text("kernel_release", default=""),
        boot_id=said.text("boot_id", default=""),
        nr_cpus=said.integer("nr_cpus", MAX_CPUS, default=0),
        memory_bytes=said.optional_integer("memory_bytes", MAX_BYTES, default=None),
        paging_levels=said.optional_integer("paging_levels", MAX_PAGING_LEVELS, default=None),
        has_series=said.flag("has_series", default=False),
        kfence=said.flag("kfence", default=False),
        buddyinfo=check_buddyinfo(said.what, said.text("buddyinfo", MAX_BUDDYINFO, default="")),
        tlb=tuple(_tlb_part(said, value) for value in said.each("tlb", MAX_TLB_PARTS, default=[])),
    )


def _tlb_part_out(part: TlbPart) -> dict[str, Any]:
    return {"level": part.level, "nr_entries": part.nr_entries, "sizes": [size.label for size in part.sizes]}


def _tlb_part(host: Said, value: object) -> TlbPart:
    if not isinstance(value, dict):
        raise host.bad("tlb", value, "a list of objects")
    said = Said(f"{host.what}: tlb", value)
    return TlbPart(said.integer("level", MAX_TLB_LEVEL, 1), said.integer("nr_entries", MAX_TLB_ENTRIES), said.levels("sizes"))


def _hook(start: Said, value: object) -> HookStatus:
    """Older recordings do not say what was not needed, only why it was not attached: these were the loader's sentences."""
    if not isinstance(value, dict):
        raise start.bad("hooks", value, "a list of objects")
    said = Said(f"{start.what}: a hook", value)
    reason = said.text("reason", default="")
    return HookStatus(
        name=said.text("name"),
        symbol=said.optional_text("symbol"),
        mechanism=said.optional_text("mechanism"),
        reason=reason,
        needed=said.flag("needed", default=not reason.startswith(_NOT_NEEDED)),
        refused=said.flag("refused", default=False),
    )


_NOT_NEEDED: Final = (
    "the series is not in this kernel",
    "only with --page-alloc-hook",
    "set_direct_map_valid_noflush() is not in this kernel",
)


def _map_reading(said: Said, data: Data) -> MapReading:
    nr_regions, nr_split = said.integer("nr_regions", MAX_REGIONS), said.integer("nr_split_regions", MAX_REGIONS)
    first, complete = said.integer("first_region", MAX_REGIONS), said.flag("complete")
    levels = array(said.what, data, np.uint8, nr_regions).copy()
    split = array(said.what, data, "<i8", nr_split, nr_regions).astype(np.int64)
    check_levels(said.what, first, levels, split, complete=complete)
    return MapReading(
        begin_ns=said.integer("begin_ns"),
        end_ns=said.integer("end_ns"),
        first_region=first,
        levels=levels,
        split_regions=split,
        pages=_unpack_pages(said.what, data, nr_regions + 8 * nr_split, nr_split, said.integer("bits_per_page", 8)),
        complete=complete,
        unreadable=tuple(said.integers("unreadable", MAX_REGIONS, MAX_REGIONS - 1, default=[])),
    )


def _cache_reading(said: Said, data: Data) -> CacheReading:
    nr_blocks = said.integer("nr_blocks", MAX_PFN)
    pfns = array(said.what, data, "<i8", nr_blocks).astype(np.int64)
    orders = array(said.what, data, np.uint8, nr_blocks, 8 * nr_blocks).copy()
    atomic = said.flag("atomic")
    if atomic:
        # What is read while blocks move is of several moments, and nothing is concluded from it.
        check_blocks(said.what, pfns, orders)
        # A recorder wrote such readings as of one moment, before it looked at this.
        atomic = blocks_fit(pfns, orders)
    return CacheReading(
        begin_ns=said.integer("begin_ns"),
        end_ns=said.integer("end_ns"),
        pfns=pfns,
        orders=orders,
        rows_free=said.row("rows_free"),
        rows_cached=said.row("rows_cached"),
        rows_released=said.row("rows_released"),
        atomic=atomic,
    )


def _counters_reading(said: Said, data: Data) -> CountersReading:
    words = array(said.what, data, "<u8", len(data) // 8).astype(np.uint64)
    check_words(said.what, words)
    bits = said.part("pageblock_bits")
    return CountersReading(
        time_ns=said.integer("time_ns"),
        words=words,
        missed_runs=said.optional_integer("missed_runs", MAX_COUNT),
        splits_total=_levels_in(said, "splits_total"),
        collapses_total=_levels_in(said, "collapses_total"),
        direct_map_bytes=_levels_in(said, "direct_map_bytes"),
        rows_free=said.row("rows_free"),
        rows_cached=said.row("rows_cached"),
        rows_released=said.row("rows_released"),
        quiet=said.flag("quiet"),
        pageblock_bits=MappingProxyType({n: bits.flag(key) for n, key in bits.numbered(MAX_REGIONS - 1, limit=MAX_PAGEBLOCKS)}),
        # Recordings from before uaptrace listened for silence have neither.
        hooks_off=MappingProxyType(off.texts() if (off := said.optional_part("hooks_off")) else {}),
        unseen_pages=said.integer("unseen_pages", MAX_COUNT, default=0),
    )


def _levels_in(said: Said, name: str) -> MappingProxyType[Level, int] | None:
    found = said.by_level(name)
    return None if found is None else MappingProxyType(found)


def _symbols(said: Said, data: Data) -> Symbols:
    numbered = said.numbered(MAX_ADDRESS, 16, limit=MAX_NAMES)
    return Symbols(MappingProxyType({address: said.text(key, MAX_SYMBOL) for address, key in numbered}))


def _cgroups(said: Said, data: Data) -> Cgroups:
    numbered = said.numbered(MAX_ADDRESS, limit=MAX_NAMES)
    return Cgroups(MappingProxyType({id_: said.text(key, MAX_PATH) for id_, key in numbered}))


_DECODERS: Final[Mapping[int, Callable[[Said, Data], Update]]] = MappingProxyType(
    {
        schema.CODE_START: _start,
        schema.CODE_MAP_READING: _map_reading,
        schema.CODE_CACHE_READING: _cache_reading,
        schema.CODE_COUNTERS_READING: _counters_reading,
        schema.CODE_SYMBOLS: _symbols,
        schema.CODE_CGROUPS: _cgroups,
    }
)
