# SPDX-License-Identifier: Apache-2.0
"""Where a file is: a name in an open folder, reached without following a link that somebody else made.

Links are followed from folder to folder by descriptors, so that nobody can exchange a folder meanwhile. Who writes with privilege
follows none that lies in a folder that others can write to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uaptrace.abi.errors import UsageError

_MAX_LINKS: Final = 40
"""As many as the kernel follows."""
_DESCRIPTOR: Final = re.compile(r"(?:/dev|/proc/self)/fd/(\d+)")
_STANDARD: Final = {"-": 1, "/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is, or will be: ``name`` in the open ``folder``; or ``descriptor``, which this process was given (``-``, /dev/fd/3)."""

    path: Path
    """As it was asked for."""
    folder: int = -1
    name: str = ""
    descriptor: int | None = None

    def status(self) -> os.stat_result | None:
        """Of what is there, a link itself; None where nothing is."""
        if self.descriptor is not None:
            return os.fstat(self.descriptor)
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int, mode: int = 0) -> int:
        """Open it without following a link; a descriptor that was given is duplicated. Raises OSError."""
        if self.descriptor is not None:
            return os.dup(self.descriptor)
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY, mode, dir_fd=self.folder)

    def check_trusted(self, status: os.stat_result) -> None:
        """UsageError where a privileged process must not write to what is there: somebody may have put it there for it to be found."""
        if self.descriptor is not None or not _privileged():
            return
        folder = os.fstat(self.folder)
        strange = status.st_uid not in (0, os.geteuid(), folder.st_uid) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)
        if not _only_ours(folder) and strange:
            raise UsageError(
                f"{self.path}: belongs to another user, in a folder that others can write to: remove it, or choose another folder"
            )


@contextlib.contextmanager
def place_of(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[Place]:
    """The place of ``path``; its folder is open within the block. ``follow``: whether the last name may be a link, which is followed.

    UsageError where a privileged process would follow somebody else's link, OSError where the folder cannot be reached.
    """
    found = _walk(Path(path), follow)
    try:
        yield found
    finally:
        if found.folder >= 0:
            os.close(found.folder)


def keep_place(path: str | os.PathLike[str]) -> Place:
    """place_of() without following a last link, for as long as its user wants: who closes ``folder`` (-1: none)."""
    return _walk(Path(path), False)


def _walk(path: Path, follow: bool) -> Place:
    given = descriptor_of(str(path))
    if given is not None:
        return Place(path, descriptor=given)
    left = _components(str(path))
    folder = os.open("/" if path.is_absolute() else ".", _FOLDER)
    links = 0
    try:
        while True:
            name = left.pop(0) if left else "."
            at = Place(path, folder, name)
            status = at.status()
            if status is None and left:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if _is_link(status) and (left or follow):
                links = _one_more(links, path)
                target = _target(at)
                given = descriptor_of("/".join([target, *left]))
                if given is not None:
                    os.close(folder)
                    return Place(path, descriptor=given)
                left = [*_components(target), *left]
                if target.startswith("/"):
                    folder = _enter(folder, "/")
            elif left:
                folder = _enter(folder, name)
            else:
                return at
    except BaseException:
        os.close(folder)
        raise


def _is_link(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISLNK(status.st_mode)


def _one_more(links: int, path: Path) -> int:
    """The number of links with this one. Raises OSError where those are more than a path may have."""
    if links >= _MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return links + 1


def descriptor_of(path: str) -> int | None:
    """The descriptor that ``-``, /dev/stdout, /dev/fd/N or /proc/self/fd/N name."""
    found = _DESCRIPTOR.fullmatch(path)
    return int(found[1]) if found else _STANDARD.get(path)


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _enter(folder: int, name: str) -> int:
    entered = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    os.close(folder)
    return entered


def _target(link: Place) -> str:
    if _privileged() and not _only_ours(os.fstat(link.folder)):
        raise UsageError(f"{link.path}: {link.name} is a link in a folder that others can write to: give the file's own name")
    return os.readlink(link.name, dir_fd=link.folder)


def _only_ours(folder: os.stat_result) -> bool:
    return folder.st_uid in (0, os.geteuid()) and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _privileged() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and int(found[1], 16) != 0
