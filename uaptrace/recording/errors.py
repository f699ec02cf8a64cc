# SPDX-License-Identifier: Apache-2.0
"""Errors of recordings that callers tell apart, and the one place where what a file causes becomes one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from uaptrace.abi.errors import RecordingError
from uaptrace.recording.checks import BadValueError

BY_DATA: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError, pa.ArrowException)
"""What Python, numpy and Arrow raise where a value is not what the code that meets it takes for granted."""


class RecordingStoppedError(RecordingError):
    """Writing failed (disk full, quota, I/O error). The file was cut back to its last complete batch and closed: it stays readable."""


def not_usable(path: str | os.PathLike[str], error: BaseException, offset: int | None = None) -> RecordingError:
    """The error that names what is wrong with a file, and where."""
    where = "" if offset is None else f" at byte {offset}"
    said = next(iter(str(error).strip().splitlines()), "")
    if not isinstance(error, BadValueError):
        said = f"{type(error).__name__}: {said}"
    return RecordingError(f"{os.fspath(path)}: not a usable recording{where}: {said}")


@contextlib.contextmanager
def usable(path: str | os.PathLike[str], offset: int | None = None) -> Iterator[None]:
    """Whatever the values of the recording ``path`` cause in here is RecordingError. ``offset``: where in the file they are, if known.

    Values are checked where they are decoded (uaptrace.recording.checks); this is for what the checks have not foreseen.
    """
    try:
        yield
    except BadValueError as error:
        raise not_usable(path, error, offset) from None
    except BY_DATA as error:
        raise not_usable(path, error, offset) from error
