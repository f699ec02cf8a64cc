# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and files that only have to be there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
from typing import Final

from uaptrace.abi.errors import UsageError
from uaptrace.process.places import Place, place_of

_CANNOT_REPLACE: Final = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM})
"""What the kernel says where a name cannot get another file (a mount point, a folder that is not ours), though the file may be written."""


def write_some(descriptor: int, data: bytes | memoryview) -> int:
    """Write some of ``data``, at least one byte. Returns how many. It waits where somebody made the descriptor non-blocking."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            select.select([], [descriptor], [])


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError; what was written before that stays."""
    rest = memoryview(data)
    while rest:
        rest = rest[write_some(descriptor, rest) :]


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it there, so that it appears whole or not at all. ``-`` is standard output.

    A file that is there keeps its owner and mode. Where it cannot be replaced (it has other names, is a mount point, or its folder is
    not ours) or is no regular file, it is written in place. UsageError where that cannot be done, with nothing left behind;
    BrokenPipeError where its reader is gone.
    """
    try:
        with place_of(path) as place:
            _write(place, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_make(path, error, "write") from None


def cannot_make(path: str | os.PathLike[str], error: OSError, verb: str) -> UsageError:
    """What to say of a file that a command was to make, and what to do."""
    return UsageError(f"cannot {verb} {path}: {error.strerror or error}; give a file in a folder that can be written to")


def _write(place: Place, data: bytes) -> None:
    before = place.status()
    if before is not None:
        place.check_trusted(before)
    if before is not None and (not stat.S_ISREG(before.st_mode) or before.st_nlink > 1 or place.descriptor is not None):
        _write_in_place(place, data)
        return
    try:
        _replace(place, data, before)
    except OSError as error:
        if before is None or error.errno not in _CANNOT_REPLACE:
            raise
        _write_in_place(place, data)


def _write_in_place(place: Place, data: bytes) -> None:
    descriptor = place.open(os.O_WRONLY)
    try:
        status = os.fstat(descriptor)
        place.check_trusted(status)
        write_all(descriptor, data)
        if stat.S_ISREG(status.st_mode) and place.descriptor is None:
            os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _replace(place: Place, data: bytes, before: os.stat_result | None) -> None:
    beside = Place(place.path, place.folder, f".uaptrace-{secrets.token_hex(8)}")
    descriptor = beside.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600)
    try:
        if before is not None:
            now = os.fstat(descriptor)
            if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        write_all(descriptor, data)
        os.fsync(descriptor)
        os.rename(beside.name, place.name, src_dir_fd=beside.folder, dst_dir_fd=place.folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside.name, dir_fd=beside.folder)
        raise
    finally:
        os.close(descriptor)


def touch(path: str | os.PathLike[str]) -> None:
    """Make an empty file; one that is there and empty gets a new time. UsageError where something else is there, or it cannot be made."""
    try:
        with place_of(path) as place:
            before = place.status()
            if before is None:
                os.close(place.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                return
            check_empty(path, before)
            place.check_trusted(before)
            os.utime(place.name, dir_fd=place.folder, follow_symlinks=False)
    except OSError as error:
        raise cannot_make(path, error, "make") from None


def check_empty(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """UsageError where touch() would find something that it must not touch."""
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        raise UsageError(f"{path}: something else is there: give the name of a file that does not exist, or is empty")
