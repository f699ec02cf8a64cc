# SPDX-License-Identifier: Apache-2.0
"""What a recording says of itself, and to the data frames of others."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.unit.recording_pieces import counters, records, rotated, start, task
from uaptrace.abi.errors import RecordingError
from uaptrace.abi.events import Counter, Kind
from uaptrace.abi.units import Level
from uaptrace.abi.wire import RECORD
from uaptrace.commands.recording import recording as recording_command
from uaptrace.model.state import KernelState
from uaptrace.model.updates import MapReading, Records, Start
from uaptrace.recording import RecordingWriter, read_updates, recording_info
from uaptrace.recording.info import trim
from uaptrace.recording.schema import UPDATE_NAMES


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
