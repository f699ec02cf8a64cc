# SPDX-License-Identifier: Apache-2.0
"""Recordings: bytes for each event, events a second written, read back, and replayed into a state.

The records are the recorded mix (bench/data), written in batches as they come from the ring. Rates are per second of CPU time
of the whole process, so what a second thread does is in them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.pipeline import MIX, recorded_mix
from bench.rows import Goal, Row, emit, not_measured, row
from uaptrace.abi.wire import Batch
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Records
from uaptrace.recording import RecordingWriter, read_updates

ROUNDS = 5
NR_RECORDS = 1_000_000
BATCH_RECORDS = 16384
GOALS = {"record.bytes_per_event": Goal(10, at_least=False), "record.events_per_s": Goal(2e6), "replay.events_per_s": Goal(5e6)}


def cpu_s(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def lengthened(records: Batch, nr_records: int) -> Batch:
    """The records again and again, each time later, until there are so many."""
    turns = -(-nr_records // len(records))
    longer = np.tile(records, turns)
    span = int(records["time_ns"].max()) - int(records["time_ns"].min()) + 1000
    longer["time_ns"] += np.repeat(np.arange(turns, dtype=np.uint64) * np.uint64(span), len(records))
    return longer[:nr_records]


def measure() -> list[Row]:
    before, recorded = recorded_mix()
    records = lengthened(recorded, NR_RECORDS)
    write_rates, read_rates, replay_rates, sizes = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.uap"

        def write() -> None:
            with RecordingWriter(path, overwrite=True) as writer:
                for update in before:
                    writer.write(update)
                for at in range(0, len(records), BATCH_RECORDS):
                    writer.write(Records(records[at : at + BATCH_RECORDS]))

        def read() -> None:
            count = sum(len(update.batch) for update in read_updates(path) if isinstance(update, Records))
            assert count == len(records) + early, count

        def replay() -> None:
            state = KernelState()
            for update in read_updates(path):
                state.update(update)
            state.snapshot(int(records["time_ns"][-1]), 0.0)

        def readings_only() -> int:
            with RecordingWriter(path.with_suffix(".empty"), overwrite=True) as writer:
                for update in before:
                    writer.write(update)
            return path.with_suffix(".empty").stat().st_size

        early = sum(len(update.batch) for update in before if isinstance(update, Records))
        empty = readings_only()
        for _ in range(ROUNDS):
            write_rates.append(len(records) / cpu_s(write))
            sizes.append((path.stat().st_size - empty) / len(records))
            read_rates.append(len(records) / cpu_s(read))
            replay_rates.append(len(records) / cpu_s(replay))
    note = f"{len(records)} records: {len(recorded)} recorded ones, repeated"
    return [
        row("record.bytes_per_event", sizes, "bytes", goal=GOALS["record.bytes_per_event"], note=note),
        row(
            "record.kept_file.bytes_per_event",
            [MIX.stat().st_size / len(recorded)],
            "bytes",
            note=f"{MIX.name} as it was recorded, readings and all: a slow guest fills small batches",
        ),
        row("record.events_per_s", write_rates, "events/s", goal=GOALS["record.events_per_s"]),
        row("replay.events_per_s", replay_rates, "events/s", goal=GOALS["replay.events_per_s"], note="file to state and snapshot"),
        row("replay.read.events_per_s", read_rates, "events/s", note="file to batches, without the model"),
    ]


def main() -> int:
    if not MIX.exists():
        emit(not_measured(name, "", f"{MIX.name} is missing", goal) for name, goal in GOALS.items())
        return 0
    emit(measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
