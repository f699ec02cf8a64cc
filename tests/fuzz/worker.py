# SPDX-License-Identifier: Apache-2.0
"""One process that reads mutated recordings, on the build whose compiled loops check every index.

``python -m tests.fuzz.worker FOLDER FIRST END STEP``: the seeds of ``range(FIRST, END, STEP)``. Before each one its number goes to
``FOLDER/seed-FIRST``, so that whoever waits knows which input ended or stopped this process; the input is ``FOLDER/input-FIRST.rec``.
One that causes what is not documented is kept as ``FOLDER/failed-SEED.rec`` with what happened in ``FOLDER/failed-SEED.txt``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
CHECKED: Final = ROOT / "build" / "checked"
ADDRESS_SPACE_BYTES: Final = 16 << 30
"""So that what takes too much fails here, and not the machine. Addresses are not memory: a sparse map of 128 TiB takes 1.5 GiB of
them and a few pages. Who started this holds the memory against a limit of its own."""
SLOW_S: Final = 5.0


def use_checked_build() -> None:
    """Take the modules of ``build/checked`` in place of the installed ones."""
    import uaptrace.model
    import uaptrace.policies

    for package in (uaptrace.model, uaptrace.policies):
        package.__path__.insert(0, str(CHECKED.joinpath(*package.__name__.split("."))))
    from uaptrace.model import loops
    from uaptrace.policies import engine

    for module in (loops, engine):
        assert module.is_compiled(), module
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(CHECKED), module.__file__


@dataclass
class Reader:
    """Takes a recording on the way of some of the commands: which ones the seed says."""

    path: Path
    seen: dict[str, int]

    def read(self, seed: int) -> None:
        """RecordingError or UsageError where a command ends in one line; anything else is a fault."""
        from uaptrace.recording.errors import usable

        for name, every, way in WAYS:
            if seed % every == 0:
                self.seen[name] = self.seen.get(name, 0) + 1
                with usable(self.path):
                    way(self.path, seed)


def play(path: Path, seed: int) -> None:
    """What ``top``, ``splits``, ``audit`` and ``map`` show, at the end."""
    from uaptrace.model.state import KernelState
    from uaptrace.recording import read_updates
    from uaptrace.reports.documents import audit_to_json, snapshot_to_json, splits_to_json
    from uaptrace.reports.text import audit_to_text, snapshot_to_text, splits_to_text

    state = KernelState()
    for update in read_updates(path, follow_parts=False):
        state.update(update)
    snapshot = state.snapshot(4_000_000_000, 1.7e9, regions=True)
    match seed // 4 % 16:
        case 0:
            shown: list[object] = [snapshot_to_text(snapshot, None, width=80)]
        case 1:
            shown = [snapshot_to_json(snapshot, None), splits_to_json(snapshot, "row"), audit_to_json(snapshot)]
        case 2:
            shown = [splits_to_text(snapshot, "stack", 80, stacks=True), audit_to_text(snapshot, 80)]
        case _:
            shown = []
    for text in shown:
        assert "\x1b" not in str(text)


def picture(path: Path, seed: int) -> None:
    """``map``."""
    from uaptrace.reports.map_picture import MapPicture
    from uaptrace.session.replay import ReplaySource

    with contextlib.closing(ReplaySource(path, None, budget_s=None, regions=True)) as source:
        snapshot = source.latest()
        assert snapshot is not None
        shown = MapPicture(snapshot)
        shown.to_json()
        shown.to_text(80, 23, color=False)


def jump(path: Path, seed: int) -> None:
    """``top --at``, forwards and back."""
    from uaptrace.session.replay import ReplaySource

    with contextlib.closing(ReplaySource(path, 1.0, budget_s=None)) as source:
        source.pause()
        for share in (0.5, 1.0, 0.2):
            source.jump(source.length_s * share)
            source.latest()


def what_if(path: Path, seed: int) -> None:
    """``whatif --map recorded``, one of the designs at a time."""
    from uaptrace.commands.whatif import _recorded
    from uaptrace.policies.engine_layout import Design
    from uaptrace.policies.simulation import replay

    requests, memory, _ = _recorded(path, 1, None, None, "recorded" if seed % 3 else "fresh")
    if memory.nr_pages > 1 << 22:
        return  # 16 GiB: their size makes it slow, not their values
    designs = list(Design)
    replay(designs[seed // 5 % len(designs)], requests, memory)


def about(path: Path, seed: int) -> None:
    """``recording info``."""
    from uaptrace.commands.recording import info_to_json, info_to_text
    from uaptrace.recording import recording_info

    found = recording_info(path, follow_parts=False)
    info_to_json(found)
    info_to_text(found)


def events(path: Path, seed: int) -> None:
    """``trace``."""
    from uaptrace.recording import read_updates
    from uaptrace.reports.event_lines import EventPrinter

    with open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere:
        printer = EventPrinter(nowhere, as_json=bool(seed & 1), kinds=())
        for update in read_updates(path, follow_parts=False):
            printer.take(update)


def shared(path: Path, seed: int) -> None:
    """``recording share``, which writes what it reads."""
    from uaptrace.recording.share import share

    share(path, path.with_suffix(".shared"), overwrite=True)


def report(path: Path, seed: int) -> None:
    """``report``."""
    from uaptrace.reports.page.gather import gather
    from uaptrace.reports.page.page import page
    from uaptrace.reports.page.texts import report_to_json, report_to_markdown

    gathered = [gather(path, nr_points=8, nr_frames=2)]
    report_to_json(gathered)
    report_to_markdown(gathered)
    page(gathered)


WAYS: Final[tuple[tuple[str, int, Callable[[Path, int], None]], ...]] = (
    ("play", 1, play),
    ("what-if", 5, what_if),
    ("info", 11, about),
    ("trace", 13, events),
    ("jump", 17, jump),
    ("map", 19, picture),
    ("share", 29, shared),
    ("report", 61, report),
)
"""Name, every how manieth seed, and what is done."""


def main(folder: Path, first: int, end: int, step: int) -> int:
    """Number of failures."""
    faulthandler.enable()
    use_checked_build()
    from tests.fuzz.mutations import Bases, mutated
    from uaptrace.abi.errors import UaptraceError

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    # An index error in a compiled function that returns no exception comes this way.
    unraisable: list[str] = []
    sys.unraisablehook = lambda failed: unraisable.append(f"{failed.exc_type.__name__}: {failed.exc_value} in {failed.object}")
    path = folder / f"input-{first}.rec"
    seed_file = os.open(folder / f"seed-{first}", os.O_RDWR | os.O_CREAT, 0o600)
    reader = Reader(path, {})
    bases = Bases()
    gc.collect()
    gc.freeze()  # what is imported is not looked through again for each input
    failures = refused = 0
    slowest = (0.0, first)
    for seed in range(first, end, step):
        raw = mutated(bases, seed)
        path.write_bytes(raw)
        os.pwrite(seed_file, f"{seed:<20}".encode(), 0)
        begin_s = time.monotonic()
        trouble = ""
        try:
            reader.read(seed)
        except UaptraceError as error:
            refused += 1
            if error.__cause__ is not None:
                # The net of uaptrace.recording.errors caught it: a value that nothing has checked.
                trouble = traceback.format_exc()
            elif "\n" in str(error):
                trouble = f"more than one line: {error}"
        except BaseException:
            trouble = traceback.format_exc()
        seconds = time.monotonic() - begin_s
        slowest = max(slowest, (seconds, seed))
        if unraisable:
            trouble += "\n".join(unraisable)
            unraisable.clear()
        if seconds > SLOW_S:
            trouble += f"{seconds:.1f} s"
        if trouble:
            failures += 1
            (folder / f"failed-{seed}.rec").write_bytes(raw)
            (folder / f"failed-{seed}.txt").write_text(trouble, errors="replace")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    counts: dict[str, Any] = {"inputs": len(range(first, end, step)), "refused": refused, "failures": failures, "peak_mib": peak_mib}
    print(json.dumps(counts | {"slowest_s": round(slowest[0], 3), "slowest_seed": slowest[1], "ways": reader.seen}), flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5])) > 0)
