# SPDX-License-Identifier: Apache-2.0
"""A process that gave up its privileges has none left, in any thread; where one is left, it says so and does not go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.children import children
from uaptrace.abi.errors import UsageError
from uaptrace.commands.ready import ready_file
from uaptrace.process.privileges import die_with_parent, threads, what_is_left

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up what only root has: run the tests as root")
USER = 1000


def python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)


@needs_root
@pytest.mark.parametrize("folder", ["None", "Path('/')"], ids=["nobody", "root"])
def test_no_thread_keeps_anything_after_all_libraries_are_loaded(folder: str) -> None:
    done = python(f"""
import threading
from pathlib import Path
from uaptrace.process.limits import keep_single_threaded
keep_single_threaded()
import numpy, pyarrow
import uaptrace.exporter.server, uaptrace.recording, uaptrace.session.loop, uaptrace.session.live, uaptrace.tui.app
from uaptrace.process.privileges import drop_privileges, threads, what_is_left
drop_privileges({folder})
event = threading.Event()
threading.Thread(target=event.wait).start()
pyarrow.allocate_buffer(1 << 24)
found = threads()
print(len(found), [what_is_left(t) for t in found], {{(t["Uid"].split()[1], t["Groups"], int(t["CapBnd"], 16)) for t in found}})
event.set()
""")
    assert done.returncode == 0, done.stderr
    uid = "0" if "Path" in folder else done.stdout.split("{('")[1].split("'")[0]
    assert done.stdout == f"2 ['', ''] {{('{uid}', '', 0)}}\n"
    assert (uid == "0") == ("Path" in folder)


@needs_root
def test_a_thread_that_was_there_before_is_found() -> None:
    done = python("""
import threading
from pathlib import Path
from uaptrace.abi.errors import UaptraceError
from uaptrace.process.privileges import drop_privileges
event = threading.Event()
threading.Thread(target=event.wait).start()
try:
    drop_privileges(Path("/"))
except UaptraceError as error:
    print(error)
event.set()
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot give up privileges: the thread ")
    assert "CapEff" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_what_is_left_names_it() -> None:
    nothing = {"CapInh": "0000", "CapPrm": "0000", "CapEff": "0000", "CapAmb": "0000", "NoNewPrivs": "1"}
    assert what_is_left(nothing) == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert what_is_left({**nothing, name: "0020"}) == f"{name} 0020"
    assert what_is_left({**nothing, "NoNewPrivs": "0"}) == "NoNewPrivs 0"


def test_every_thread_is_looked_at() -> None:
    before, event = len(threads()), threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        assert len(threads()) == before + 1
    finally:
        event.set()
        thread.join()


@pytest.mark.parametrize("killer", ["kill", "end"])
def test_a_child_ends_with_its_parent(killer: str) -> None:
    """Also where the parent had no chance to tell it."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        me = os.getpid()
        child = os.fork()
        if child == 0:
            die_with_parent(me)
            os.write(writer, b"x")
            while True:
                signal.pause()
        if killer == "end":
            os.read(reader, 1)
            os.write(writer, b"x")
            os._exit(0)
        while True:
            signal.pause()
    os.close(writer)
    if killer == "kill":
        assert os.read(reader, 1) == b"x"
        os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # The child has the other end of the pipe: that it is closed is its end.
    while os.read(reader, 1):
        pass
    os.close(reader)


@needs_root
@pytest.mark.parametrize("uid", [0, USER])
def test_a_ready_file_belongs_to_the_owner_of_its_folder(uid: int, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    os.chown(folder, uid, uid)
    with ready_file(folder / "ready") as make:
        assert not (folder / "ready").exists()
        make()
        assert (folder / "ready").stat().st_uid == uid
    with ready_file(folder / "ready") as make:
        os.utime(folder / "ready", (1, 1))
        make()
    assert (folder / "ready").stat().st_mtime > 1


@needs_root
def test_why_a_ready_file_cannot_be_made_reaches_the_command(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text("something else")
    with ready_file(tmp_path / "ready") as make, pytest.raises(UsageError, match="something else is there"):
        make()
    with ready_file(tmp_path / "nowhere" / "ready") as make, pytest.raises(UsageError, match="nowhere"):
        make()


@needs_root
def test_nothing_is_left_of_a_ready_file_that_nobody_asks_for(tmp_path: Path) -> None:
    # Other tests of the same process have servers that run on.
    before, begin = set(children(os.getpid())), time.monotonic()
    with ready_file(tmp_path / "ready"):
        pass
    assert list(tmp_path.iterdir()) == []
    assert set(children(os.getpid())) <= before
    assert time.monotonic() - begin < 30
