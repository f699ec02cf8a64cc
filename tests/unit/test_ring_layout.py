# SPDX-License-Identifier: Apache-2.0
"""Whatever a ring holds (records being written, discarded ones, other lengths, wraps), the reader's answer is the layout's.

A memory file laid out as the kernel lays out its ring buffer stands for the map: every state can be had, and no privilege is needed.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plain import CAN_COMPILE, as_python
from uaptrace.abi.errors import CannotTraceError
from uaptrace.abi.wire import RECORD
from uaptrace.ebpf import headers
from uaptrace.ebpf import ring as ring_module
from uaptrace.ebpf.ring import BUSY_BIT, DISCARD_BIT, MappedRing

PAGE = 4096
PLAIN_HEADERS = as_python(headers)


class FakeRing:
    """The kernel's side of a ring buffer, in a memory file; what it holds is also kept as a plain list."""

    def __init__(self, size_bytes: int, position: int) -> None:
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * size_bytes)
        self.map = mmap.mmap(self.fd, 0)
        self.positions = memoryview(self.map).cast("Q")
        self.data = np.frombuffer(self.map, np.uint8, offset=2 * PAGE)
        self.positions[0] = self.positions[PAGE // 8] = position
        self.headers: list[int] = []
        """Positions of the records that are still busy."""

    def used(self) -> int:
        return self.positions[PAGE // 8] - self.positions[0]

    def write(self, position: int, content: bytes) -> None:
        """Both copies, as they are one and the same memory in the kernel."""
        for i, byte in enumerate(content):
            offset = (position + i) & (self.size_bytes - 1)
            self.data[offset] = self.data[offset + self.size_bytes] = byte

    def reserve(self, body: bytes) -> int | None:
        """A busy record; its position, or None where the ring is full (the kernel never fills the last byte)."""
        total = (len(body) + 8 + 7) & ~7
        position = self.positions[PAGE // 8]
        if self.used() + total > self.size_bytes - 1:
            return None
        self.write(position, np.array([len(body) | BUSY_BIT, 77], "<u4").tobytes() + body)
        self.positions[PAGE // 8] = position + total
        return position

    def submit(self, position: int, length: int, discard: bool) -> None:
        self.write(position, np.array([length | (DISCARD_BIT if discard else 0)], "<u4").tobytes())

    def close(self) -> None:
        self.positions.release()
        del self.data
        self.map.close()
        os.close(self.fd)


def body(number: int, length: int = RECORD.itemsize) -> bytes:
    record = np.zeros(1, RECORD)
    record["pfn"] = number
    record["flags"] = number & 0xFFFF
    return record.tobytes()[:length].ljust(length, b"\xee")


@contextmanager
def opened(size_bytes: int = PAGE, position: int = 0) -> Iterator[tuple[FakeRing, MappedRing]]:
    fake = FakeRing(size_bytes, position)
    try:
        with MappedRing(fake.fd, size_bytes) as ring:
            yield fake, ring
    finally:
        fake.close()


ODD_LENGTHS = st.sampled_from([1, 8, 24, 48, 55, 57, 64, 120, 200])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 40)),
        st.tuples(st.just("discard"), st.integers(1, 6)),
        st.tuples(st.just("odd"), ODD_LENGTHS),
        st.tuples(st.just("odd discarded"), ODD_LENGTHS),
        st.tuples(st.just("begin"), st.just(0)),
        st.tuples(st.just("begin odd"), ODD_LENGTHS),
        st.tuples(st.just("finish"), st.just(0)),
        st.tuples(st.just("abandon"), st.just(0)),
        st.tuples(st.just("drain"), st.sampled_from([0, 1, 64, 200, 1000, 100000])),
    ),
    max_size=60,
)


class PlainRing:
    """A ring and a plain list of what was put into it: what must come out is read from the list."""

    def __init__(self, fake: FakeRing, ring: MappedRing) -> None:
        self.fake = fake
        self.ring = ring
        self.put: list[tuple[int, int, int, str]] = []  # position, number, length, state: busy, done or discarded
        self.seen: list[int] = []
        self.number = 0

    def add(self, length: int, state: str) -> None:
        where = self.fake.reserve(body(self.number, length))
        if where is not None:
            self.put.append((where, self.number, length, state))
            if state != "busy":
                self.fake.submit(where, length, state == "discarded")
        self.number += 1

    @property
    def newest_busy(self) -> int | None:
        return next((i for i in reversed(range(len(self.put))) if self.put[i][3] == "busy"), None)

    def finish(self, state: str) -> None:
        at = self.newest_busy
        if at is not None:
            where, number, length, _ = self.put[at]
            self.fake.submit(where, length, state == "discarded")
            self.put[at] = (where, number, length, state)

    def expected(self) -> tuple[list[int], int]:
        """(numbers of the records before the first busy one, how many of another size were among them)."""
        before = list(itertools.takewhile(lambda p: p[3] != "busy", self.put))
        done = [(number, length) for _, number, length, state in before if state == "done"]
        records = [number for number, length in done if length == RECORD.itemsize]
        return records, len(done) - len(records)

    def drain(self, limit: int | None) -> None:
        while len(batch := self.ring.drain(limit)):
            assert limit is None or len(batch) <= max(1, -(-limit // 64))
            assert (batch["flags"] == batch["pfn"] & 0xFFFF).all()
            assert not batch.flags.writeable
            self.seen.extend(batch["pfn"].tolist())
        assert (self.seen, self.ring.decode_errors) == self.expected()

    def take(self, what: str, argument: int) -> None:
        """One step of STEPS."""
        if what in ("put", "discard"):
            for _ in range(argument):
                self.add(RECORD.itemsize, "done" if what == "put" else "discarded")
        elif what in ("finish", "abandon"):
            self.finish("done" if what == "finish" else "discarded")
        elif what == "drain":
            self.drain(argument or None)
        else:
            state = {"odd": "done", "odd discarded": "discarded", "begin": "busy", "begin odd": "busy"}[what]
            self.add(argument or RECORD.itemsize, state)


@given(steps=STEPS, position=st.integers(0, 2**40 // 8).map(lambda n: n * 8), short_run=st.sampled_from([64, 256, 1 << 20]))
def test_every_submitted_record_comes_once_and_in_order(steps: list[tuple[str, int]], position: int, short_run: int) -> None:
    """Against a plain list of what was put in; a record being written holds back all behind it, and only those."""
    with pytest.MonkeyPatch.context() as patch, opened(PAGE, position) as (fake, ring):
        # Chunks and the kept buffer of a few records, so that their edges are met too.
        patch.setattr(ring_module, "_SHORT_RUN_BYTES", short_run)
        patch.setattr(ring_module, "_KEPT_BYTES", 64 * 5)
        patch.setattr(ring_module, "_CHUNK_BYTES", 64 * 3)
        plain = PlainRing(fake, ring)
        for what, argument in steps:
            plain.take(what, argument)
        while plain.newest_busy is not None:
            plain.finish("done")
        plain.drain(None)
        assert ring.used_bytes == fake.used() == 0


def test_a_record_being_written_holds_back_what_is_behind_it() -> None:
    with opened() as (fake, ring):
        for number in range(3):
            where = fake.reserve(body(number))
            assert where is not None
            fake.submit(where, RECORD.itemsize, False)
        busy = fake.reserve(body(3))
        after = fake.reserve(body(4))
        assert busy is not None
        assert after is not None
        fake.submit(after, RECORD.itemsize, False)
        assert ring.drain()["pfn"].tolist() == [0, 1, 2]
        assert len(ring.drain()) == 0
        assert ring.used_bytes == 128
        fake.submit(busy, RECORD.itemsize, False)
        assert ring.drain()["pfn"].tolist() == [3, 4]


def test_many_records_to_step_over_do_not_look_like_an_empty_ring() -> None:
    """Otherwise the reader would go to sleep on what is behind them, and nobody would wake it."""
    with opened(1 << 20) as (fake, ring):
        for number in range(5000):
            where = fake.reserve(body(number, 24))
            assert where is not None
            fake.submit(where, 24, number % 2 == 0)
        where = fake.reserve(body(1))
        assert where is not None
        fake.submit(where, RECORD.itemsize, False)
        assert ring.drain(limit_bytes=64)["pfn"].tolist() == [1]
        assert ring.decode_errors == 2500


def test_a_length_that_leads_past_the_end_costs_what_is_in_the_ring_and_no_more() -> None:
    with opened() as (fake, ring):
        where = fake.reserve(body(0))
        assert where is not None
        fake.submit(where, 0x3FFFFFFF, False)
        assert len(ring.drain()) == 0
        assert ring.decode_errors == 1
        assert ring.used_bytes == 0
        where = fake.reserve(body(9))
        assert where is not None
        fake.submit(where, RECORD.itemsize, False)
        assert ring.drain()["pfn"].tolist() == [9]


def test_a_batch_that_is_still_referred_to_outlives_the_ring() -> None:
    fake = FakeRing(PAGE, 0)
    where = fake.reserve(body(5))
    assert where is not None
    fake.submit(where, RECORD.itemsize, False)
    ring = MappedRing(fake.fd, PAGE)
    batch = ring.drain()
    ring.close()
    ring.close()
    assert batch["pfn"].tolist() == [5]
    fake.close()


@pytest.mark.parametrize(("size_bytes", "said"), [(PAGE * 2, "of that size"), (3000, "power of two"), (PAGE * 3, "power of two")])
def test_a_wrong_size_is_one_clear_sentence(size_bytes: int, said: str) -> None:
    fake = FakeRing(PAGE, 0)
    with pytest.raises(CannotTraceError, match=said) as caught:
        MappedRing(fake.fd, size_bytes)
    assert "\n" not in str(caught.value)
    fake.close()


def test_headers_are_looked_at_by_compiled_code_where_it_can_be() -> None:
    assert not PLAIN_HEADERS.is_compiled()
    if CAN_COMPILE:
        assert headers.is_compiled(), "install again (pip install -e .): headers.py is not compiled, though a C compiler is there"


@given(
    words=st.lists(st.sampled_from([56, 56, 56, 0, BUSY_BIT, DISCARD_BIT | 56, 2**32 - 1]), min_size=1, max_size=90), step=st.integers(1, 9)
)
def test_compiled_and_plain_stop_at_the_same_record(words: list[int], step: int) -> None:
    view = np.array(words, np.uint32).data
    for first in range(min(step, len(words))):
        count = len(words[first::step])
        expected = next((i for i, word in enumerate(words[first::step]) if word != 56), count)
        for module in (headers, PLAIN_HEADERS):
            assert module.plain_records(view, first, count, step, 56) == expected


def test_a_rest_ends_when_the_ring_fills_and_when_it_is_woken() -> None:
    """It would last an hour otherwise."""
    wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        with opened() as (fake, ring):
            os.eventfd_write(wake_fd, 1)
            assert ring.rest(3600, wake_fd)
            os.eventfd_read(wake_fd)
            assert not ring.rest(0, wake_fd)
            while ring.used_bytes * 8 < ring.size_bytes:
                position = fake.reserve(body(1))
                assert position is not None
                fake.submit(position, RECORD.itemsize, discard=False)
            assert not ring.rest(3600, wake_fd)
    finally:
        os.close(wake_fd)
