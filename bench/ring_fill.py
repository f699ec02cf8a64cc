# SPDX-License-Identifier: Apache-2.0
"""A real kernel ring buffer, filled with uaptrace's records at full speed."""

from __future__ import annotations

import numpy as np

from bench import bpf_run
from uaptrace.abi.wire import RECORD, Batch

RECORDS_PER_RUN = 16

PROGRAM = r"""
#include "events.h"
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);
int emit(struct __sk_buff *skb)
{
	#pragma unroll
	for (int i = 0; i < RECORDS_PER_RUN; i++) {
		struct uap_record *r = ring.ringbuf_reserve(sizeof(*r));
		if (!r)
			return 1;
		r->time_ns = bpf_ktime_get_ns();
		r->pfn = i; r->nr_pages = 1; r->tid = 2; r->tgid = 3; r->duration_ns = 4; r->cgroup_id = 5; r->stack_id = 6; r->aux = 7;
		r->kind = UAP_ALLOC; r->order = 0; r->before = UAP_2M; r->after = UAP_4K; r->nr_present = 0; r->flags = 0;
		ring.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	}
	return 0;
}
"""


class FilledRing:
    """``bpf`` is the bcc object, ``fd`` the ring's descriptor; ``fill`` puts records in."""

    def __init__(self, ring_bytes: int) -> None:
        self.ring_bytes = ring_bytes
        text = PROGRAM.replace("RING_PAGES", str(ring_bytes // 4096)).replace("RECORDS_PER_RUN", str(RECORDS_PER_RUN))
        self.bpf = bpf_run.compile_text("#define BPF_RB_NO_WAKEUP 1\n" + text)
        self._program = self.bpf.load_func(b"emit", self.bpf.SOCKET_FILTER)
        self.fd: int = self.bpf[b"ring"].map_fd
        self.capacity = (ring_bytes // 64 - 1) // RECORDS_PER_RUN * RECORDS_PER_RUN

    def fill(self, records: int | None = None) -> int:
        """Put ``records`` (rounded down to whole runs) into the ring, without it as many as fit; how many there are."""
        runs = min(self.capacity, records or self.capacity) // RECORDS_PER_RUN
        if bpf_run.run(self._program.fd, runs) != 0:
            raise RuntimeError("the ring was not empty before it was filled")
        return runs * RECORDS_PER_RUN


# As many as fit the packet that BPF_PROG_TEST_RUN takes (a page less the kernel's own room in it).
RECORDS_PER_PACKET = 60

COPY_PROGRAM = r"""
#include "events.h"
#define BPF_RB_NO_WAKEUP 1
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);
int copy(struct __sk_buff *skb)
{
	u32 nr = skb->len / sizeof(struct uap_record);

	for (u32 i = 0; i < RECORDS_PER_PACKET; i++) {
		if (i >= nr)
			break;
		struct uap_record *r = ring.ringbuf_reserve(sizeof(*r));
		if (!r)
			return 1;
		if (bpf_skb_load_bytes(skb, i * sizeof(*r), r, sizeof(*r))) {
			ring.ringbuf_discard(r, BPF_RB_NO_WAKEUP);
			return 2;
		}
		ring.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	}
	return 0;
}
"""


class RecordRing:
    """A real kernel ring buffer into which given records (wire.RECORD) are put."""

    def __init__(self, ring_bytes: int) -> None:
        self.ring_bytes = ring_bytes
        text = COPY_PROGRAM.replace("RING_PAGES", str(ring_bytes // 4096)).replace("RECORDS_PER_PACKET", str(RECORDS_PER_PACKET))
        self.bpf = bpf_run.compile_text(text)
        self._program = self.bpf.load_func(b"copy", self.bpf.SOCKET_FILTER)
        self.fd: int = self.bpf[b"ring"].map_fd
        self.capacity = ring_bytes // 64 - 1

    def put(self, records: Batch) -> None:
        """Put them in; there must be room."""
        raw = np.ascontiguousarray(records).tobytes()
        step = RECORDS_PER_PACKET * RECORD.itemsize
        for at in range(0, len(raw), step):
            part = raw[at : at + step]
            # A packet is at least 64 bytes: one record alone would be taken for one with something behind it, which is less than a second.
            if bpf_run.run(self._program.fd, 1, b"\0" * 14 + part) != 0:
                raise RuntimeError("no room in the ring")
