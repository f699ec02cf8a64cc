# SPDX-License-Identifier: Apache-2.0
"""Records a second out of a real kernel ring buffer: uaptrace's batches, bcc's callback, and a C consumer on libbpf.

The same ring, the same records, in turn within each round, all in one process and on one processor, so that all find the same in its
caches. Rates are per second of CPU time, so that a shared machine measures the same thing. bcc takes a part of the ring's records
only: its rate does not depend on how many there are, and it takes long.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import bpf_run
from bench.ring_fill import FilledRing
from bench.rows import Goal, Row, cpu_time_s, emit, not_measured, row
from uaptrace.ebpf.ring import BATCH_BYTES, MappedRing
from uaptrace.loader.parent import DEFAULT_RING_BYTES

ROUNDS = 15
CALLBACK_RECORDS = 16384
VS_CALLBACK = Goal(150)
VS_C = Goal(0.8)


class CConsumer:
    """bench/consumer.c, compiled and loaded."""

    def __init__(self, folder: Path, ring_fd: int, kept_bytes: int) -> None:
        library = folder / "consumer.so"
        source = Path(__file__).with_name("consumer.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source), "-lbpf"], check=True)
        self._lib = ctypes.CDLL(str(library))
        self._lib.consumer_open.restype = ctypes.c_void_p
        self._lib.consumer_open.argtypes = [ctypes.c_int, ctypes.c_size_t]
        self._lib.consumer_take.argtypes = [ctypes.c_void_p]
        self._consumer = self._lib.consumer_open(ring_fd, kept_bytes)
        if not self._consumer:
            raise RuntimeError("libbpf cannot map the ring")

    def take(self) -> int:
        """Everything: how many records it took."""
        return int(self._lib.consumer_take(self._consumer))


class Consumers:
    """All of them over one ring. Each method takes everything and gives how many records it took."""

    def __init__(self, filled: FilledRing) -> None:
        self.filled = filled
        # Its own pages, touched: neither page faults nor a copy to an odd address are to be measured.
        self._kept = np.frombuffer(mmap.mmap(-1, filled.ring_bytes), np.uint8)
        self._kept[:] = 1
        self._seen = 0
        self.filled.bpf[b"ring"].open_ring_buffer(self._callback)

    def _callback(self, context: object, data: int, size: int) -> None:
        self.filled.bpf[b"ring"].event(data)
        self._seen += 1

    def callback(self) -> int:
        """bcc's, doing what its documentation shows: the event as an object."""
        self._seen = 0
        self.filled.bpf.ring_buffer_consume()
        return self._seen

    def batches(self, ring: MappedRing) -> int:
        """uaptrace's, as the daemon uses it: every header checked, each batch handed over where it lies."""
        taken = 0
        while len(batch := ring.drain(BATCH_BYTES)):
            taken += len(batch)
        return taken

    def touched(self, ring: MappedRing) -> int:
        """The same, and one field of every record is read."""
        taken = 0
        total = 0
        while len(batch := ring.drain(BATCH_BYTES)):
            taken += len(batch)
            total += int(batch["pfn"].sum())
        assert total >= 0
        return taken

    def copied(self, ring: MappedRing) -> int:
        """The same, and every record is copied into the kept buffer of one batch."""
        taken = 0
        while len(batch := ring.drain(BATCH_BYTES)):
            self._kept[: batch.nbytes] = batch.view(np.uint8)
            taken += len(batch)
        return taken


def measure(rounds: int) -> list[Row]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    filled = FilledRing(DEFAULT_RING_BYTES)
    consumers = Consumers(filled)
    rates: dict[str, list[float]] = {name: [] for name in ("callback", "c", "batches", "touched", "copied")}

    def mapped(name: str, take: Callable[[MappedRing], int]) -> None:
        records = filled.fill()
        with MappedRing(filled.fd, DEFAULT_RING_BYTES) as ring:
            taken: list[int] = []
            seconds = cpu_time_s(lambda: taken.append(take(ring)))
        assert taken == [records], (taken, records)
        rates[name].append(records / seconds)

    with tempfile.TemporaryDirectory() as folder:
        c_consumer = CConsumer(Path(folder), filled.fd, BATCH_BYTES)
        for _ in range(rounds):
            records = filled.fill(CALLBACK_RECORDS)
            taken: list[int] = []
            seconds = cpu_time_s(lambda: taken.append(consumers.callback()))  # noqa: B023 -- called at once
            assert taken == [records]
            rates["callback"].append(records / seconds)
            records = filled.fill()
            taken = []
            seconds = cpu_time_s(lambda: taken.append(c_consumer.take()))  # noqa: B023
            assert taken == [records]
            rates["c"].append(records / seconds)
            mapped("batches", consumers.batches)
            mapped("touched", consumers.touched)
            mapped("copied", consumers.copied)

    def ratios(name: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rates[name], rates[other], strict=True)]

    c_rate = f"C on libbpf 1.1, a memcpy of each record: {statistics.median(rates['c']) / 1e6:.0f} M records/s"
    bcc_rate = f"bcc 0.26 ring_buffer_consume, a callback for each record: {statistics.median(rates['callback']) / 1e6:.2f} M records/s"
    return [
        row("consumer.vs_bcc_callback", ratios("batches", "callback"), "times", compared_with=bcc_rate, goal=VS_CALLBACK),
        row(
            "consumer.vs_libbpf_c",
            ratios("batches", "c"),
            "times",
            compared_with=c_rate,
            goal=VS_C,
            note="what each must do to give its user a batch: libbpf gives a record's room back after its callback, so C must copy; "
            "uaptrace hands the batch over in the ring and gives the room back after it",
        ),
        row(
            "consumer.touched.vs_libbpf_c",
            ratios("touched", "c"),
            "times",
            compared_with=c_rate,
            note="and one field of each record is summed",
        ),
        row(
            "consumer.same_copy.vs_libbpf_c",
            ratios("copied", "c"),
            "times",
            compared_with=c_rate,
            goal=VS_C,
            note="with a copy that uaptrace does not make",
        ),
        row("consumer.events_per_s", rates["batches"], "events/s"),
        row("consumer.bcc_callback.events_per_s", rates["callback"], "events/s"),
        row("consumer.libbpf_c.events_per_s", rates["c"], "events/s"),
    ]


def main() -> int:
    if why := bpf_run.why_not():
        emit(
            [not_measured("consumer.vs_bcc_callback", "times", why, VS_CALLBACK), not_measured("consumer.vs_libbpf_c", "times", why, VS_C)]
        )
        return 0
    emit(measure(ROUNDS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
