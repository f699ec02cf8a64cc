# SPDX-License-Identifier: Apache-2.0
"""Small recordings out of those in tests/data, with values and bytes that no kernel would write. The same seed, the same file."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from uaptrace.recording import schema

DATA: Final = Path(__file__).parents[1] / "data"
BASES: Final = ("patched-6.1.uaptrace", "debian-6.1.uaptrace", "format-v1.rec", "hostile/*.rec")
WINDOW_ROWS: Final = 20
WINDOWS_PER_BASE: Final = 24
MAX_REGIONS: Final = 16
"""Of most of the maps: a what-if then takes less than a millisecond."""
UPDATES: Final = frozenset(schema.UPDATE_NAMES.values())
NAMES: Final = schema.kind_names()
NUMBERS: Final = (0, 1, 2, 3, 7, 10, 11, 12, 63, 64, 127, 255, 511, 512, 513, 1023, 1024, 1025, 32767, 65536, 262143, 262144)
"""Orders, levels, sizes of entries and blocks, and what is next to them."""
EDGES: Final = tuple(
    sign * (1 << bits) + more for bits in (8, 16, 20, 26, 31, 32, 35, 40, 56, 62, 63, 64) for more in (-1, 0, 1) for sign in (1, -1)
)
WORDS: Final = (
    *("", "x", "2m", "1g", "4k", "none", "\x1b[31m", "\n", "\ud800", "\u202e", "-1", "0x10"),
    *("a" * 600, "optimise" * 60, "kprobe" * 90, "b" * 9000),
)
ODD: Final[tuple[Any, ...]] = (None, True, False, -1, 0.5, float("nan"), float("inf"), 1e308, [], {}, [[1]], {"a": {}})

Row = dict[str, Any]


class Bases:
    """Windows of rows of the recordings: each begins with a start and has a reading of the map."""

    def __init__(self) -> None:
        rng = random.Random(0)
        self.windows: list[list[Row]] = []
        for pattern in BASES:
            paths = sorted(DATA.glob(pattern))
            assert paths, pattern
            for path in paths:
                rows = [
                    row if row["kind"] in NAMES else {**row, "kind": -1}
                    for batch in pa.ipc.open_stream(str(path))
                    for row in batch.slice(0, 5000).to_pylist()
                ]
                self.windows += _windows(rows, rng, 1 if path.parent.name == "hostile" else WINDOWS_PER_BASE)


def _windows(rows: list[Row], rng: random.Random, number: int) -> Iterable[list[Row]]:
    first: dict[str, Row] = {}
    for row in rows:
        if row["kind"] in UPDATES:
            first.setdefault(row["kind"], _small(row))
    told = [first[kind] for kind in schema.UPDATE_NAMES.values() if kind in first]
    records = [row for row in rows if row["kind"] not in UPDATES]
    interesting = sorted({row["kind"]: i for i, row in enumerate(records)}.values())
    for i in range(number):
        at = rng.choice(interesting) if interesting and i % 2 else rng.randrange(max(1, len(records) - WINDOW_ROWS))
        window = [*told, *(dict(row) for row in records[max(0, at - WINDOW_ROWS // 2) : at + WINDOW_ROWS // 2])]
        yield window + ([first["counters_reading"]] if "counters_reading" in first else [])


def _small(row: Row) -> Row:
    """A reading of the map with fewer regions."""
    if row["kind"] != "map_reading" or row["text"] is None:
        return row
    said, data = json.loads(row["text"]), row["data"]
    nr, nr_split = said["nr_regions"], said["nr_split_regions"]
    if type(nr) is not int or nr <= MAX_REGIONS or 3 in data[:nr]:
        return row
    split = np.frombuffer(data, "<i8", nr_split, nr).tolist()
    kept = [region for region in split if 0 <= region < MAX_REGIONS]
    each = (len(data) - nr - 8 * nr_split) // max(nr_split, 1)
    pages = data[nr + 8 * nr_split :][: each * len(kept)]
    said.update(nr_regions=MAX_REGIONS, nr_split_regions=len(kept))
    return {**row, "text": json.dumps(said), "data": data[:MAX_REGIONS] + np.array(kept, "<i8").tobytes() + pages}


def mutated(bases: Bases, seed: int) -> bytes:
    """The recording of a seed."""
    rng = random.Random(seed)
    rows = [dict(row) for row in rng.choice(bases.windows)]
    how = rng.random()
    if how < 0.85:
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            _change_rows(rng, rows)
    raw = written(rows, rng)
    return _change_bytes(rng, raw) if how > 0.8 else raw


def _change_rows(rng: random.Random, rows: list[Row]) -> None:
    at = rng.randrange(len(rows))
    row = rows[at]
    what = rng.random()
    if what < 0.04 and len(rows) > 1:
        del rows[at]
    elif what < 0.08:
        rows.insert(rng.randrange(len(rows) + 1), dict(row))
    elif what < 0.12:
        other = rng.randrange(len(rows))
        rows[at], rows[other] = rows[other], rows[at]
    elif row["kind"] in UPDATES and what < 0.8:
        if row["data"] and rng.random() < 0.4:
            row["data"] = _changed_data(rng, row["data"])
        else:
            row["text"] = _changed_json(rng, row["text"])
    elif row["kind"] in ("task", "stack") and what < 0.4:
        row["data"] = _changed_data(rng, row["data"] or b"")
    else:
        _change_number(rng, rows, row)


def _change_number(rng: random.Random, rows: list[Row], row: Row) -> None:
    name = rng.choice(("kind", *(column.name for column in schema.COLUMNS)))
    if name == "kind":
        row["kind"] = rng.choice((rng.randrange(15), rng.randrange(-2, len(NAMES) + 2)))
    elif rng.random() < 0.3:
        row[name] = rng.choice(rows)[name]
    else:
        row[name] = rng.choice((rng.choice(NUMBERS), rng.choice(EDGES), row[name] + rng.choice((-1, 1)), rng.getrandbits(64)))


def _changed_data(rng: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        what = rng.random()
        at = rng.randrange(len(raw) + 1)
        if what < 0.15:
            del raw[at:]
        elif what < 0.25:
            raw += rng.randbytes(rng.choice((1, 8, 9, 512)))
        elif what < 0.6:
            raw[at : at + 8] = struct.pack("<q", _edge(rng, 63))
        elif what < 0.7:
            raw[at : at + 64] = bytes([rng.choice((0, 1, 2, 3, 0x82, 0x83, 255))]) * len(raw[at : at + 64])
        else:
            raw[at : at + 1] = bytes([rng.choice((0, 1, 2, 3, 4, 9, 10, 11, 30, 0x82, 0x83, rng.randrange(256)))])
    return bytes(raw)


def _edge(rng: random.Random, bits: int) -> int:
    value: int = rng.choice((rng.choice(NUMBERS), rng.choice(EDGES), rng.getrandbits(bits)))
    return max(-(1 << bits), min(value, (1 << bits) - 1))


def _changed_json(rng: random.Random, text: str | None) -> str:
    if text is None or rng.random() < 0.05:
        return rng.choice(("", "null", "[]", "{", "[" * 3000, '{"a":' * 3000, "1e999", "NaN", "9" * 5000, '{"host":1}'))
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(rng.choice((1, 1, 2))):
        said = _changed_value(rng, said)
    return json.dumps(said)


def _changed_value(rng: random.Random, value: Any) -> Any:
    """One thing somewhere in it is something else."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.06:
            return {(rng.choice(WORDS) if k == key else k): v for k, v in value.items()}
        return {k: _changed_value(rng, v) if k == key else v for k, v in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed_value(rng, value[at]), *value[at + 1 :]]
    return rng.choice((*ODD, rng.choice(WORDS), rng.choice(NUMBERS), rng.choice(EDGES)))


def written(rows: list[Row], rng: random.Random) -> bytes:
    """The rows as a recording, compressed or not."""
    sink = pa.BufferOutputStream()
    metadata = {schema.KEY_VERSION: b"1", schema.KEY_WRITER: b"fuzz", schema.KEY_ID: b"id", schema.KEY_PART: b"0"}
    kinds = np.array([row["kind"] if isinstance(row["kind"], int) else NAMES.index(row["kind"]) for row in rows], np.int16)
    arrays = [pa.DictionaryArray.from_arrays(pa.Array.from_buffers(pa.int16(), len(rows), [None, pa.py_buffer(kinds)]), _NAMES, safe=False)]
    for column in schema.COLUMNS:
        dtype = np.dtype(column.dtype)
        mask = (1 << (8 * dtype.itemsize)) - 1
        packed = b"".join([((row[column.name] or 0) & mask).to_bytes(dtype.itemsize, "little") for row in rows])
        arrays.append(pa.Array.from_buffers(pa.from_numpy_dtype(dtype), len(rows), [None, pa.py_buffer(packed)]))
    texts = [None if row["text"] is None else row["text"].encode(errors="surrogatepass") for row in rows]
    arrays.append(pa.array(texts, pa.binary()).view(pa.utf8()))
    arrays.append(pa.array([row["data"] for row in rows], pa.binary()))
    told = schema.arrow_schema(metadata)
    with pa.ipc.new_stream(sink, told, options=_COMPRESSED if rng.random() < 0.3 else _PLAIN) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=told))
    raw: bytes = sink.getvalue().to_pybytes()
    return raw


_NAMES: Final = pa.array(NAMES)
_PLAIN: Final = pa.ipc.IpcWriteOptions()
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1), use_threads=False)


def _change_bytes(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # The schema's message comes first, and is long: what follows it is more often worth a change.
        at = rng.randrange(len(changed)) if rng.random() < 0.3 else rng.randrange(len(changed) // 2, len(changed))
        what = rng.random()
        if what < 0.5:
            changed[at] ^= 1 << rng.randrange(8)
        elif what < 0.7:
            changed[at] = rng.randrange(256)
        elif what < 0.85:
            changed[at : at + 8] = struct.pack("<q", _edge(rng, 63))
        elif what < 0.95:
            del changed[at:]
        else:
            changed[at:at] = rng.randbytes(rng.choice((1, 8, 64)))
        if not changed:
            return b""
    return bytes(changed)
