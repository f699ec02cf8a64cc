# SPDX-License-Identifier: Apache-2.0
"""The daemon takes in every record of a real kernel ring buffer, once and in order, whatever happens in it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.unit import bpf_programs
from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.wire import RECORD
from uaptrace.ebpf.ring import MappedRing

RING_BYTES = 16 * 4096
CAPACITY = RING_BYTES // 64

# The packet says what to do: 'n' records in all, each with a number in pfn; every 'd'th is discarded, every 'o'th is a shorter one.
PROGRAM = r"""
#include "events.h"
BPF_RINGBUF_OUTPUT(ring, 16);
BPF_ARRAY(state, u64, 4);  /* next number, records refused, odd ones */
struct odd { u64 a[3]; };
struct work { u32 records; u32 discard_every; u32 odd_every; };

int emit(struct __sk_buff *skb)
{
	struct work w = {};
	u32 zero = 0, one = 1, two = 2;
	u64 *next = state.lookup(&zero), *refused = state.lookup(&one), *odds = state.lookup(&two);

	if (!next || !refused || !odds)
		return -1;
	bpf_skb_load_bytes(skb, 0, &w, sizeof(w));
	for (u32 i = 0; i < 128; i++) {
		if (i >= w.records)
			break;
		u64 number = (*next)++;
		if (w.odd_every && number % w.odd_every == w.odd_every - 1) {
			struct odd *o = ring.ringbuf_reserve(sizeof(*o));
			if (!o) {
				(*refused)++;
				continue;
			}
			o->a[0] = number;
			(*odds)++;
			ring.ringbuf_submit(o, 0);
			continue;
		}
		struct uap_record *r = ring.ringbuf_reserve(sizeof(*r));
		if (!r) {
			(*refused)++;
			continue;
		}
		r->time_ns = bpf_ktime_get_ns();
		r->pfn = number;
		r->nr_pages = 1;
		r->tid = 2; r->tgid = 3; r->duration_ns = 4; r->cgroup_id = 5; r->stack_id = 6; r->aux = -7;
		r->kind = UAP_ALLOC; r->order = 1; r->before = UAP_2M; r->after = UAP_4K | UAP_ABSENT;
		r->nr_present = 8; r->flags = UAP_F_REFILLED;
		if (w.discard_every && number % w.discard_every == w.discard_every - 1)
			ring.ringbuf_discard(r, 0);
		else
			ring.ringbuf_submit(r, 0);
	}
	return 0;
}
"""


class Kernel:
    """The compiled program and its ring."""

    def __init__(self) -> None:
        self.bpf: Any = bpf_programs.compile_text(PROGRAM)
        self.program = self.bpf.load_func(b"emit", self.bpf.SOCKET_FILTER)
        self.fd: int = self.bpf[b"ring"].map_fd

    def emit(self, records: int, discard_every: int = 0, odd_every: int = 0) -> None:
        """Put ``records`` numbers into the ring as told."""
        while records:
            part = min(records, 128)
            packet = b"\0" * 14 + np.array([part, discard_every, odd_every], "<u4").tobytes()
            assert bpf_programs.run(self.program.fd, 1, packet) == 0
            records -= part

    def state(self, index: int) -> int:
        return int(self.bpf[b"state"][index].value)

    def reset(self) -> None:
        for index in range(4):
            self.bpf[b"state"][index] = self.bpf[b"state"].Leaf(0)


@pytest.fixture(scope="module")
def compiled() -> Kernel:
    return Kernel()


@pytest.fixture
def kernel(compiled: Kernel) -> Kernel:
    with MappedRing(compiled.fd, RING_BYTES) as ring:
        while len(ring.drain()):
            pass
    compiled.reset()
    return compiled


def numbers(ring: MappedRing, limit_bytes: int | None = None) -> list[int]:
    """All numbers that are in the ring now."""
    out: list[int] = []
    while len(batch := ring.drain(limit_bytes)):
        out += batch["pfn"].tolist()
    return out


def test_every_field_of_a_record_arrives(kernel: Kernel) -> None:
    kernel.emit(1)
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        record = ring.drain()[0]
    values = {name: int(record[name]) for name in RECORD.names or ()}
    assert values.pop("time_ns") > 0
    assert values == {
        "pfn": 0,
        "nr_pages": 1,
        "tid": 2,
        "tgid": 3,
        "duration_ns": 4,
        "cgroup_id": 5,
        "stack_id": 6,
        "aux": -7,
        "kind": 9,
        "order": 1,
        "before": 2,
        "after": 129,
        "nr_present": 8,
        "flags": 16,
    }


def test_counts_are_exact_over_many_wraps(kernel: Kernel) -> None:
    seen: list[int] = []
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        for _ in range(40):
            kernel.emit(700)
            seen += numbers(ring)
        assert ring.used_bytes == 0
        assert ring.decode_errors == 0
    assert seen == list(range(40 * 700))
    assert kernel.state(1) == 0


def test_a_full_ring_refuses_and_goes_on_when_drained(kernel: Kernel) -> None:
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        kernel.emit(CAPACITY + 500)
        kept = numbers(ring)
        refused = kernel.state(1)
        assert kept == list(range(len(kept)))
        assert len(kept) + refused == CAPACITY + 500
        assert refused >= 500
        kernel.emit(3)
        assert numbers(ring) == [CAPACITY + 500 + i for i in range(3)]


def test_discarded_records_are_not_shown(kernel: Kernel) -> None:
    seen: list[int] = []
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        for _ in range(20):
            kernel.emit(900, discard_every=7)
            seen += numbers(ring)
        assert ring.decode_errors == 0
    assert seen == [n for n in range(20 * 900) if n % 7 != 6]


def test_records_of_another_length_are_counted_and_stepped_over(kernel: Kernel) -> None:
    """They also move everything behind them off the 64 byte grid, so later records wrap across the ring's end."""
    seen: list[int] = []
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        for _ in range(30):
            kernel.emit(900, odd_every=101, discard_every=13)
            seen += numbers(ring)
        assert ring.decode_errors == kernel.state(2) == 30 * 900 // 101
    assert seen == [n for n in range(30 * 900) if n % 101 != 100 and n % 13 != 12]


def test_a_limit_takes_a_part_and_loses_nothing(kernel: Kernel) -> None:
    kernel.emit(600)
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        first = ring.drain(limit_bytes=100 * 64)
        assert first["pfn"].tolist() == list(range(100))
        assert numbers(ring, limit_bytes=7 * 64) == list(range(100, 600))


def test_a_batch_keeps_its_room_until_the_next_drain(kernel: Kernel) -> None:
    """The kernel must not write over records that the model is still reading."""
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        kernel.emit(CAPACITY - 1)
        batch = ring.drain()
        before = batch.copy()
        kernel.emit(300)
        assert (batch == before).all()
        assert kernel.state(1) >= 299
        used = ring.used_bytes
        ring.release()
        assert ring.used_bytes == used - batch.nbytes


def test_poll_tells_when_there_is_something(kernel: Kernel) -> None:
    with MappedRing(kernel.fd, RING_BYTES) as ring:
        poll = select.epoll()
        poll.register(ring.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        kernel.emit(1)
        assert poll.poll(1) == [(kernel.fd, select.EPOLLIN)]
        numbers(ring)
        assert poll.poll(0) == []
        poll.close()


def test_a_process_without_privilege_reads_a_ring_that_was_handed_over(kernel: Kernel) -> None:
    kernel.emit(61)
    code = (
        "import os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "assert open('/proc/self/status').read().count('CapEff:\\t0000000000000000') == 1\n"
        "ring = MappedRing(int(sys.argv[1]), int(sys.argv[2]))\n"
        "print(len(ring.drain()))\n"
    )
    code = "from uaptrace.ebpf.ring import MappedRing\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code, str(kernel.fd), str(RING_BYTES)], pass_fds=[kernel.fd], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("61\n", "")


@pytest.mark.parametrize("size_bytes", [RING_BYTES // 2, RING_BYTES * 2, 5000, 0])
def test_a_wrong_size_is_refused(kernel: Kernel, size_bytes: int) -> None:
    with pytest.raises(CannotTraceError, match="ring buffer"):
        MappedRing(kernel.fd, size_bytes)


def test_what_is_not_a_ring_is_refused() -> None:
    with open(os.devnull) as file, pytest.raises(CannotTraceError, match="cannot map descriptor"):
        MappedRing(file.fileno(), RING_BYTES)
