# SPDX-License-Identifier: Apache-2.0
"""Events a second from the ring to a snapshot on one core: a real ring buffer, the mapped reader, the model, a snapshot.

``mix`` is what a real kernel sent (bench/data, recorded in a virtual machine; how is in docs/performance.md); ``worst`` splits a new region
with every event. Rates are per second of CPU time of the one thread that does it all.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import bpf_run, worst
from bench.ring_fill import RecordRing
from bench.rows import Goal, Row, cpu_time_s, emit, not_measured, row
from uaptrace.abi.events import Kind
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.ebpf.ring import BATCH_BYTES, MappedRing
from uaptrace.loader.parent import DEFAULT_RING_BYTES
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CacheReading, MapReading, Records, Update

ROUNDS = 7
MIX = Path(__file__).with_name("data") / "mix.uap"
MIX_GOAL = Goal(5e6)
WORST_GOAL = Goal(1e6)


def recorded_mix() -> tuple[list[Update], Batch]:
    """What came up to the first readings of the map and the cache, and all records after them."""
    from uaptrace.recording import read_updates

    before: list[Update] = []
    parts: list[Batch] = []
    missing: set[type] = {MapReading, CacheReading}
    for update in read_updates(MIX):
        if missing:
            before.append(update)
            missing.discard(type(update))
        elif isinstance(update, Records):
            part = np.zeros(len(update.batch), RECORD)
            for name in RECORD.names or ():
                part[name] = update.batch[name]
            parts.append(part)
    return before, np.concatenate(parts)


def seconds_for(ring: RecordRing, before: Sequence[Update], records: Batch, *, snapshots: bool = True) -> float:
    """CPU time for all records, through the ring in as many turns as it takes, a snapshot after each."""
    state = KernelState()
    for update in before:
        state.update(update)
    seconds = 0.0
    taken = 0

    def take() -> None:
        nonlocal taken
        while len(batch := mapped.drain(BATCH_BYTES)):
            taken += len(batch)
            state.update(Records(batch))
        if snapshots:
            state.snapshot(int(records["time_ns"][-1]), 0.0)

    with MappedRing(ring.fd, ring.ring_bytes) as mapped:
        for at in range(0, len(records), ring.capacity):
            ring.put(records[at : at + ring.capacity])
            seconds += cpu_time_s(take)
    assert taken == len(records), (taken, len(records))
    return seconds


def measure_mix(ring: RecordRing) -> list[Row]:
    if not MIX.exists():
        return [not_measured("pipeline.mix.events_per_s", "events/s", f"{MIX.name} is missing", MIX_GOAL)]
    before, records = recorded_mix()
    rates = [len(records) / seconds_for(ring, before, records) for _ in range(ROUNDS)]
    kinds = np.bincount(records["kind"], minlength=16)
    shares = ", ".join(f"{Kind(k).name} {100 * kinds[k] / len(records):.1f}%" for k in np.argsort(-kinds)[:6] if kinds[k])
    return [row("pipeline.mix.events_per_s", rates, "events/s", goal=MIX_GOAL, note=f"{len(records)} recorded records: {shares}")]


def measure_worst(ring: RecordRing) -> list[Row]:
    before: list[Update] = [worst.start(), worst.reading(worst.REGIONS_PER_TIB, 0)]
    # Two mixes; the row is the slower of them.
    mixes = {"SPLIT alone": worst.only_splits(ring.capacity), "SPLIT and SET_DIRECT_MAP": worst.splits(ring.capacity)}
    rates = {name: [len(records) / seconds_for(ring, before, records) for _ in range(ROUNDS)] for name, records in mixes.items()}
    slower = min(rates, key=lambda name: statistics.median(rates[name]))
    said = "; ".join(f"{name}: {statistics.median(values) / 1e6:.2f} M/s" for name, values in rates.items())
    return [row("pipeline.worst.events_per_s", rates[slower], "events/s", goal=WORST_GOAL, note=f"1 TiB at 2M before; {said}")]


def measure_linear(ring: RecordRing) -> list[Row]:
    """Time for each event must not depend on how many there were, nor that for each new split region on how many there are.

    The first touch of memory is in the second: 650 bytes for each region, which the kernel zeroes page by page.
    """
    few: list[Update] = [worst.start(), worst.reading(32768, 64)]
    rows = []
    for nr_events in (1 << 18, 1 << 20, 1 << 22):
        records = worst.churn(nr_events)
        times = [seconds_for(ring, few, records, snapshots=False) / nr_events * 1e9 for _ in range(3)]
        rows.append(row(f"linear.events.{nr_events}.ns_per_event", times, "ns", note="changes of pages in 64 regions"))
    before: list[Update] = [worst.start(), worst.reading(worst.REGIONS_PER_TIB, 0)]
    for nr_regions in (1 << 15, 1 << 17, 1 << 19):
        records = worst.splits(2 * nr_regions)
        times = [seconds_for(ring, before, records, snapshots=False) / nr_regions * 1e9 for _ in range(3)]
        rows.append(row(f"linear.split_regions.{nr_regions}.ns_per_region", times, "ns", note="two events for each region"))
    return rows


def main() -> int:
    if why := bpf_run.why_not():
        emit(
            [
                not_measured("pipeline.mix.events_per_s", "events/s", why, MIX_GOAL),
                not_measured("pipeline.worst.events_per_s", "events/s", why, WORST_GOAL),
            ]
        )
        return 0
    ring = RecordRing(DEFAULT_RING_BYTES)
    emit(measure_mix(ring))
    emit(measure_worst(ring))
    emit(measure_linear(ring))
    return 0


if __name__ == "__main__":
    sys.exit(main())
