# SPDX-License-Identifier: Apache-2.0
"""uaptrace with two faults that only the process itself can make: ``python -m tests.vm.sabotaged serve ...``

SIGUSR1 closes every link and perf event behind its back, as a debugger could; SIGUSR2 makes the tracing loop meet an error that it
was not made for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from uaptrace.cli import main

_LINKS = ("anon_inode:bpf-link", "anon_inode:bpf_link", "anon_inode:[perf_event]")


def close_links(_: int, __: FrameType | None) -> None:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") in _LINKS:
                os.close(int(name))


def break_loop(_: int, __: FrameType | None) -> None:
    raise RuntimeError("sabotaged")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, close_links)
    signal.signal(signal.SIGUSR2, break_loop)
    main()
