# SPDX-License-Identifier: Apache-2.0
"""The program that times reads (bpf/cost.bpf.c), loaded and run."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.errors import CannotTraceError
from uaptrace.cost.pages import CHAIN_READS
from uaptrace.ebpf.libbpf import run_program
from uaptrace.loader.attaching import load_unattached
from uaptrace.loader.program import bpf_folder, cost_text
from uaptrace.loader.programs import compiled_programs

_PROGRAM: Final = "time_reads"
_CHAIN_BYTES: Final = CHAIN_READS * 8
_TIMING_BYTES: Final = 4096
"""A map that is mapped has whole pages."""


class Probe:
    """Reads ``chains`` in the kernel, each uint64 of CHAIN_READS addresses. Needs the privileges of tracing. Raises CannotTraceError."""

    def __init__(self, chains: Sequence[NDArray[np.uint64]], *, fresh: bool = False) -> None:
        folder = bpf_folder()
        compiled = compiled_programs(cost_text(folder), (), folder, fresh=fresh).sized({"chains": len(chains)})
        self._program, maps = load_unattached(compiled, _PROGRAM)
        self._fds = (self._program, *maps.values())
        with mmap.mmap(maps["chains"], len(chains) * _CHAIN_BYTES) as room:
            np.frombuffer(room, np.uint64)[:] = np.concatenate(chains) if chains else ()
        self._timing = mmap.mmap(maps["timing"], _TIMING_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        self._arguments = (ctypes.c_uint64 * 2)()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timing.close()
        for fd in self._fds:
            os.close(fd)

    def run(self, chain: int) -> int | None:
        """Nanoseconds for all reads of the chain; None where an address could not be read. Raises CannotTraceError."""
        self._arguments[0] = chain
        try:
            failed = run_program(self._program, context=self._arguments)
        except OSError as error:
            raise CannotTraceError(f"the kernel does not run the program that times reads: {error.strerror}") from None
        ns, unread = np.frombuffer(self._timing, np.uint64, 2).tolist()
        return None if failed or unread else ns
