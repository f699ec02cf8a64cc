# SPDX-License-Identifier: Apache-2.0
"""What a command is about to write, against what it is about to read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from uaptrace.abi.errors import UsageError
from uaptrace.process.files import cannot_make, check_empty
from uaptrace.process.places import place_of

_STDOUT: Final = 1


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path] = (), *, markers: Iterable[Path | None] = ()) -> None:
    """Before anything is read: UsageError where an output is one of the inputs or another output, by whatever name, or cannot be made.

    ``markers``: outputs for touch(). Standard output is looked at too: ``trace --replay FILE >>FILE`` is such a case.
    """
    marker_files = [path for path in markers if path is not None]
    seen = {key: f"{path} is read" for path in inputs for key in _identities(path)}
    standard = _identity(os.fstat(_STDOUT))
    if standard is not None and standard in seen:
        raise UsageError(f"standard output is a file that is read here: {seen[standard]}; write to another")
    for path in [*(path for path in outputs if path is not None), *marker_files]:
        keys = _output_identities(path)
        for key in keys:
            if key in seen:
                raise UsageError(f"{path}: would be overwritten, but {seen[key]}: choose another name")
        seen.update(dict.fromkeys(keys, f"{path} is written"))
    for path in marker_files:
        with contextlib.suppress(FileNotFoundError):
            check_empty(path, path.stat())


_Identity = tuple[int, int] | tuple[int, int, str]


def _identity(status: os.stat_result) -> _Identity | None:
    """What two names of one file have in common; None for what may be read and written at the same time (a terminal, /dev/null)."""
    return None if stat.S_ISCHR(status.st_mode) or stat.S_ISDIR(status.st_mode) else (status.st_dev, status.st_ino)


def _identities(path: Path) -> list[_Identity]:
    try:
        found = _identity(path.stat())
    except OSError:
        return []  # Whoever reads it will say why it cannot be read.
    return [found] if found is not None else []


def _output_identities(path: Path) -> list[_Identity]:
    """Of the file that is there, and of the name, which another output may have too."""
    try:
        with place_of(path) as place:
            status = place.status()
            if status is not None and stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            found = _identity(status) if status is not None else None
            keys: list[_Identity] = [found] if found is not None else []
            if place.descriptor is None:
                folder = os.fstat(place.folder)
                keys.append((folder.st_dev, folder.st_ino, place.name))
            return keys
    except OSError as error:
        raise cannot_make(path, error, "write") from None
