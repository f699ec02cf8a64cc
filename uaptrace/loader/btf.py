# SPDX-License-Identifier: Apache-2.0
"""Types of the running kernel, out of /sys/kernel/btf/vmlinux, by libbpf.

libbpf comes with bcc's own library (Debian: libbpfcc depends on libbpf1) and reads a kernel's BTF in milliseconds.
Format: Documentation/bpf/btf.rst. Used in the loader and in ``uaptrace check`` only.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, Final, Self

from uaptrace.errors import CannotTraceError

_KIND_STRUCT: Final = 4
_KIND_UNION: Final = 5
_KIND_FUNC: Final = 12
_MODIFIERS: Final = (8, 9, 10, 11, 18)
"""typedef, volatile, const, restrict, type tag: skipped on the way to the type itself."""


class KernelBtf:
    """BTF of the running kernel. Raises CannotTraceError where there is none or libbpf is not installed."""

    def __init__(self) -> None:
        try:
            lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise CannotTraceError(f"libbpf is not installed ({error}): apt-get install libbpf1") from error
        lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        lib.btf__resolve_size.restype = ctypes.c_int64
        for name in ("btf__find_by_name_kind", "btf__type_by_id", "btf__name_by_offset", "btf__resolve_size", "btf__free"):
            getattr(lib, name).argtypes = _ARGUMENTS[name]
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

    def struct_size(self, name: str) -> int:
        """Size of a struct in bytes. Raises CannotTraceError where the kernel has none of that name."""
        return int(self._lib.btf__resolve_size(self._btf, self._struct(name)))

    def member_offset(self, name: str, member: str) -> int:
        """Offset in bytes of a member of a struct, also where it is in unnamed structs or unions inside it.

        Raises CannotTraceError where there is no such struct or member.
        """
        offset = self._offset(self._struct(name), member)
        if offset is None:
            raise CannotTraceError(f"struct {name} of this kernel has no member {member}")
        return offset // 8

    def has_member(self, name: str, member: str) -> bool:
        """Whether the kernel has the struct and it has the member."""
        type_id = self._find(name, _KIND_STRUCT)
        return type_id > 0 and self._offset(type_id, member) is not None

    def _struct(self, name: str) -> int:
        type_id = self._find(name, _KIND_STRUCT)
        if type_id <= 0:
            raise CannotTraceError(f"this kernel has no struct {name} in its BTF")
        return type_id

    def _find(self, name: str, kind: int) -> int:
        return int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind))

    def _offset(self, type_id: int, member: str) -> int | None:
        """Offset in bits."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        _, info, size_or_type = struct.unpack("<III", ctypes.string_at(address, 12))
        kind = (info >> 24) & 31
        if kind in _MODIFIERS:
            return self._offset(size_or_type, member)
        if kind not in (_KIND_STRUCT, _KIND_UNION):
            return None
        nr_members = info & 0xFFFF
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


_ARGUMENTS: Final[dict[str, list[Any]]] = {
    "btf__find_by_name_kind": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32],
    "btf__type_by_id": [ctypes.c_void_p, ctypes.c_uint32],
    "btf__name_by_offset": [ctypes.c_void_p, ctypes.c_uint32],
    "btf__resolve_size": [ctypes.c_void_p, ctypes.c_uint32],
    "btf__free": [ctypes.c_void_p],
}
