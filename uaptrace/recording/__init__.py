# SPDX-License-Identifier: Apache-2.0
"""Recordings: the sequence of updates as an Arrow IPC stream. Importing this imports pyarrow: do it where it is used.

docs/recordings.md describes the format and why it is so.
"""

from __future__ import annotations

from uaptrace.recording.errors import RecordingStoppedError
from uaptrace.recording.info import RecordingInfo, recording_info
from uaptrace.recording.reader import RecordingFile, read_updates
from uaptrace.recording.writer import RecordingWriter

__all__ = ["RecordingFile", "RecordingInfo", "RecordingStoppedError", "RecordingWriter", "read_updates", "recording_info"]
