# SPDX-License-Identifier: Apache-2.0
"""A recording gives back exactly what it was told, whatever happened to the writer or to the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.recording_pieces import counters, reading, records, start, task
from tests.unit.recording_updates import UPDATES, plain
from uaptrace.abi.errors import RecordingError, UsageError
from uaptrace.abi.wire import RECORD, RING_RECORD
from uaptrace.model.updates import Records, Update
from uaptrace.recording import RecordingFile, RecordingStoppedError, RecordingWriter, read_updates
from uaptrace.recording.waiting_rows import BATCH_ROWS


def one_line(error: Exception) -> str:
    """What the person sees."""
    assert "\n" not in str(error)
    return str(error)


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
