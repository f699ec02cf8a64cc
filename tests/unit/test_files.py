# SPDX-License-Identifier: Apache-2.0
"""What commands write: never over what they read, whole or not at all, with owner and mode kept, through nobody's link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.command_files import RECORDING, UAPTRACE, uaptrace
from tests.unit.nobody import NOBODY
from uaptrace.abi.errors import UaptraceError, UsageError
from uaptrace.process.files import touch
from uaptrace.recording import RecordingWriter
from uaptrace.testhost.host import own_mounts

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: files of several users")


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr


# Output that is input

WRITERS: dict[str, list[str]] = {
    "report": ["report", "IN", "-o", "OUT"],
    "report of two, the first": ["report", "IN", "PLAIN", "-o", "OUT"],
    "report of two, the second": ["report", "PLAIN", "IN", "-o", "OUT"],
    "report as Markdown": ["report", "IN", "--format", "md", "-o", "OUT"],
    "map --png": ["map", "--replay", "IN", "--png", "OUT"],
    "map --svg": ["map", "--replay", "IN", "--svg", "OUT"],
    "splits --folded": ["splits", "--replay", "IN", "--folded", "OUT"],
    "whatif --chart": ["whatif", "IN", "--chart", "OUT"],
    "serve --ready-file": ["serve", "--listen", "127.0.0.1:0", "--replay", "IN", "--ready-file", "OUT"],
    "recording share": ["recording", "share", "IN", "OUT"],
}
OTHER_NAMES: dict[str, Callable[[Path], Path]] = {
    "the same name": lambda path: path,
    "another way to it": lambda path: path.parent / ".." / path.parent.name / path.name,
    "a hard link": lambda path: linked(os.link, path),
    "a symbolic link": lambda path: linked(os.symlink, path),
    "a link to a link": lambda path: linked(os.symlink, linked(os.symlink, path)),
    "a link to its folder": lambda path: linked(os.symlink, path.parent, "folder") / path.name,
}


def linked(how: Callable[[Path, Path], None], path: Path, suffix: str = "") -> Path:
    link = path.with_name(f"other-{len(list(path.parent.iterdir()))}{suffix or path.suffix}")
    how(path, link)
    return link


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_an_output_that_is_the_input_is_refused(command: str, name: str, tmp_path: Path) -> None:
    recording = tmp_path / "in.svg"  # A chart has such a name, and a recording may have any.
    recording.write_bytes(RECORDING.read_bytes())
    output = OTHER_NAMES[name](recording)
    before = sorted(tmp_path.iterdir()), recording.stat()
    words = {"IN": str(recording), "OUT": str(output), "PLAIN": str(RECORDING)}
    assert_refused(uaptrace(*(words.get(word, word) for word in WRITERS[command])), "is read")
    assert (sorted(tmp_path.iterdir()), recording.stat()) == before
    assert recording.read_bytes() == RECORDING.read_bytes()


def test_a_part_of_the_recording_is_not_written_over(tmp_path: Path) -> None:
    for name in ("a.rec", "a.rec.1", "a.rec.2"):
        (tmp_path / name).write_bytes(RECORDING.read_bytes())
    for read, written in (("a.rec", "a.rec.2"), ("a.rec.1", "a.rec.2"), ("a.rec.2", "a.rec")):
        assert_refused(uaptrace("report", tmp_path / read, "-o", tmp_path / written), "is read")
        assert (tmp_path / written).read_bytes() == RECORDING.read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        ["trace", "--replay"],
        ["map", "--replay"],
        ["top", "--once", "--replay"],
        ["report", "--format", "md"],
        ["recording", "info"],
        ["whatif"],
    ],
)
def test_standard_output_that_is_the_input_is_refused(command: list[str], tmp_path: Path) -> None:
    recording = tmp_path / "in.rec"
    recording.write_bytes(RECORDING.read_bytes())
    with recording.open("ab") as output:
        done = subprocess.run([*UAPTRACE, *command, str(recording)], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "standard output" in done.stderr
    assert recording.read_bytes() == RECORDING.read_bytes()


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    done = uaptrace("map", "--replay", RECORDING, "--png", picture, "--svg", tmp_path / ".." / tmp_path.name / "map.png")
    assert_refused(done, "is written")
    assert not picture.exists()
    recording = tmp_path / "new.rec"
    assert_refused(uaptrace("record", "-o", recording, "--ready-file", recording), "is written")


@needs_root
def test_a_bind_mount_of_the_input_is_refused_and_another_is_written_in_place(tmp_path: Path) -> None:
    script = """
        mount --bind "$1" "$2" || exit 77
        "$0" -m uaptrace report "$1" -o "$2" 2>&1; echo $?
        mount --bind "$3" "$4" || exit 77
        "$0" -m uaptrace report "$1" -o "$4" 2>&1; echo $?
    """
    files = [tmp_path / name for name in ("in.rec", "mounted-in.rec", "a.html", "mounted.html")]
    for file in files:
        file.touch()
    files[0].write_bytes(RECORDING.read_bytes())
    done = subprocess.run(
        [*own_mounts(), "bash", "-c", script, sys.executable, *map(str, files)], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(f"needs bind mounts: {done.stderr}")
    lines = done.stdout.splitlines()
    assert "is read" in lines[0]
    assert lines[1:] == ["2", "0"]
    assert files[0].read_bytes() == RECORDING.read_bytes()
    assert files[2].read_bytes().startswith(b"<!doctype html>")
    assert files[3].read_bytes() == b""  # Outside the mount the name is still its own.


# What is written over


def test_a_file_that_is_overwritten_keeps_owner_mode_and_other_names(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    page.chmod(0o604)
    if ROOT:
        os.chown(page, NOBODY, NOBODY)
    before = page.stat()
    assert uaptrace("report", RECORDING, "-o", page).returncode == 0
    after = page.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    first = page.read_bytes()
    assert first.startswith(b"<!doctype html>")

    page.write_text("old")
    os.link(page, tmp_path / "second")
    os.symlink(page, tmp_path / "third")
    assert uaptrace("report", RECORDING, "-o", tmp_path / "third").returncode == 0
    assert (tmp_path / "third").is_symlink()
    assert page.samefile(tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "second", "third"]


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert uaptrace("report", RECORDING, "-o", tmp_path / "page.html").returncode == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o640


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    script = 'ulimit -f 1; exec "$@"'
    command = [*UAPTRACE, "report", str(RECORDING), "-o", str(page)]
    done = subprocess.run(["bash", "-c", script, "-", *command], capture_output=True, text=True, check=False)
    assert_refused(done, str(page), os.strerror(27))
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_names(output: str, tmp_path: Path) -> None:
    """Written to as it was given, appended where it was opened so; no file called "-" is made."""
    target = tmp_path / "target"
    target.write_text("before\n")
    with target.open("a") as stream:
        done = subprocess.run(
            [*UAPTRACE, "report", str(RECORDING), "--format", "md", "-o", output], stdout=stream, check=False, cwd=tmp_path
        )
    assert done.returncode == 0
    assert target.read_text().startswith("before\n\n# ")
    assert list(tmp_path.iterdir()) == [target]


def test_process_substitution(tmp_path: Path) -> None:
    made = tmp_path / "made"
    script = f'set -o pipefail; "$@" -o >(cat >{made}); status=$?; wait $!; exit $status'
    command = [*UAPTRACE, "report", str(RECORDING)]
    assert subprocess.run(["bash", "-c", script, "-", *command], check=False).returncode == 0
    assert made.read_bytes().startswith(b"<!doctype html>")


# Links, where others can write


@pytest.fixture
def shared_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@needs_root
@pytest.mark.parametrize("link", ["the file", "a folder on the way"])
@pytest.mark.parametrize("command", ["report", "map", "splits", "ready-file", "recording"])
def test_root_follows_no_link_in_a_folder_that_others_can_write_to(command: str, link: str, shared_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "cron.d"
    target.mkdir()
    if link == "the file":
        output = shared_folder / "out.rec"
        output.symlink_to(target / "out.rec")
    else:
        (shared_folder / "way").symlink_to(target)
        output = shared_folder / "way" / "out.rec"
    commands: dict[str, list[str | Path]] = {
        "report": ["report", RECORDING, "-o", output],
        "map": ["map", "--replay", RECORDING, "--png", output],
        "splits": ["splits", "--replay", RECORDING, "--folded", output],
        "ready-file": ["serve", "--listen", "127.0.0.1:0", "--replay", RECORDING, "--ready-file", output],
    }
    if command in commands:
        assert_refused(uaptrace(*commands[command]), "link")
    else:
        with pytest.raises(UaptraceError, match="link"):
            RecordingWriter(output)
    assert list(target.iterdir()) == []


@needs_root
def test_root_writes_over_nothing_that_another_user_put_into_a_shared_folder(shared_folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    planted = shared_folder / "planted.html"
    planted.touch()
    os.chown(planted, NOBODY, NOBODY)
    os.link(secret, shared_folder / "hard.html")
    for name in ("planted.html", "hard.html"):
        assert_refused(uaptrace("report", RECORDING, "-o", shared_folder / name), "others can write")
        with pytest.raises(UsageError):
            RecordingWriter(shared_folder / name, overwrite=True)
    assert secret.read_text() == "root's"
    assert planted.read_bytes() == b""


@needs_root
def test_root_follows_its_own_links(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "way").symlink_to("folder")
    (tmp_path / "page.html").symlink_to("way/page.html")
    assert uaptrace("report", RECORDING, "-o", tmp_path / "page.html").returncode == 0
    assert (tmp_path / "folder" / "page.html").stat().st_size > 1000


def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert_refused(uaptrace("report", RECORDING, "-o", tmp_path / "a"), os.strerror(40))


# Ready files


@pytest.mark.parametrize("where", ["/nonexistent/x", "FOLDER", "FULL", "FIFO", "FOLDER/" + "x" * 300, "/dev/full"])
def test_a_ready_file_that_cannot_be_made_is_said_at_once(where: str, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("something else")
    os.mkfifo(tmp_path / "fifo")
    path = where.replace("FOLDER", str(tmp_path)).replace("FULL", str(tmp_path / "full")).replace("FIFO", str(tmp_path / "fifo"))
    for command in (["serve", "--listen", "127.0.0.1:0", "--replay", RECORDING], ["verify"], ["record", "-o", tmp_path / "r"], ["top"]):
        assert_refused(uaptrace(*command, "--ready-file", path), path)
    assert (tmp_path / "full").read_text() == "something else"


def test_an_empty_file_is_touched_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    touch(file)
    os.utime(file, (1, 1))
    touch(file)
    assert file.stat().st_mtime > 1
    file.write_text("x")
    with pytest.raises(UsageError, match="something else"):
        touch(file)
