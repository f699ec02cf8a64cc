# SPDX-License-Identifier: Apache-2.0
"""A recording in parts: together they are the whole, each stands alone, and no more are kept than were asked for."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.unit.recording_pieces import counters, reading, records, rotated, start, task
from tests.unit.recording_updates import plain
from uaptrace.abi.errors import RecordingError
from uaptrace.abi.events import Kind
from uaptrace.abi.units import NR_ORDERS
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update
from uaptrace.recording import RecordingWriter, read_updates
from uaptrace.recording.remembered import MAX_REMEMBERED, MAX_SYMBOLS
from uaptrace.recording.writer import MAX_POSTPONED


@pytest.mark.parametrize("options", [{"max_age_s": 3.0}, {"max_bytes": 12_000}, {"max_bytes": 1}])
def test_parts_together_are_the_recording_and_each_stands_alone(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.rec"
    told = rotated(path, **options)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 2
    assert plain(read_updates(path)) == plain(told)
    for number in range(1, len(parts)):
        alone = list(read_updates(path.with_name(f"a.rec.{number}"), follow_parts=False))
        assert isinstance(alone[0], Start)
        assert any(isinstance(u, MapReading) and u.complete for u in alone)
        assert next(u.names for u in alone if isinstance(u, Symbols)) == {4096: "secretmem_fault+0x10"}
        names = np.concatenate([u.batch for u in alone if isinstance(u, Records)])
        assert (names["kind"] == Kind.TASK).sum() == 1
        # The kernel's counters begin at 0 where the part begins, and agree with its records from there on.
        assert next(int(u.words[2]) for u in alone if isinstance(u, CountersReading)) == 0
        seen = 0
        for update in alone:
            if isinstance(update, Records):
                seen += int((update.batch["kind"] == Kind.SET_DIRECT_MAP).sum())
            elif isinstance(update, CountersReading):
                assert int(update.words[2]) == seen


@pytest.mark.parametrize("busy_s", [7, 10**6])
def test_a_part_begins_when_the_cache_can_be_read_as_a_whole(tmp_path: Path, busy_s: int) -> None:
    """A part that begins in the middle of the cache's work would be inexact by itself; one that never could begin would grow for ever."""
    now = [0.0]

    def baseline() -> list[Update]:
        free = (0,) * NR_ORDERS
        at = int(now[0] * 1e9)
        cache = CacheReading(at, at, np.empty(0, np.int64), np.empty(0, np.uint8), free, free, free, atomic=now[0] >= busy_s)
        return [reading(at), cache, counters(at, 0)]

    with RecordingWriter(tmp_path / "a.rec", clock=lambda: now[0], sync=False, max_age_s=3.0, baseline=baseline) as writer:
        writer.write(start())
        while writer.part == 0:
            now[0] += 0.25
            writer.write(Records(records(10, first_ns=int(now[0] * 1e9))))
            writer.flush_if_due()
            assert now[0] < 100
    (cache,) = (u for u in read_updates(tmp_path / "a.rec.1", follow_parts=False) if isinstance(u, CacheReading))
    if busy_s == 7:
        assert cache.atomic
        assert 7 <= now[0] <= 8
    else:
        assert not cache.atomic
        assert 3 + MAX_POSTPONED <= now[0] <= 4 + MAX_POSTPONED


def test_only_so_many_parts_are_kept(tmp_path: Path) -> None:
    rotated(tmp_path / "a.rec", max_age_s=2.0, max_parts=2)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert len(left) == 2
    assert "a.rec" not in left
    assert isinstance(next(read_updates(tmp_path / left[0])), Start)
    with pytest.raises(RecordingError, match=left[0]):
        list(read_updates(tmp_path / "a.rec"))


def test_a_part_of_another_recording_is_left_alone(tmp_path: Path) -> None:
    told = rotated(tmp_path / "a.rec", max_age_s=3.0)
    rotated(tmp_path / "b.rec", max_age_s=3.0)
    os.replace(tmp_path / "b.rec.1", tmp_path / "a.rec.1")
    got = plain(read_updates(tmp_path / "a.rec"))
    assert got == plain(told)[: len(got)]
    assert 0 < len(got) < len(plain(told))


def test_a_process_that_is_named_once_has_its_name_in_every_part(tmp_path: Path) -> None:
    """The kernel says a name once and again when its table has forgotten it: thousands of others must not push it out of the next part."""
    now = [0.0]
    path = tmp_path / "a.rec"
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    with RecordingWriter(path, clock=lambda: now[0], sync=False, max_age_s=15.0, baseline=lambda: [reading(int(now[0] * 1e9))]) as writer:
        writer.write(start())
        writer.write(Records(task(7, b"worker")))
        for at in range(30):
            now[0] += 1.0
            visitors = np.concatenate([task(10_000 + at * 1_000 + i, b"visitor") for i in range(1_000)])
            work = records(1_000, first_ns=int(now[0] * 1e9))
            work["tgid"] = visitors["tgid"]
            work["cgroup_id"] = 10_000 + at * 1_000 + np.arange(1_000)
            own = records(1, first_ns=int(now[0] * 1e9))
            own["tgid"], own["cgroup_id"] = 7, 70
            writer.write(Records(np.concatenate([visitors, work, own])))
            writer.write(Cgroups({70: "/worker.service"} if at == 0 else {int(number): "/gone.scope" for number in work["cgroup_id"]}))
            writer.write(Symbols({at << 20 | i << 4: "module_function+0x10" for i in range(3_000)}))
        held = tracemalloc.get_traced_memory()[0] - before
        assert writer.part == 2
    tracemalloc.stop()
    assert held < 32 << 20
    alone = list(read_updates(tmp_path / "a.rec.2", follow_parts=False))
    named = np.concatenate([u.batch for u in alone if isinstance(u, Records)])
    tasks = named[named["kind"] == Kind.TASK]
    assert 7 in tasks["tgid"]
    assert len(tasks) <= MAX_REMEMBERED
    (first, *_) = (u for u in alone if isinstance(u, Cgroups))
    assert first.paths[70] == "/worker.service"
    assert len(next(u for u in alone if isinstance(u, Symbols)).names) <= MAX_SYMBOLS
