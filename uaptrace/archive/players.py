# SPDX-License-Identifier: Apache-2.0
"""Plays many recordings: here one by one, in processes of this machine, or on a Dask cluster. Each recording is one task, and what
comes of it is the same wherever it is played."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, TypeVar

from uaptrace.abi.errors import RecordingError, UaptraceError
from uaptrace.archive.days import HostDay, day_rows
from uaptrace.process.plain import plain

Result = TypeVar("Result")
Task = Callable[[str], Result]
"""What is done with the first file of a recording. A function of a module, or a partial of one: it goes to other processes."""
Played = Iterator[tuple[Path, Result]]
"""The first file of a recording, and what came of it."""

CONNECT_S: Final = 10
RETRIES: Final = 3
"""A task whose worker died goes to another one so often."""


def rows_of(path: str) -> list[HostDay] | RecordingError:
    """The rows, or the error as a value: what one recording lacks is no reason to end the others."""
    try:
        return day_rows(path)
    except RecordingError as error:
        return error


def play_here(task: Task[Result], paths: Sequence[Path]) -> Played[Result]:
    """One after the other."""
    return ((path, task(str(path))) for path in paths)


def play_in_processes(task: Task[Result], paths: Sequence[Path], nr_processes: int) -> Played[Result]:
    """Side by side on this machine, whichever is ready first. UaptraceError where a process ends by itself."""
    with ProcessPoolExecutor(nr_processes, multiprocessing.get_context("forkserver")) as pool:
        tasks = {pool.submit(task, str(path)): path for path in paths}
        try:
            for done in as_completed(tasks):
                yield tasks.pop(done), done.result()
        except BrokenProcessPool:
            raise UaptraceError("a process that played a recording was ended: give fewer of them (--jobs), or more memory") from None


def play_on_dask(task: Task[Result], paths: Sequence[Path], address: str) -> Played[Result]:
    """On the cluster of the scheduler at ``address``, whose workers have uaptrace and the same files. UaptraceError where it cannot be
    reached, or a task's workers die again and again."""
    try:
        import distributed
    except ImportError:
        said = "pipx inject uaptrace distributed, or pip install distributed"
        raise UaptraceError(f"--dask needs Dask, which is not installed: {said}") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        with distributed.Client(address, timeout=CONNECT_S, set_as_default=False) as client:
            names = [str(path) for path in paths]
            tasks = dict(zip(client.map(task, names, pure=False, retries=RETRIES), paths, strict=True))
            for done, result in distributed.as_completed(tasks, loop=client.loop, with_results=True):
                yield tasks.pop(done), result
                done.release()
    except (OSError, distributed.KilledWorker, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UaptraceError(f"the Dask cluster at {plain(address)}: {plain(said)}") from None
