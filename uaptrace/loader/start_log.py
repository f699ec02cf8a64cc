# SPDX-License-Identifier: Apache-2.0
"""With UAPTRACE_LOADER_LOG set: what a start has done and when, on standard error."""

from __future__ import annotations

import os
import sys
import time


class Progress:
    """Says what was reached, how long after it was made, and with how much CPU time of this process.

    ``before_cpu_s``: CPU time that another process had spent before this one was made.
    """

    def __init__(self, who: str, before_cpu_s: float = 0.0) -> None:
        self._who = who
        self._begin_s = time.monotonic()
        self._before_cpu_s = before_cpu_s
        self._wanted = bool(os.environ.get("UAPTRACE_LOADER_LOG"))

    def __call__(self, what: str) -> None:
        if self._wanted:
            cpu_s = self._before_cpu_s + time.process_time()
            print(f"{self._who} +{time.monotonic() - self._begin_s:.2f} s, CPU {cpu_s:.3f} s: {what}", file=sys.stderr, flush=True)
