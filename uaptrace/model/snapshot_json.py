# SPDX-License-Identifier: Apache-2.0
"""A Snapshot as JSON and back, with nothing lost: what ``/snapshot`` sends and ``uaptrace top --connect`` reads.

The form follows the dataclasses field by field, so a new field needs nothing here:

    dataclass         object by field name
    Level             "none", "4k", "2m", "1g"; other enumerations: their value
    tuple             list
    mapping           object; a key that is a pair is "first/second"
    array             {"dtype": "u2", "length": n, "zlib": base64 of the compressed little-endian bytes}

The outermost object has ``schema`` beside the fields. A decoder ignores fields it does not know and uses the
default of those that are missing, so a newer and an older uaptrace understand each other while ``schema`` is the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import types
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import UaptraceError
from uaptrace.abi.units import Level
from uaptrace.model.snapshot import RegionTable, Snapshot

SCHEMA: Final = 1
MAX_ARRAY_BYTES: Final = 1 << 25
"""No array of a snapshot is larger: 2 bytes for each 2M region of 32 TiB."""
MAX_VALUES: Final = 1 << 20
"""No snapshot has more values; Python makes of each byte of a list of empty lists some thirty bytes."""
_INTEGERS: Final = range(-(1 << 63), 1 << 64)
"""What the kernel and the model count in."""
_MAX_SECONDS: Final = 2.5e11
"""Every float is a time in seconds; Python's calendar ends here."""

_LEVELS: Final = {level.label: level for level in Level}


class SnapshotFormatError(UaptraceError):
    """What was received is not a snapshot of this schema."""


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot as one JSON document (ASCII, so that a name with broken UTF-8 passes too)."""
    document = {"schema": SCHEMA, **_encode(snapshot)}
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot that encode_snapshot() was given. Raises SnapshotFormatError."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise SnapshotFormatError(f"not a snapshot: more than {MAX_VALUES} values")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SnapshotFormatError(f"not a snapshot: {error}") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise SnapshotFormatError("not a snapshot of uaptrace: is something else listening there?")
    if document["schema"] != SCHEMA:
        raise SnapshotFormatError(
            f"snapshot of schema {document['schema']!r:.40}, not {SCHEMA}: use the same version of uaptrace on both sides"
        )
    try:
        snapshot = _decoder(Snapshot)(document)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, binascii.Error, zlib.error) as error:
        raise SnapshotFormatError(f"damaged snapshot: {type(error).__name__}: {error!s:.200}") from None
    assert isinstance(snapshot, Snapshot)
    if snapshot.regions is not None:
        _check_regions(snapshot.regions)
    return snapshot


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return _encode_enum(value)
    if isinstance(value, Mapping):
        return {_encode_key(k): _encode(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return {
            "dtype": value.dtype.str[1:],
            "length": len(value),
            "zlib": base64.b64encode(zlib.compress(data.tobytes(), 1)).decode(),
        }
    if isinstance(value, np.generic):
        # The model may leave a numpy scalar in a field that is declared as a plain number.
        return value.item()
    return value


def _encode_enum(value: Enum) -> Any:
    return value.label if isinstance(value, Level) else value.value


def _encode_key(key: Any) -> str:
    if isinstance(key, tuple):
        return "/".join(_encode_key(part) for part in key)
    return str(_encode_enum(key)) if isinstance(key, Enum) else str(key)


@cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    """A function from a JSON value to ``kind``, which is a type as written in snapshot.py."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is not None:
        return _compound_decoder(origin, args)
    if is_dataclass(kind):
        return _dataclass_decoder(kind)
    if kind is Level:
        return lambda value: _LEVELS[value]
    if issubclass(kind, Enum):
        return kind  # type: ignore[no-any-return]
    if kind is float:
        return _decode_seconds
    if kind is int:
        return _decode_integer
    assert kind in (bool, str), f"no JSON form for {kind}"
    return lambda value: _expect(value, kind)


def _compound_decoder(origin: Any, args: tuple[Any, ...]) -> Callable[[Any], Any]:
    """That of a type with arguments: an optional one, a tuple, an array, a mapping."""
    if origin in (Union, types.UnionType):
        (inner,) = [_decoder(arg) for arg in args if arg is not type(None)]
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        assert args[1:] == (Ellipsis,), "only tuples of one type are in a snapshot"
        item = _decoder(args[0])
        return lambda value: tuple(item(v) for v in _expect(value, list))
    if origin in (NDArray, np.ndarray):  # the second before numpy 2.5, which has NDArray as an alias of its own
        dtype = np.dtype(args[0] if origin is NDArray else get_args(args[1])[0])
        return lambda value: _decode_array(value, dtype)
    assert issubclass(origin, Mapping), f"no JSON form for {origin}"
    key, item = _key_decoder(args[0]), _decoder(args[1])
    return lambda value: MappingProxyType({key(k): item(v) for k, v in _expect(value, dict).items()})


def _key_decoder(kind: Any) -> Callable[[str], Any]:
    if get_origin(kind) is tuple:
        parts = [_key_decoder(part) for part in get_args(kind)]
        return lambda text: tuple(part(piece) for part, piece in zip(parts, text.split("/", len(parts) - 1), strict=True))
    return int if kind is int else _decoder(kind)


def _dataclass_decoder(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    decoders = [(f.name, _decoder(hints[f.name]), f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)]

    def decode(value: Any) -> Any:
        _expect(value, dict)
        found = {name: decoder(value[name]) for name, decoder, required in decoders if required or name in value}
        return kind(**found)

    return decode


def _decode_integer(value: Any) -> int:
    if _expect(value, int) not in _INTEGERS:
        raise ValueError("an integer that is out of range")
    return int(value)


def _decode_seconds(value: Any) -> float:
    if not abs(_expect(value, (int, float))) <= _MAX_SECONDS:  # Not a number is neither.
        raise ValueError("a time that is out of range")
    return float(value)


def _check_regions(regions: RegionTable) -> None:
    if len({len(getattr(regions, f.name)) for f in fields(regions)}) != 1:
        raise SnapshotFormatError("damaged snapshot: columns of its regions differ in length")
    if len(regions.level) and int(regions.level.max()) > max(Level):
        raise SnapshotFormatError("damaged snapshot: its regions have an invalid level")


def _decode_array(value: Any, dtype: np.dtype[Any]) -> Any:
    _expect(value, dict)
    if value["dtype"] != dtype.str[1:]:
        raise ValueError(f"array of {value['dtype']}, not of {dtype.str[1:]}")
    size = _expect(value["length"], int) * dtype.itemsize
    if not 0 <= size <= MAX_ARRAY_BYTES:
        raise ValueError(f"array of {size} bytes")
    # Bounded, so that a few bytes cannot unpack to more than was announced.
    data = zlib.decompressobj().decompress(base64.b64decode(value["zlib"], validate=True), size + 1)
    if len(data) != size:
        raise ValueError("array of another length than announced")
    array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    array.flags.writeable = False
    return array


def _expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r:.40} where {kind} was expected")
    return value
