# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from uaptrace.errors import UsageError


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes ``data`` beside ``path`` and renames it there. Raises UsageError where that cannot be done; then nothing is left behind.

    What is no regular file (a pipe, /dev/stdout) is written to as it is.
    """
    target = Path(path)
    temporary = None
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                stream.write(data)
            return
        target = target.resolve()  # The file behind a symbolic link is replaced, not the link.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
            temporary = stream.name
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise UsageError(f"cannot write {path}: {error.strerror or error}; give a file in a folder that can be written to") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
