# SPDX-License-Identifier: Apache-2.0
"""What libraries are kept to, and the address space that they need, before they are loaded."""

from __future__ import annotations

import os
import resource
from typing import Final

from uaptrace.abi.errors import UaptraceError

MIN_ADDRESS_SPACE_BYTES: Final = 512 << 20
"""numpy and pyarrow map 360 MB before the first byte of work. Where they are refused some of it, they may end the process with a signal
instead of an error."""


def keep_single_threaded() -> None:
    """Ask numpy and pyarrow to start no thread of their own: one would keep the privileges that the others give up."""
    # numpy's BLAS starts one for each processor; nothing here multiplies matrices.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # pyarrow's allocator starts one that gives memory back; without it that happens in the thread that frees.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def require_address_space() -> None:
    """Raise UaptraceError where this process may not map what every command needs (RLIMIT_AS, setrlimit(2))."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE_BYTES:
        raise UaptraceError(
            f"the limit of address space is {limit >> 20} MiB, and {MIN_ADDRESS_SPACE_BYTES >> 20} MiB are needed: "
            f"raise it (ulimit -v {MIN_ADDRESS_SPACE_BYTES >> 10})"
        )
