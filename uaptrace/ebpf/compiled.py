# SPDX-License-Identifier: Apache-2.0
"""Programs that were compiled, without what only this moment knows: descriptors of maps, and constants of this kernel. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

_INSTRUCTION_BYTES: Final = 8
_LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
"""Source register of a BPF_LD | BPF_IMM | BPF_DW whose immediate is a map (include/uapi/linux/bpf.h)."""
LOAD_CONSTANT: Final = 0x5541505F
"""Upper half of a constant that stands for one of the running kernel (UAP_AT_LOAD of bpf/common.bpf.c); the lower half says which."""
KERNEL_CALL: Final = 0x5541
"""Upper half of the number of a helper that stands for a function of the kernel; the lower half is the number of the constant that is its
BTF id. No helper has such a number: where that constant is 0, the call must be one that is never reached."""
_CALL: Final = 0x85
_PSEUDO_KFUNC_CALL: Final = 2
"""Source register of a BPF_JMP | BPF_CALL whose immediate is a BTF id (include/uapi/linux/bpf.h)."""


class MapSpec(NamedTuple):
    """What BPF_MAP_CREATE takes. ``type_id`` is of enum bpf_map_type; sizes in bytes."""

    type_id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Maps and instructions by name. An instruction that loads a map has the map's place among ``maps`` in it,
    and one that loads a constant of the kernel has LOAD_CONSTANT and the constant's number."""

    maps: Mapping[str, MapSpec]
    functions: Mapping[str, bytes]

    def sized(self, max_entries: Mapping[str, int]) -> Compiled:
        """The same with maps of other sizes, by their names."""
        return replace(
            self, maps={name: spec._replace(max_entries=max_entries.get(name, spec.max_entries)) for name, spec in self.maps.items()}
        )

    def to_json(self) -> dict[str, Any]:
        """For from_json()."""
        functions = {name: base64.b64encode(code).decode() for name, code in self.functions.items()}
        return {"maps": dict(self.maps), "functions": functions}


def from_json(held: Any) -> Compiled:
    """The reverse of Compiled.to_json(). ValueError where it is not that."""
    try:
        maps = {str(name): MapSpec(*(int(word) for word in spec)) for name, spec in held["maps"].items()}
        functions = {str(name): base64.b64decode(code, validate=True) for name, code in held["functions"].items()}
        for code in functions.values():
            if any(not 0 <= place < len(maps) for _, place in _loads_of_maps(code)):
                raise ValueError("an instruction refers to an unknown map")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not compiled programs: {error}") from None
    return Compiled(maps, functions)


def with_places(code: bytes, fds: Sequence[int]) -> bytes:
    """Instructions as the compiler gives them, with descriptors of maps, made independent of those: ``fds`` is in the order of the maps."""
    return _with_maps(code, {fd: place for place, fd in enumerate(fds)})


def with_values(code: bytes, fds: Sequence[int], constants: Sequence[int] = ()) -> bytes:
    """Instructions that the kernel takes: ``fds`` of the maps in their order, and the constants of the kernel by their numbers (64 bits).

    ValueError where the code asks for a constant that there is not.
    """
    patched = bytearray(_with_maps(code, dict(enumerate(fds))))
    for at in _wide_loads(code):
        if code[at + 1] >> 4 == 0 and int.from_bytes(code[at + 12 : at + 16], "little") == LOAD_CONSTANT:
            number = int.from_bytes(code[at + 4 : at + 8], "little")
            if number >= len(constants):
                raise ValueError(f"unknown constant {number}")
            value = constants[number].to_bytes(8, "little")
            patched[at + 4 : at + 8], patched[at + 12 : at + 16] = value[:4], value[4:]
    for at in _kernel_calls(code):
        number = int.from_bytes(code[at + 4 : at + 6], "little")
        if number >= len(constants):
            raise ValueError(f"unknown constant {number}")
        if constants[number]:
            patched[at + 1] = _PSEUDO_KFUNC_CALL << 4
            patched[at + 4 : at + 8] = constants[number].to_bytes(4, "little")
    return bytes(patched)


def _kernel_calls(code: bytes) -> list[int]:
    """Offset of every call of a function of the kernel."""
    second_halves = {at + _INSTRUCTION_BYTES for at in _wide_loads(code)}
    return [
        at
        for at in range(0, len(code), _INSTRUCTION_BYTES)
        if code[at] == _CALL and code[at + 6 : at + 8] == KERNEL_CALL.to_bytes(2, "little") and at not in second_halves
    ]


def _with_maps(code: bytes, immediates: Mapping[int, int]) -> bytes:
    patched = bytearray(code)
    for at, immediate in _loads_of_maps(code):
        patched[at + 4 : at + 8] = immediates[immediate].to_bytes(4, "little", signed=True)
    return bytes(patched)


def _loads_of_maps(code: bytes) -> list[tuple[int, int]]:
    """Offset and immediate of every instruction that loads a map. ValueError where the code is cut off."""
    return [
        (at, int.from_bytes(code[at + 4 : at + 8], "little", signed=True))
        for at in _wide_loads(code)
        if code[at + 1] >> 4 == _PSEUDO_MAP_FD
    ]


def _wide_loads(code: bytes) -> list[int]:
    """Offset of every instruction that loads 64 bits and takes two places. ValueError where the code is cut off."""
    if len(code) % _INSTRUCTION_BYTES:
        raise ValueError("truncated instruction")
    found = []
    at = 0
    while at < len(code):
        if code[at] == _LD_IMM64:
            if at + 2 * _INSTRUCTION_BYTES > len(code):
                raise ValueError("truncated constant")
            found.append(at)
            at += _INSTRUCTION_BYTES
        at += _INSTRUCTION_BYTES
    return found
