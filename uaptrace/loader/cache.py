# SPDX-License-Identifier: Apache-2.0
"""Programs that this host compiled, so that only its first start has to.

They may be removed at any time: /var/cache is where they belong. What is read here goes into the kernel with root's rights: only a
folder and files that nobody but root can have written are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from uaptrace.ebpf.compiled import Compiled, from_json

FOLDER: Final = Path("/var/cache/uaptrace")
MAX_FILES: Final = 16
_MAX_BYTES: Final = 16 << 20


def cache_key(text: str, flags: Sequence[str], others: Iterable[bytes]) -> str:
    """A name for what is compiled from ``text`` with ``flags``; ``others``: what else decides it, such as headers and the compiler."""
    digest = hashlib.sha256()
    for part in (text.encode(), *(flag.encode() for flag in flags), *others):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def read(key: str, folder: Path = FOLDER, owner: int = 0) -> Compiled | None:
    """What was kept under the key; None where there is nothing that can be trusted. ``owner``: the uid that must have written it."""
    try:
        with _trusted_folder(folder, owner) as at:
            fd = os.open(_name(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            with os.fdopen(fd, "rb") as file:
                if not _is_trusted(os.fstat(fd), owner):
                    return None
                return from_json(json.loads(file.read(_MAX_BYTES)))
    except (OSError, ValueError):
        return None


def write(key: str, compiled: Compiled, folder: Path = FOLDER, owner: int = 0) -> None:
    """Keep it for the next start; where that cannot be done, the next start compiles again."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        with _trusted_folder(folder, owner) as at:
            temporary = f".{_name(key)}.{os.getpid()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(json.dumps(compiled.to_json()).encode())
                os.replace(temporary, _name(key), src_dir_fd=at, dst_dir_fd=at)
            except OSError:
                os.unlink(temporary, dir_fd=at)
                raise
            _forget_oldest(at)


@contextlib.contextmanager
def _trusted_folder(folder: Path, owner: int) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_trusted(os.fstat(fd), owner):
            raise PermissionError(f"{folder} can be written by others")
        yield fd
    finally:
        os.close(fd)


def _is_trusted(status: os.stat_result, owner: int) -> bool:
    return status.st_uid == owner and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _forget_oldest(at: int) -> None:
    held = [name for name in os.listdir(at) if name.startswith("programs-")]
    held.sort(key=lambda name: os.stat(name, dir_fd=at).st_mtime_ns)
    for name in held[:-MAX_FILES]:
        os.unlink(name, dir_fd=at)


def _name(key: str) -> str:
    return f"programs-{key}.json"
