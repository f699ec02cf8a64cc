# SPDX-License-Identifier: Apache-2.0
"""Made tests/data/format-v1.rec, once: a recording of version 1 with every kind of update, to show that it stays readable.

It is no capture of a kernel (tests/unit/simulated_host.py made it), and it must not be made again.

    python -m tests.unit.make_recording_v1 tests/data/format-v1.rec
"""

from __future__ import annotations

import sys

from tests.unit.simulated_host import host_updates
from uaptrace.model.updates import Update
from uaptrace.recording import RecordingWriter


def updates() -> list[Update]:
    """What the file says."""
    return host_updates(series=True, seconds=3, seed=7, rate=40)


if __name__ == "__main__":
    with RecordingWriter(sys.argv[1]) as writer:
        for update in updates():
            writer.write(update)
            writer.flush()
