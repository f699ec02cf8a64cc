# SPDX-License-Identifier: Apache-2.0
"""The address space that a command needs before the libraries beneath it are loaded."""

from __future__ import annotations

import resource
from typing import Final

from uaptrace.errors import UaptraceError

MIN_ADDRESS_SPACE_BYTES: Final = 512 << 20
"""numpy and pyarrow map 360 MB before the first byte of work. Where they are refused some of it, they may end the process with a signal
instead of an error."""


def require_address_space() -> None:
    """Raise UaptraceError where this process may not map what every command needs (RLIMIT_AS, setrlimit(2))."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE_BYTES:
        raise UaptraceError(
            f"the limit of address space is {limit >> 20} MiB, and {MIN_ADDRESS_SPACE_BYTES >> 20} MiB are needed: "
            f"raise it (ulimit -v {MIN_ADDRESS_SPACE_BYTES >> 10})"
        )
