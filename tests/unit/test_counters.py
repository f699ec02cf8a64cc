# SPDX-License-Identifier: Apache-2.0
"""Counters are exact sums over CPUs, and a reading says whether it is of one moment."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import bpf_programs
from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.events import COUNTER_WORDS, Counter
from uaptrace.ebpf.counters import BLOCK_BYTES, MappedCounters, steady


class Fake:
    """A memory file of ``nr_cpus`` blocks."""

    def __init__(self, nr_cpus: int) -> None:
        self.fd = os.memfd_create("counters")
        os.ftruncate(self.fd, nr_cpus * BLOCK_BYTES)
        self.map = mmap.mmap(self.fd, 0)
        self.words = np.frombuffer(self.map, np.uint64).reshape(nr_cpus, COUNTER_WORDS)

    def close(self) -> None:
        del self.words
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake(4)
    yield made
    made.close()


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, COUNTER_WORDS - 1), st.integers(0, 2**60)), max_size=30),
)
def test_words_are_summed_over_cpus(nr_cpus: int, writes: list[tuple[int, int, int]]) -> None:
    made = Fake(nr_cpus)
    plain: dict[tuple[int, int], int] = {}
    for cpu, word, value in writes:
        made.words[cpu % nr_cpus, word] = value
        plain[cpu % nr_cpus, word] = value
    with MappedCounters(made.fd, nr_cpus) as counters:
        sums = counters.read()
    for word in range(COUNTER_WORDS):
        assert int(sums[word]) == sum(v for (_, w), v in plain.items() if w == word) % 2**64
    made.close()


def test_a_later_count_does_not_change_a_reading(fake: Fake) -> None:
    with MappedCounters(fake.fd, 4) as counters:
        first = counters.read()
        fake.words[2, Counter.REQUEST] += np.uint64(5)
        assert int(first[Counter.REQUEST]) == 0
        assert int(counters.read()[Counter.REQUEST]) == 5


def test_a_quiet_reading_is_taken_at_once(fake: Fake) -> None:
    fake.words[1, Counter.CACHE_FREE] = 7
    with MappedCounters(fake.fd, 4) as counters:
        reading = steady(counters, lambda: "rows")
    assert (reading.value, reading.quiet, reading.attempts, int(reading.words[Counter.CACHE_FREE])) == ("rows", True, 1, 7)


def test_what_was_disturbed_is_read_again(fake: Fake) -> None:
    calls = []

    def read() -> int:
        calls.append(1)
        if len(calls) < 3:
            fake.words[0, Counter.CACHE_ALLOC] += np.uint64(1)
        return len(calls)

    with MappedCounters(fake.fd, 4) as counters:
        reading = steady(counters, read, max_attempts=5)
    assert (reading.value, reading.quiet, reading.attempts) == (3, True, 3)


def test_what_never_comes_to_rest_is_said_to_be_unquiet(fake: Fake) -> None:
    def read() -> None:
        fake.words[3, Counter.CPA] += np.uint64(1)

    with MappedCounters(fake.fd, 4) as counters:
        reading = steady(counters, read, max_attempts=4)
        assert (reading.quiet, reading.attempts, int(reading.words[Counter.CPA])) == (False, 4, 4)
        only = steady(counters, read, watched=[Counter.CACHE_ALLOC, Counter.CACHE_FREE])
        assert (only.quiet, only.attempts) == (True, 1)


@pytest.mark.parametrize("nr_cpus", [5, 0])
def test_a_wrong_number_of_cpus_is_one_clear_sentence(fake: Fake, nr_cpus: int) -> None:
    with pytest.raises(CannotTraceError, match="CPUs") as caught:
        MappedCounters(fake.fd, nr_cpus)
    assert "\n" not in str(caught.value)


PROGRAM = r"""
#include "events.h"
struct block { u64 words[UAP_C_WORDS]; };
BPF_F_TABLE("array", u32, struct block, counters, NR_CPUS, 1024 /* BPF_F_MMAPABLE */);
int count(struct __sk_buff *skb)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct block *block = counters.lookup(&cpu);

	if (!block)
		return -1;
	block->words[UAP_C_CACHE_FREE] += 1;
	block->words[UAP_C_PAGES_FREED] += 512;
	return 0;
}
"""


def test_counts_of_a_real_program_on_every_cpu() -> None:
    nr_cpus = os.cpu_count() or 1
    bpf = bpf_programs.compile_text(PROGRAM.replace("NR_CPUS", str(nr_cpus)))
    program = bpf.load_func(b"count", bpf.SOCKET_FILTER)
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in allowed:
            os.sched_setaffinity(0, [cpu])
            assert bpf_programs.run(program.fd, 12347) == 0
    finally:
        os.sched_setaffinity(0, allowed)
    with MappedCounters(bpf[b"counters"].map_fd, nr_cpus) as counters:
        words = counters.read()
    assert int(words[Counter.CACHE_FREE]) == 12347 * len(allowed)
    assert int(words[Counter.PAGES_FREED]) == 512 * 12347 * len(allowed)
    assert int(words.sum()) == 513 * 12347 * len(allowed)


def test_a_map_that_cannot_be_mapped_is_refused() -> None:
    bpf = bpf_programs.compile_text(b"BPF_ARRAY(plain, u64, 512); int f(void *x) { return 0; }".decode())
    with pytest.raises(CannotTraceError, match="BPF_F_MMAPABLE"):
        MappedCounters(bpf[b"plain"].map_fd, 1)
