# SPDX-License-Identifier: Apache-2.0
"""A recording gives back exactly what it was told, whatever happened to the writer or to the file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.recording_updates import UPDATES, plain
from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.units import NR_ORDERS, Level
from uaptrace.abi.wire import RECORD, RING_RECORD, Batch
from uaptrace.commands.recording import recording as recording_command
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.state import KernelState
from uaptrace.model.updates import CacheReading, Cgroups, CountersReading, MapReading, Records, Start, Symbols, Update
from uaptrace.recording import RecordingFile, RecordingStoppedError, RecordingWriter, read_updates, recording_info
from uaptrace.recording.columns import BATCH_ROWS
from uaptrace.recording.info import trim
from uaptrace.recording.schema import UPDATE_NAMES
from uaptrace.recording.writer import MAX_POSTPONED


def start(time_ns: int = 1_000) -> Start:
    hooks = (HookStatus("split", "flush_tlb_all", "fentry"), HookStatus("release", None, None, "not in this kernel"))
    return Start(
        HostInfo("testhost", "6.1.0-44-amd64", nr_cpus=2), hooks, time_ns, 1_700_000_000.5, frozenset({42}), {Level.M2: 3}, 1 << 20
    )


def one_line(error: Exception) -> str:
    """What the person sees."""
    assert "\n" not in str(error)
    return str(error)


def records(n: int, first_ns: int = 2_000) -> Batch:
    batch = np.zeros(n, RECORD)
    batch["time_ns"] = first_ns + 1_000 * np.arange(n)
    batch["kind"] = Kind.SET_DIRECT_MAP
    batch["pfn"] = 4096 + np.arange(n)
    batch["nr_pages"] = 1
    batch["before"], batch["after"] = 1, 129
    return batch


def task(tgid: int, comm: bytes, time_ns: int = 1_500) -> Batch:
    batch = np.zeros(1, RECORD)
    overlay = comm.ljust(16, b"\0")
    batch["time_ns"], batch["kind"], batch["tgid"] = time_ns, Kind.TASK, tgid
    batch["pfn"] = int.from_bytes(overlay[:8], "little")
    batch["nr_pages"] = int.from_bytes(overlay[8:12], "little")
    batch["tid"] = int.from_bytes(overlay[12:], "little")
    return batch


def counters(time_ns: int, allocs: int) -> CountersReading:
    words = np.zeros(512, np.uint64)
    words[2] = allocs
    return CountersReading(time_ns, words, 0, {Level.M2: 7}, None, None, None, None, None, True)


def reading(time_ns: int) -> MapReading:
    levels = np.array([1, 2, 2, 0], np.uint8)
    return MapReading(time_ns - 10, time_ns, 0, levels, np.array([0], np.int64), np.ones((1, 512), np.uint8), True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(UPDATES, max_size=8), st.booleans())
def test_every_sequence_of_updates_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, updates: list[Update], eager: bool
) -> None:
    path = tmp_path_factory.mktemp("r") / "a.rec"
    with RecordingWriter(path, sync=False) as writer:
        for update in updates:
            writer.write(update)
            if eager:
                writer.flush()
    assert plain(read_updates(path)) == plain(updates)
    with RecordingFile(path) as file:
        list(file.batches())
        assert file.tail is not None
        assert file.tail.complete


def test_records_straight_from_the_ring_and_more_than_one_batch_of_them(tmp_path: Path) -> None:
    n = 2 * BATCH_ROWS + 17
    ring = np.zeros(n, RING_RECORD)
    want = records(n)
    for name in RECORD.names or ():
        ring[name] = want[name]
    ring["length"] = 56
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(Records(ring))
        ring["pfn"] = 0  # the ring's memory is used again at once
    got = [u for u in read_updates(tmp_path / "a") if isinstance(u, Records)]
    assert [len(u.batch) for u in got] == [BATCH_ROWS, BATCH_ROWS, 17]
    assert np.concatenate([u.batch for u in got]).tobytes() == want.tobytes()


def test_nothing_waits_longer_than_a_second(tmp_path: Path) -> None:
    now = [100.0]
    writer = RecordingWriter(tmp_path / "a", clock=lambda: now[0], sync=False)
    writer.write(start())
    now[0] = 100.9
    writer.write(Records(records(5)))
    assert (tmp_path / "a").stat().st_size == 0
    now[0] = 101.0
    writer.flush_if_due()
    assert plain(read_updates(tmp_path / "a")) == plain([start(), Records(records(5))])
    writer.close()


@pytest.mark.slow
def test_cut_at_every_byte_gives_a_clean_beginning_or_one_clear_line(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told: list[Update] = [start(), Records(records(3)), Records(task(7, b"cat")), reading(9_000), counters(10_000, 3)]
    ends: list[int] = []
    with RecordingWriter(whole, sync=False) as writer:
        for i, update in enumerate(told):
            writer.write(update)
            if i in (0, 2, 4):
                writer.flush()
            ends.append(writer.nr_bytes)
    ends[1], ends[3] = ends[2], ends[4]
    raw = whole.read_bytes()
    want = [plain(told[:i]) for i in range(len(told) + 1)]
    for size in range(len(raw) + 1):
        cut.write_bytes(raw[:size])
        nr_whole = sum(size >= end for end in ends)
        try:
            got = plain(read_updates(cut))
        except RecordingError as error:
            one_line(error)
            assert nr_whole == 0
            continue
        assert got == want[nr_whole]
        if size % 7 and size < len(raw) - 20:
            continue
        with RecordingFile(cut) as file:
            list(file.batches())
            assert file.tail is not None
            assert file.tail.complete == (size == len(raw))
            if nr_whole and size < len(raw) - 8:
                assert file.tail.lost_bytes == size - ends[nr_whole - 1]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    if not path.with_suffix(".good").exists():
        with RecordingWriter(path.with_suffix(".good"), overwrite=True, sync=False) as writer:
            for update in (start(), Records(task(7, b"cat")), Records(records(50)), reading(9_000), counters(10_000, 3)):
                writer.write(update)
    raw = bytearray(path.with_suffix(".good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        for read in read_updates(path):
            assert read is not None
    except RecordingError as error:
        one_line(error)


def _foreign_files(tmp_path: Path) -> dict[str, bytes]:
    import pyarrow.parquet

    table = pa.table({"a": [1, 2, 3]})
    stream, file = pa.BufferOutputStream(), pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    parquet = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, parquet)
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text": b"kernel: direct map\n" * 40,
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(60),
        "gzip": b"\x1f\x8b\x08\0" + bytes(range(200)),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "arrow stream": stream.getvalue().to_pybytes(),
        "arrow file": file.getvalue().to_pybytes(),
        "parquet": parquet.getvalue().to_pybytes(),
    }


def test_foreign_files_get_one_line_that_names_the_file(tmp_path: Path) -> None:
    for name, raw in _foreign_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(RecordingError) as caught:
            list(read_updates(path))
        assert str(path) in one_line(caught.value), name
        assert caught.value.exit_status == 4
    with pytest.raises(RecordingError, match="no such file"):
        list(read_updates(tmp_path / "missing"))
    with pytest.raises(RecordingError):
        list(read_updates(tmp_path))


def test_a_later_version_is_named_not_guessed(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(start())
    raw = (tmp_path / "a").read_bytes()
    mark = raw.index(b"uaptrace.recording")
    at = raw.rindex(b"1\0", 0, mark) if raw.rfind(b"1\0", mark - 64, mark) >= 0 else raw.index(b"1\0", mark)
    changed = raw[:at] + b"9" + raw[at + 1 :]
    (tmp_path / "a").write_bytes(changed)
    with pytest.raises(RecordingError, match=r"recording of version 9, .*reads version 1:"):
        list(read_updates(tmp_path / "a"))


KILLED = """
import sys, numpy as np
from tests.unit.test_recording import records, start
from uaptrace.model.updates import Records
from uaptrace.recording import RecordingWriter
now = [0.0]
writer = RecordingWriter(sys.argv[1], clock=lambda: now[0])
writer.write(start())
for i in range(10**9):
    now[0] += 0.4
    writer.write(Records(records(1000, first_ns=i * 1_000_000)))
    if i == 9:
        print("ready", flush=True)
"""


def test_kill_9_costs_at_most_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    got = list(read_updates(path))
    assert plain(got[:1]) == plain([start()])
    batch = np.concatenate([u.batch for u in got if isinstance(u, Records)])
    # Ten writes, one each 0.4 s, were made before the kill: what is older than a second, the first seven, is there for certain.
    assert len(batch) >= 7 * 1000
    blocks = batch["time_ns"].reshape(-1, 1000)[:, 0]
    assert (blocks == np.arange(len(blocks)) * 1_000_000).all()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root and mount for a small tmpfs")
def test_a_full_disk_is_said_once_and_what_was_written_stays_readable(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        rng = np.random.default_rng(1)
        writer = RecordingWriter(tmp_path / "a")
        writer.write(start())
        written: list[Update] = [start()]
        told = list(written)
        stopped: RecordingStoppedError | None = None
        while stopped is None:
            batch = records(1000, first_ns=len(told) * 1_000_000)
            batch["duration_ns"] = rng.integers(0, 2**32, 1000)
            told.append(Records(batch))
            try:
                writer.write(told[-1])
                writer.flush()
                written = list(told)
            except RecordingStoppedError as error:
                stopped = error
        assert "No space left on device" in one_line(stopped)
        assert len(written) > 10
        assert plain(read_updates(tmp_path / "a")) == plain(written)
        with pytest.raises(RecordingStoppedError):
            writer.write(start())
        writer.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_existing_file_is_not_written_over_unasked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        RecordingWriter(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "precious"
    (tmp_path / "b.2").write_text("left over from a rotated recording")
    with pytest.raises(UsageError, match="exists"):
        RecordingWriter(tmp_path / "b")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordingStoppedError, match="No such file or directory"):
        RecordingWriter(tmp_path / "missing" / "a")


def rotated(path: Path, **options: object) -> list[Update]:
    """A recording in several parts; gives what was told, without what the parts repeat."""
    now = [0.0]
    told: list[Update] = []
    writer = RecordingWriter(
        path,
        clock=lambda: now[0],
        sync=False,
        baseline=lambda: [reading(int(now[0] * 1e9)), counters(int(now[0] * 1e9), int(now[0]) * 100)],
        **options,  # type: ignore[arg-type]
    )

    def tell(update: Update) -> None:
        told.append(update)
        writer.write(update)

    tell(start())
    tell(Records(task(7, b"cat")))
    tell(Symbols({4096: "secretmem_fault+0x10"}))
    for i in range(10):
        now[0] += 1.0
        tell(Records(records(100, first_ns=int(now[0] * 1e9))))
        tell(counters(int(now[0] * 1e9) + 1, (i + 1) * 100))
    tell(Cgroups({5: "/system.slice/a.service"}))
    writer.close()
    return told


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


def test_info_says_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    rotated(path, max_age_s=3.0)
    whole = recording_info(path)
    assert whole.records_by_kind == {"task": 1, "set_direct_map": 1000}
    assert whole.updates_by_kind == {"start": 1, "counters_reading": 10, "symbols": 1, "cgroups": 1}
    assert [part.closed for part in whole.parts] == [True] * 4
    assert whole.events_lost == 0
    assert whole.missing == (
        "no reading of the direct map: its layout is known only where something changed",
        "hook release was not attached: not in this kernel",
    )
    last = path.with_name("a.rec.3")
    last.write_bytes(last.read_bytes()[:-500])
    cut = recording_info(path)
    assert cut.parts[-1].lost_bytes > 0
    assert cut.missing[0] == f"a.rec.3: cut off: {cut.parts[-1].lost_bytes} bytes at the end cannot be read"
    assert trim(last) == cut.parts[-1].lost_bytes
    assert recording_info(path).missing[0] == "a.rec.3: not closed by its writer: what happened in its last second may be missing"
    assert pa.ipc.open_stream(last).read_all().num_rows == recording_info(last).parts[0].nr_rows
    assert trim(last) == 0
    alone = recording_info(path.with_name("a.rec.2"), follow_parts=False)
    assert "parts before number 2 are not read" in alone.missing[0]
    assert alone.duration_ns < 4e9


def test_lost_events_are_told(tmp_path: Path) -> None:
    words = np.zeros(512, np.uint64)
    words[Counter.LOST + Kind.ALLOC] = 17
    words[Counter.CONTEXT_LOST] = 2
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(start())
        writer.write(replace(counters(5_000, 0), words=words, missed_runs=3))
    found = recording_info(tmp_path / "a")
    assert found.events_lost == 17
    assert {"17 events found no room in the ring (alloc 17)", "2 calls could not be followed"} < set(found.missing)


def test_the_command_prints_both_forms_and_one_line_for_a_foreign_file(tmp_path: Path) -> None:
    rotated(tmp_path / "a.rec", max_age_s=3.0)
    runner = CliRunner()
    text = runner.invoke(recording_command, ["info", str(tmp_path / "a.rec")])
    assert text.exit_code == 0
    assert "events lost    0" in text.output
    said = json.loads(runner.invoke(recording_command, ["info", "--json", str(tmp_path / "a.rec")]).output)
    assert said["records"] == 1001
    assert said["host"]["kernel_release"] == "6.1.0-44-amd64"
    (tmp_path / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    failed = runner.invoke(recording_command, ["info", str(tmp_path / "png")])
    assert isinstance(failed.exception, RecordingError)


DOCS = Path(__file__).parents[2] / "docs" / "recordings.md"


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_one_liners_of_the_documentation_open_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    pytest.importorskip(library)
    found = re.search(rf"```python\n(import[^`]*\b{library}\b[^`]*)```", DOCS.read_text())
    assert found is not None
    with RecordingWriter(tmp_path / "host.rec", sync=False) as writer:
        writer.write(start())
        writer.write(Records(task(7, b"cat")))
        writer.write(Records(records(250)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(found[1], names)
    counted = names["counts"]
    if library == "pandas":
        result = dict(counted)  # type: ignore[call-overload]
    elif library == "polars":
        result = dict(counted.rows())  # type: ignore[attr-defined]
    else:
        result = dict(counted.fetchall())  # type: ignore[attr-defined]
    assert {k: n for k, n in result.items() if n} == {"start": 1, "task": 1, "set_direct_map": 250}


def test_columns_are_numbers_without_nulls_and_names_are_text(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(start())
        writer.write(Records(task(7, b"systemd-journal")))
        writer.write(Records(records(5)))
    table = pa.ipc.open_stream(tmp_path / "a").read_all()
    for field in table.schema:
        assert field.metadata[b"description"]
        if field.name not in ("text", "data"):
            assert table[field.name].null_count == 0
    assert table["text"].to_pylist()[1] == "systemd-journal"
    assert table["pfn"].to_pylist()[1] == 0
    described = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.M))
    assert described == set(table.schema.names) | set(UPDATE_NAMES.values())


def test_the_questions_of_the_documentation_are_answered(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    batch = records(100)
    batch["kind"][:7] = Kind.SPLIT
    batch["duration_ns"] = 3000
    with RecordingWriter(tmp_path / "a", sync=False) as writer:
        writer.write(start())
        writer.write(Records(task(7, b"cat")))
        writer.write(Records(batch))
    questions = re.search(r"```sql\n(.*?)```", DOCS.read_text(), re.S)
    assert questions is not None
    answers = []
    for question in questions[1].split(";\n"):
        if question.strip():
            host = pa.ipc.open_stream(tmp_path / "a").read_all()
            answers.append(duckdb.sql(question).fetchall())
            del host
    assert answers == [[(0, 0, 7)], [([3.0, 3.0],)], [(7, "cat")]]


def test_version_1_stays_readable() -> None:
    path = Path(__file__).parents[1] / "data" / "format-v1.rec"
    digest = hashlib.sha256()
    updates = list(read_updates(path))
    for update in updates:
        if isinstance(update, Records):
            digest.update(update.batch.astype(RECORD).tobytes())
    assert digest.hexdigest() == "51968dc8f74a3f0169dbf632a0482980ed0e13b5f7c331f69422155f43416242"
    found = recording_info(path)
    assert (found.version, found.nr_records, found.missing) == (1, 1123, ())
    assert dict(found.updates_by_kind) == {
        "start": 1, "map_reading": 1, "cache_reading": 1, "counters_reading": 4, "symbols": 1, "cgroups": 1,
    }  # fmt: skip
    first = updates[0]
    assert isinstance(first, Start)
    assert (first.host.kernel_release, first.host.has_series, first.splits_during_attach) == (
        "6.1.192-series",
        True,
        {Level.M2: 2, Level.G1: 0},
    )
    read = next(u for u in updates if isinstance(u, MapReading))
    assert (len(read.levels), read.split_regions.tolist(), read.pages.tobytes()) == (3072, [0], b"\1" * 512)
    state = KernelState()
    for update in updates:
        state.update(update)
    snapshot = state.snapshot(0, 0.0)
    assert (snapshot.exactness.exact, snapshot.splits.by_level(Level.M2), snapshot.direct_map.total_bytes) == (True, 2, 5 << 30)


def test_neither_writing_nor_reading_imports_pandas(tmp_path: Path) -> None:
    """Arrow imports it, where it is installed, to ask whether what it is given is of it: most of a second at each start."""
    code = f"""
import sys
from uaptrace.recording import RecordingWriter, read_updates
with RecordingWriter({str(tmp_path / "copy.uap")!r}) as writer:
    for update in read_updates({str(Path(__file__).parents[1] / "data" / "debian-6.1.uaptrace")!r}):
        writer.write(update)
print([name for name in ("pandas", "pyarrow.compute") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
