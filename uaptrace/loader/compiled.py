# SPDX-License-Identifier: Apache-2.0
"""Programs that were compiled, without what only this moment knows: file descriptors of maps. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_INSTRUCTION_BYTES: Final = 8
_LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
"""Source register of a BPF_LD | BPF_IMM | BPF_DW whose immediate is a map (include/uapi/linux/bpf.h)."""


class MapSpec(NamedTuple):
    """What BPF_MAP_CREATE takes. ``type_id`` is of enum bpf_map_type; sizes in bytes."""

    type_id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Maps and instructions by name. An instruction that loads a map has the map's place among ``maps`` in it."""

    maps: Mapping[str, MapSpec]
    functions: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """As JSON, for from_bytes()."""
        functions = {name: base64.b64encode(code).decode() for name, code in self.functions.items()}
        return json.dumps({"maps": dict(self.maps), "functions": functions}).encode()


def from_bytes(data: bytes) -> Compiled:
    """The reverse of Compiled.to_bytes(). ValueError where it is not that."""
    try:
        held = json.loads(data)
        maps = {str(name): MapSpec(*(int(word) for word in spec)) for name, spec in held["maps"].items()}
        functions = {str(name): base64.b64decode(code, validate=True) for name, code in held["functions"].items()}
        for code in functions.values():
            if any(not 0 <= place < len(maps) for _, place in _loads_of_maps(code)):
                raise ValueError("an instruction loads a map that there is not")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not compiled programs: {error}") from None
    return Compiled(maps, functions)


def with_places(code: bytes, fds: Sequence[int]) -> bytes:
    """Instructions as the compiler gives them, with descriptors of maps, made independent of those: ``fds`` is in the order of the maps."""
    return _replaced(code, {fd: place for place, fd in enumerate(fds)})


def with_fds(code: bytes, fds: Sequence[int]) -> bytes:
    """Instructions that the kernel takes: ``fds`` of the maps, in their order."""
    return _replaced(code, dict(enumerate(fds)))


def _replaced(code: bytes, immediates: Mapping[int, int]) -> bytes:
    patched = bytearray(code)
    for at, immediate in _loads_of_maps(code):
        patched[at + 4 : at + 8] = immediates[immediate].to_bytes(4, "little", signed=True)
    return bytes(patched)


def _loads_of_maps(code: bytes) -> list[tuple[int, int]]:
    """Offset and immediate of every instruction that loads a map. ValueError where the code is cut off."""
    if len(code) % _INSTRUCTION_BYTES:
        raise ValueError("half an instruction")
    found = []
    at = 0
    while at < len(code):
        if code[at] == _LD_IMM64:
            if code[at + 1] >> 4 == _PSEUDO_MAP_FD:
                found.append((at, int.from_bytes(code[at + 4 : at + 8], "little", signed=True)))
            at += _INSTRUCTION_BYTES  # the upper half of the constant
        at += _INSTRUCTION_BYTES
    return found
