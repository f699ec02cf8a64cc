# SPDX-License-Identifier: Apache-2.0
"""Reads kernel memory by running a BPF program (bpf/reader.bpf.c), where there is no /proc/kcore.

BPF_PROG_TEST_RUN of a raw tracepoint program (5.10 and later: 1b4d60ec162f) needs no privilege but the descriptor.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.libbpf import run_program

WINDOW_BYTES: Final = 4096


class BpfMemory:
    """Kernel memory through the program ``program_fd``, which fills the map ``window_fd``. Both stay the caller's.

    Not for use by two threads at once: there is one window.
    """

    def __init__(self, program_fd: int, window_fd: int) -> None:
        self._program_fd = program_fd
        try:
            self._window = mmap.mmap(window_fd, WINDOW_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise CannotTraceError(f"cannot map the window of the reading program: {error}") from error
        self._address = ctypes.c_uint64()

    def refresh(self) -> None:
        """Nothing to do: addresses are not looked up in a list."""

    def read(self, address: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` from ``address``. Raises LookupError where it cannot be read."""
        parts = []
        while size_bytes > 0:
            # The program reads a whole window: ask for one that does not cross into the next page.
            start = address & -WINDOW_BYTES
            self._fill(start)
            part = self._window[address - start : min(address - start + size_bytes, WINDOW_BYTES)]
            parts.append(part)
            address += len(part)
            size_bytes -= len(part)
        return b"".join(parts)

    def read_table(self, address: int, out: NDArray[np.uint64]) -> None:
        """Fill ``out`` (uint64, any length) from ``address``."""
        out[:] = np.frombuffer(self.read(address, out.nbytes), np.uint64)

    def _fill(self, start: int) -> None:
        self._address.value = start
        try:
            failed = run_program(self._program_fd, context=self._address)
        except PermissionError:
            # Before 5.19 this switch refused every command of bpf(), whatever descriptors the process has.
            raise CannotTraceError(
                "this kernel lets no unprivileged process run the program that reads kernel memory: use --page-tables kcore, "
                "or sysctl -w kernel.unprivileged_bpf_disabled=0"
            ) from None
        except OSError as error:
            raise OSError(error.errno, f"cannot run the program that reads kernel memory: {error.strerror}") from error
        if failed:
            raise LookupError(f"kernel memory at {start:#x} cannot be read")
