# SPDX-License-Identifier: Apache-2.0
"""Errors of recordings that callers tell apart."""

from __future__ import annotations

from uaptrace.errors import RecordingError


class RecordingStoppedError(RecordingError):
    """Writing failed (disk full, quota, I/O error). The file was cut back to its last complete batch and closed: it stays readable."""
