# SPDX-License-Identifier: Apache-2.0
"""A real kernel ring buffer, filled with uaptrace's records at full speed."""

from __future__ import annotations

from bench import bpf_run

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
