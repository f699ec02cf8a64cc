# SPDX-License-Identifier: Apache-2.0
"""Recordings whose values no kernel would write, by every command that reads recordings."""

from __future__ import annotations

import contextlib
import re
import timeit
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.reading_commands import OPEN_FILES, Commands, commands, reading_commands
from uaptrace.abi.errors import RecordingError
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.wire import RECORD
from uaptrace.model.causes import _told, classify
from uaptrace.model.snapshot import HostInfo
from uaptrace.model.updates import CacheReading, Cgroups, Records, Start
from uaptrace.policies.requests import requests_from_updates
from uaptrace.recording import RecordingWriter, read_updates
from uaptrace.recording.ipc_messages import MAX_BATCH_BYTES, MAX_ROWS
from uaptrace.recording.schema import CODE_SYMBOLS, KEY_VERSION, arrow_schema, kind_names
from uaptrace.session.replay import ReplaySource

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "hostile").glob("*.rec"))
OK, BROKEN, REFUSED = 0, 3, 4
LIMIT_BYTES = 300 << 20
LIMIT_S = 10
"""Processor time of the slowest command, on a slow machine; others take under 3 s."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e\u2028\u2029\ufeff]")
"""What a terminal obeys, or what hides text, but line feed and tab."""

SOUND = {"escapes.rec", "newlines.rec", "json_surrogate.rec", "rec_cpa_1M_g1.rec", "rec_refill_quadratic.rec", "rec_uncertain_big.rec"}
"""Recordings of which each value can be: odd names, or much of what a kernel may send. The others are refused."""


@pytest.fixture(scope="module")
def forked() -> Iterator[Commands]:
    with commands() as running:
        yield running


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_every_reading_command_answers_or_refuses_in_one_line(recording: Path, forked: Commands, tmp_path: Path) -> None:
    for name, arguments in reading_commands(recording, tmp_path).items():
        ran = forked.run(arguments)
        said = f"{name}: {ran}"
        assert ran.status in ((OK, BROKEN, REFUSED) if name == "audit" else (OK, REFUSED)), said
        assert "Traceback" not in ran.err, said
        assert not CONTROL.search(ran.out), said
        assert not CONTROL.search(ran.err), said
        assert ran.err.count("\n") == (0 if ran.status == OK else 1), said
        assert ran.cpu_s < LIMIT_S, said
        assert ran.rss_bytes < LIMIT_BYTES, said
        if recording.name not in SOUND:
            if name == "top at" and ran.status == OK:
                continue  # the value comes after that time
            assert ran.status == REFUSED, said
            assert "not a usable recording" in ran.err, said
        elif not name.startswith("whatif"):  # which has nothing to do where there is no request
            assert ran.status != REFUSED, said


def test_all_the_recordings_are_there() -> None:
    assert len(RECORDINGS) >= 27
    assert {path.name for path in RECORDINGS} >= SOUND


@pytest.mark.slow
def test_a_recording_may_have_more_parts_than_a_process_may_open_files(forked: Commands, tmp_path: Path) -> None:
    path = tmp_path / "many.rec"
    with RecordingWriter(path, max_bytes=1, sync=False) as writer:
        writer.write(Start(HostInfo(hostname="many"), (), 1, 1.0, frozenset()))
        for number in range(OPEN_FILES + 16):
            writer.write(Cgroups({number: f"/{number}"}))
            writer.flush()
    assert writer.part > OPEN_FILES
    arguments = reading_commands(path, tmp_path)
    for name in ("top", "top at", "trace", "info", "share"):
        ran = forked.run(arguments[name])
        assert ran.status == OK, ran


@pytest.mark.parametrize(
    "symbol", ["optimise" * 63, "kprobe" * 85, "kprobeoptimi" * 42, "a" * 511, "bpf_prog_" + "a" * 480, "dma_" * 127, "kexec_" * 85]
)
def test_the_cause_takes_time_in_proportion_to_a_name(symbol: str) -> None:
    short = min(timeit.repeat(lambda: classify([symbol[:128]]), number=1, repeat=5, setup=causes_anew))
    long = min(timeit.repeat(lambda: classify([symbol]), number=1, repeat=5, setup=causes_anew))
    assert long < 40 * short + 0.001


def causes_anew() -> None:
    _told.cache_clear()


@pytest.mark.parametrize(("nr_rows", "nr_bytes"), [(1, MAX_BATCH_BYTES + 1), (MAX_ROWS + 1, 0)], ids=["bytes", "rows"])
def test_a_batch_that_becomes_large_is_refused_before_it_does(nr_rows: int, nr_bytes: int, forked: Commands, tmp_path: Path) -> None:
    path = tmp_path / "large.rec"
    columns = {name: pa.array(np.zeros(nr_rows, column.type.to_pandas_dtype())) for name, column in number_columns().items()}
    columns["kind"] = pa.DictionaryArray.from_arrays(pa.array(np.full(nr_rows, CODE_SYMBOLS, np.int16)), pa.array(kind_names()))
    columns["text"] = pa.array(["{}"] + [None] * (nr_rows - 1), pa.utf8())
    columns["data"] = pa.array([bytes(nr_bytes)] + [None] * (nr_rows - 1), pa.binary())
    schema = arrow_schema({KEY_VERSION: b"1"})
    batch = pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)
    with pa.ipc.new_stream(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_batch(batch)
    assert path.stat().st_size < 1 << 20
    for name in ("info", "trace", "top"):
        ran = forked.run(reading_commands(path, tmp_path)[name])
        assert ran.status == REFUSED, ran
        assert "more than" in ran.err, ran
        assert ran.rss_bytes < 100 << 20, ran


def number_columns() -> dict[str, pa.Field]:
    """The fields of the columns of numbers."""
    return {field.name: field for field in arrow_schema() if field.name not in ("kind", "text", "data")}


def test_a_recording_that_cannot_be_played_on_says_so_each_time_it_is_asked() -> None:
    """A screen asks again: it must not be shown a state that lacks what was refused."""
    with contextlib.closing(ReplaySource(RECORDINGS[0], None, budget_s=None)) as source:
        for _ in range(3):
            with pytest.raises(RecordingError, match="order 30"):
                source.latest()
        source.pause()
        source.jump(0.0)
        assert source.latest() is not None


def test_what_a_live_kernel_may_say_is_not_refused(tmp_path: Path) -> None:
    """Blocks that moved while they were read, and a request for more than there is."""
    moving = CacheReading(1, 2, np.array([0, 4, 7]), np.array([3, 3, 11], np.uint8), None, None, None, False)
    # Written by recorders that did not look whether blocks overlap before they called it one moment.
    overlapping = CacheReading(3, 4, np.array([512, 768]), np.array([9, 8], np.uint8), None, None, None, True)
    failed = np.zeros(1, RECORD)
    failed["kind"], failed["order"], failed["nr_pages"], failed["flags"] = Kind.ALLOC, 12, 4096, Flag.FAILED
    path = tmp_path / "live.rec"
    with RecordingWriter(path, sync=False) as writer:
        for update in (Start(HostInfo(has_series=True), (), 1, 1.0, frozenset()), moving, overlapping, Records(failed)):
            writer.write(update)
    assert [update.atomic for update in read_updates(path) if isinstance(update, CacheReading)] == [False, False]
    with contextlib.closing(ReplaySource(path, None, budget_s=None)) as source:
        snapshot = source.latest()
    assert snapshot is not None
    assert snapshot.loss.events_taken == 1
    assert requests_from_updates(read_updates(path)).skipped == 1
