# SPDX-License-Identifier: Apache-2.0
"""Files of recordings: whose they are, what is replaced, pipes, and what is shared."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.command_files import RECORDING, UAPTRACE, uaptrace
from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.process.files import write_whole
from uaptrace.recording import RecordingWriter, read_updates

START = next(iter(read_updates(RECORDING)))


# Recordings


def make_recording(path: Path, *, overwrite: bool = False) -> None:
    with RecordingWriter(path, sync=False, overwrite=overwrite) as writer:
        writer.write(START)


def test_a_recording_is_its_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_recording(tmp_path / "a.rec")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.rec").stat().st_mode) == 0o600


def test_only_recordings_are_replaced_or_removed(tmp_path: Path) -> None:
    messages = tmp_path / "messages"
    (tmp_path / "messages.1").write_text("the system's log")
    make_recording(tmp_path / "messages.2x")
    shutil.move(tmp_path / "messages.2x", tmp_path / "messages.2")
    make_recording(messages, overwrite=True)
    assert (tmp_path / "messages.1").read_text() == "the system's log"
    assert not (tmp_path / "messages.2").exists()  # A part of an older recording.
    with pytest.raises(UsageError, match=r"messages\.1 is in the way"):
        RecordingWriter(messages, overwrite=True, max_bytes=1 << 20)
    log = tmp_path / "log"
    log.write_text("\xff\xff\xff\xff looks like one")
    with pytest.raises(UsageError, match="not a recording"):
        RecordingWriter(log, overwrite=True)
    assert log.read_text() == "\xff\xff\xff\xff looks like one"


def write_for_ever(writer: RecordingWriter) -> None:
    while True:
        writer.write(START)
        writer.flush()


def test_a_recording_into_a_pipe_goes_to_its_readers_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    copy = tmp_path / "copy.rec"
    with subprocess.Popen(["bash", "-c", f"cat {pipe} >{copy}"]), RecordingWriter(pipe) as writer:
        for _ in range(20):
            writer.write(START)
            writer.flush()
    make = tmp_path / "file.rec"
    with RecordingWriter(make) as writer:
        for _ in range(20):
            writer.write(START)
            writer.flush()
    assert uaptrace("recording", "info", copy).returncode == 0
    assert copy.stat().st_size == make.stat().st_size

    with subprocess.Popen(["head", "-c", "100", pipe], stdout=subprocess.DEVNULL) as reader:
        writer = RecordingWriter(pipe)
        with pytest.raises(UaptraceError) as stopped:
            write_for_ever(writer)
        writer.close()
    assert reader.returncode == 0
    assert (stopped.value.exit_status, str(stopped.value)) == (141, "")


def test_a_pipe_has_no_parts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot have parts"):
        RecordingWriter(tmp_path / "pipe", max_bytes=1 << 20)


@pytest.mark.parametrize("command", [["recording", "info"], ["report", "--format", "md"], ["whatif"], ["trace", "--replay"]])
def test_a_recording_from_a_pipe_is_one_line_that_says_what_to_do(command: list[str]) -> None:
    script = f'cat {RECORDING} | "$@" /dev/stdin'
    done = subprocess.run(["bash", "-c", script, "-", *UAPTRACE, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "write what comes from a pipe to a file" in done.stderr


def test_write_whole_to_a_slow_reader(tmp_path: Path) -> None:
    """A pipe that somebody made non-blocking takes all of it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = os.urandom(1 << 20)
    with subprocess.Popen(["sha256sum"], stdin=reading, stdout=subprocess.PIPE, text=True) as reader:
        os.close(reading)
        write_whole(f"/dev/fd/{writing}", data)
        os.close(writing)
        assert reader.stdout is not None
        assert reader.stdout.read().split()[0] == hashlib.sha256(data).hexdigest()


# Recordings for others


def kernel_addresses(recording: Path) -> list[str]:
    """Whatever in the columns of a recording looks like an address of the kernel's half, as a number, in text or in bytes."""

    def is_address(word: int) -> bool:
        return word >> 47 == (1 << 17) - 1 and word != (1 << 64) - 1

    found: list[str] = []
    with pa.OSFile(str(recording)) as file:
        table = pa.ipc.open_stream(file).read_all()
    found += re.findall(r"f{4}[89a-f][0-9a-f]{11}", str(table.schema.to_string(show_field_metadata=True, show_schema_metadata=True)))
    for name in table.column_names:
        for value in table[name].to_pylist():
            if isinstance(value, str):
                found += re.findall(r"f{4}[89a-f][0-9a-f]{11}", value)
            elif isinstance(value, bytes):
                found += [hex(word) for word in np.frombuffer(value[: len(value) // 8 * 8], "<u8").tolist() if is_address(word)]
            elif value is not None and is_address(value):
                found.append(hex(value))
    return found


def without_names(text: str, path: Path) -> str:
    """Output without the file's name, numbers of stacks, and with one word for each address without a name."""
    text = re.sub(r'"stack_id": \d+', '"stack_id": 1', text)
    return re.sub(r"0xf{4}[0-9a-f]{12}|\[unnamed \d+\]", "ADDRESS", text.replace(str(path), "FILE").replace(path.name, "FILE"))


def test_a_shared_recording_has_no_kernel_address_and_answers_the_same(tmp_path: Path) -> None:
    shared = tmp_path / "shared.rec"
    assert kernel_addresses(RECORDING)
    done = uaptrace("recording", "share", RECORDING, shared)
    assert (done.returncode, done.stderr) == (0, "")
    assert kernel_addresses(shared) == []
    assert stat.S_IMODE(shared.stat().st_mode) == 0o600
    for command in (["splits", "--replay"], ["top", "--once", "--json", "--replay"], ["report", "--format", "json"]):
        before, after = (without_names(uaptrace(*command, path).stdout, path) for path in (RECORDING, shared))
        assert before == after


def test_stacks_of_a_shared_recording_tell_nothing_by_their_numbers(tmp_path: Path) -> None:
    shared = tmp_path / "shared.rec"
    assert uaptrace("recording", "share", RECORDING, shared).returncode == 0
    with pa.OSFile(str(shared)) as file:
        numbers = pa.ipc.open_stream(file).read_all()["stack_id"].to_numpy()
    assert numbers.max() == len(np.unique(numbers)) - 1


def test_what_was_not_ended_is_not_ended_when_it_is_shared(tmp_path: Path) -> None:
    cut = tmp_path / "cut.rec"
    cut.write_bytes(RECORDING.read_bytes()[:-20_000])
    shared = tmp_path / "shared.rec"
    assert uaptrace("recording", "share", cut, shared).returncode == 0
    assert not json.loads(uaptrace("recording", "info", "--json", shared).stdout)["parts"][0]["closed"]
