# SPDX-License-Identifier: Apache-2.0
"""The errors a person can meet, each with the exit status that the README documents.

Every message is one line that says what is wrong and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class UaptraceError(Exception):
    """Base of all expected errors. ``exit_status`` is what the command returns."""

    exit_status: ClassVar[int] = 1


class UsageError(UaptraceError):
    """Bad argument, bad configuration, unknown image, port in use."""

    exit_status = 2


class OutputError(UaptraceError):
    """Standard output takes no more: it is closed, or its file system is full."""


class ReaderGoneError(UaptraceError):
    """Whoever read the output has enough of it: nothing to complain about. 128 + SIGPIPE, as a shell reports it."""

    exit_status = 141


class CannotTraceError(UaptraceError):
    """This host cannot be traced: no root, locked-down kernel, no BTF, no bcc."""

    exit_status = 2


class AuditFoundError(UaptraceError):
    """``uaptrace audit`` found a broken invariant."""

    exit_status = 3


class RecordingError(UaptraceError):
    """Not a recording, of a version that cannot be read, or damaged beyond use."""

    exit_status = 4


class NotProvenError(UaptraceError):
    """``uaptrace verify`` found no difference, and could not have found every one."""


class VerifyFoundError(UaptraceError):
    """``uaptrace verify`` found pages that differ."""

    exit_status = 5
