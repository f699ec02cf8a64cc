# SPDX-License-Identifier: Apache-2.0
"""Types of the running kernel, out of /sys/kernel/btf/vmlinux, by libbpf.

libbpf (Debian: libbpf1) reads a kernel's BTF in milliseconds.
Format: Documentation/bpf/btf.rst. Used in the loader and in ``uaptrace check`` only.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any, Final, Self

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.libbpf import library

_KIND_MASK: Final = 0x7F
_VLEN_MASK: Final = 0xFFFFFF
"""Of btf_type.info. Older kernels use fewer bits of each and leave the others 0."""
_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_ENUM: Final = 6
_KIND_FUNC: Final = 12
_MODIFIERS: Final = (8, 9, 10, 11, 18)
"""typedef, volatile, const, restrict, type tag: skipped on the way to the type itself."""


class KernelBtf:
    """BTF of the running kernel. Raises CannotTraceError where there is none or libbpf is not installed."""

    def __init__(self) -> None:
        lib = library()
        self._lib: Any = lib
        self._btf = lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise CannotTraceError("this kernel has no BTF: it needs CONFIG_DEBUG_INFO_BTF=y")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)
        self._btf = None

    def has_function(self, name: str) -> bool:
        """Whether fentry can find the function: it has a type."""
        return self._find(name, _KIND_FUNC) > 0

    def function_id(self, name: str) -> int:
        """BTF id of a function. Raises CannotTraceError where the kernel has none of that name."""
        type_id = self._find(name, _KIND_FUNC)
        if type_id <= 0:
            raise CannotTraceError(f"this kernel has no function {name} in its BTF")
        return type_id

    def struct_id(self, name: str) -> int:
        """BTF id of a struct. Raises CannotTraceError where the kernel has none of that name."""
        type_id = self._find(name, _KIND_STRUCT)
        if type_id <= 0:
            raise CannotTraceError(f"this kernel has no struct {name} in its BTF")
        return type_id

    def struct_size(self, name: str) -> int:
        """Size of a struct in bytes. Raises CannotTraceError where the kernel has none of that name."""
        return int(self._lib.btf__resolve_size(self._btf, self.struct_id(name)))

    def member_offset(self, name: str, member: str) -> int:
        """Offset in bytes of a member of a struct, also where it is in unnamed structs or unions inside it.

        Raises CannotTraceError where there is no such struct or member.
        """
        offset = self._offset(self.struct_id(name), member)
        if offset is None:
            raise CannotTraceError(f"struct {name} of this kernel has no member {member}")
        return offset // 8

    def has_member(self, name: str, member: str) -> bool:
        """Whether the kernel has the struct and it has the member."""
        type_id = self._find(name, _KIND_STRUCT)
        return type_id > 0 and self._offset(type_id, member) is not None

    def enumerator(self, name: str, enum: str = "") -> int | None:
        """Value of an enumerator of the enum of that name, or of one that has no name itself; None where the kernel has none."""
        return enumerator_value(self._raw, name, enum) if self._raw else None

    @functools.cached_property
    def _raw(self) -> bytes:
        """All of it, several megabytes: copied once."""
        size = ctypes.c_uint32()
        address = self._lib.btf__raw_data(self._btf, ctypes.byref(size))
        return ctypes.string_at(address, size.value) if address else b""

    def _find(self, name: str, kind: int) -> int:
        return int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind))

    def _offset(self, type_id: int, member: str) -> int | None:
        """Offset in bits."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        _, info, size_or_type = struct.unpack("<III", ctypes.string_at(address, 12))
        kind = (info >> 24) & _KIND_MASK
        if kind in _MODIFIERS:
            return self._offset(size_or_type, member)
        if kind not in (_KIND_STRUCT, _KIND_UNION):
            return None
        nr_members = info & _VLEN_MASK
        bitfields = bool(info >> 31)
        raw = ctypes.string_at(address + 12, 12 * nr_members)
        for name_offset, member_type, offset in struct.iter_unpack("<III", raw):
            bits = offset & 0xFFFFFF if bitfields else offset
            name = self._lib.btf__name_by_offset(self._btf, name_offset)
            if name == member.encode():
                return int(bits)
            if not name:
                inner = self._offset(member_type, member)
                if inner is not None:
                    return int(bits) + inner
        return None


def enumerator_value(btf: bytes, name: str, enum: str = "") -> int | None:
    """Value of an enumerator of an enum of that name (empty: of one without a name), in raw BTF. None where there is none.

    Looks for its name's offset among the types, and takes a place where it is an enum's own: reading each of a hundred thousand
    types takes a hundred times as long.
    """
    _, _, _, header, type_at, type_bytes, string_at, string_bytes = struct.unpack_from("<HBBIIIII", btf)
    strings = btf[header + string_at : header + string_at + string_bytes]
    offset = strings.find(b"\0" + name.encode() + b"\0") + 1
    if not offset:
        return None
    types = btf[header + type_at : header + type_at + type_bytes]

    def is_named(head: int) -> bool:
        return strings.startswith(enum.encode() + b"\0", head) if enum else head == 0

    at = -1
    while (at := types.find(offset.to_bytes(4, "little"), at + 1)) >= 0:
        if at % 4 == 0 and _in_enum(types, at, is_named):
            return int.from_bytes(types[at + 4 : at + 8], "little", signed=True)
    return None


def _in_enum(types: bytes, at: int, is_named: Callable[[int], bool]) -> bool:
    """Whether the head of an enum with a name that fits, 4 bytes large and with enough enumerators, stands before those at and
    before ``at``.
    """
    for before in range(_MAX_ENUMERATORS):
        head = at - 12 - 8 * before
        if head < 0:
            return False
        name, info, size = struct.unpack_from("<III", types, head)
        if (info >> 24) & _KIND_MASK == _KIND_ENUM and size == 4 and info & _VLEN_MASK > before and is_named(name):
            return True
    return False


_MAX_ENUMERATORS: Final = 512
"""More than there are BPF helpers (enum bpf_func_id has 212 in 7.3), which are the most of what is asked for."""
