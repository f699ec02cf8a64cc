# SPDX-License-Identifier: Apache-2.0
"""Reads kernel memory through /proc/kcore.

The file is an ELF core whose program headers say which addresses it has (fs/proc/kcore.c). Privilege is checked
when it is opened, so a process without any can read through a descriptor that was opened before.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, Protocol

from uaptrace.abi.errors import CannotTraceError

if TYPE_CHECKING:
    # The loader reads a few words with this and is to start quickly: it has no use for arrays.
    import numpy as np
    from numpy.typing import NDArray

_MAGIC: Final = b"\x7fELF"
_ELF_HEADER_BYTES: Final = 64
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_PT_LOAD: Final = 1


class KernelMemory(Protocol):
    """Something that reads kernel virtual addresses. Raises OSError or LookupError for what is not there."""

    def refresh(self) -> None: ...

    def read(self, address: int, size_bytes: int) -> bytes: ...

    def read_table(self, address: int, out: NDArray[np.uint64]) -> None: ...


def open_kcore(path: str = "/proc/kcore") -> int:
    """A descriptor of the core. Raises OSError, also where a container runtime has put something empty over it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        is_core = os.pread(fd, len(_MAGIC), 0) == _MAGIC
    except OSError:
        os.close(fd)
        raise
    if not is_core:
        os.close(fd)
        raise OSError(errno.ENODATA, "masked by a container runtime")
    return fd


class Kcore:
    """Kernel memory behind a descriptor of /proc/kcore, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._segments: list[tuple[int, int, int]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the segments again: they change when memory is hot-plugged."""
        header = os.pread(self._fd, _ELF_HEADER_BYTES, 0)
        if header[:4] != _MAGIC:
            raise CannotTraceError("/proc/kcore is not an ELF core: cannot read the page tables")
        offset = struct.unpack_from("<Q", header, 32)[0]
        number = struct.unpack_from("<H", header, 56)[0]
        raw = os.pread(self._fd, _PROGRAM_HEADER.size * number, offset)
        self._segments = [
            (vaddr, vaddr + size, file_offset)
            for kind, _, file_offset, vaddr, _, _, size, _ in _PROGRAM_HEADER.iter_unpack(raw)
            if kind == _PT_LOAD
        ]

    def read(self, address: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` from ``address``. Raises LookupError where the core has no such address."""
        data = os.pread(self._fd, size_bytes, self._file_offset(address, size_bytes))
        if len(data) != size_bytes:
            raise LookupError(f"kernel memory at {address:#x} could be read for {len(data)} of {size_bytes} bytes only")
        return data

    def read_table(self, address: int, out: NDArray[np.uint64]) -> None:
        """Fill ``out`` (uint64, any length) from ``address``, without a copy in between."""
        size = os.preadv(self._fd, [out.data], self._file_offset(address, out.nbytes))
        if size != out.nbytes:
            raise LookupError(f"kernel memory at {address:#x} could be read for {size} of {out.nbytes} bytes only")

    def _file_offset(self, address: int, size_bytes: int) -> int:
        offset = self._find(address, size_bytes)
        if offset is None:
            # Memory may have been plugged in since: whoever opens the file next makes the kernel put it on its list.
            self.refresh()
            offset = self._find(address, size_bytes)
        if offset is None:
            raise LookupError(f"/proc/kcore has no address {address:#x}")
        return offset

    def _find(self, address: int, size_bytes: int) -> int | None:
        for low, high, offset in self._segments:
            if low <= address and address + size_bytes <= high:
                return offset + address - low
        return None


def read_u64(memory: KernelMemory, address: int) -> int:
    return int(struct.unpack("<Q", memory.read(address, 8))[0])


def read_u32(memory: KernelMemory, address: int) -> int:
    return int(struct.unpack("<I", memory.read(address, 4))[0])
