# SPDX-License-Identifier: Apache-2.0
"""The files that a writer makes: for its user's eyes only, never through a link, and nothing is replaced that is not a recording."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from uaptrace.abi.errors import UsageError
from uaptrace.process.places import Place, keep_place
from uaptrace.recording import schema
from uaptrace.recording.errors import RecordingStoppedError
from uaptrace.recording.part_names import part_path

MODE: Final = 0o600
"""As perf's: a recording has kernel addresses and what processes did."""
_HEAD_BYTES: Final = 1 << 16
_STREAM_MARK: Final = b"\xff\xff\xff\xff"


class PartFiles:
    """The parts of one recording in their folder, which stays open: parts are made there, whatever happens to its name.

    ``rotates``: there will be more than one part. UsageError where something is in the way that must not be replaced: a recording
    without ``overwrite``, and any other file in every case.
    """

    def __init__(self, path: Path, *, overwrite: bool, rotates: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        try:
            self._place = keep_place(path)
        except OSError as error:
            raise _cannot(path, error) from None
        try:
            self._clear(rotates)
        except BaseException:
            self.close()
            raise

    @property
    def given(self) -> bool:
        """The recording goes to a descriptor that this process was given, such as standard output."""
        return self._place.descriptor is not None

    def open(self, part: int) -> int:
        """Descriptor of a part to be written from its beginning. RecordingStoppedError where it cannot be made."""
        place = self._part(part)
        try:
            return self._open(place)
        except OSError as error:
            raise _cannot(place.path, error) from None

    def remove_before(self, part: int) -> None:
        """Remove the parts with lower numbers, as far as they are recordings."""
        for number, place in self._parts().items():
            if number < part and is_recording(place):
                os.unlink(place.name, dir_fd=place.folder)

    def close(self) -> None:
        """Let go of the folder."""
        if self._place.folder >= 0:
            os.close(self._place.folder)
            self._place = Place(self._path)

    def _clear(self, rotates: bool) -> None:
        status = self._place.status()
        if rotates and (self.given or (status is not None and not stat.S_ISREG(status.st_mode))):
            raise UsageError(f"{self._path}: not a regular file: it cannot have parts")
        parts = self._parts()
        if parts and not self._overwrite:
            raise UsageError(f"{next(iter(parts.values())).path} exists: choose another name, or allow it to be overwritten")
        for number, place in parts.items():
            if number == 0:
                continue  # Where it can be written is known when it is opened; until then it stays.
            if is_recording(place):
                os.unlink(place.name, dir_fd=place.folder)
            elif rotates:
                raise UsageError(f"{place.path} is in the way and not a recording: choose another name")

    def _open(self, place: Place) -> int:
        status = place.status()
        if status is None or place.name != self._place.name:  # What is in a later part's way was looked at before: nothing may be.
            return place.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        if stat.S_ISLNK(status.st_mode):
            raise UsageError(f"{place.path}: is a symbolic link: give the file's own name")
        place.check_trusted(status)
        if not stat.S_ISREG(status.st_mode):
            return place.open(os.O_WRONLY)
        if place.descriptor is None and status.st_size and not is_recording(place):
            raise UsageError(f"{place.path} exists and is not a recording: choose another name")
        descriptor = place.open(os.O_WRONLY)
        try:
            place.check_trusted(os.fstat(descriptor))
            if place.descriptor is None:
                os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _part(self, part: int) -> Place:
        if part == 0:
            return self._place
        path = part_path(self._path, part)
        return Place(path, self._place.folder, path.name)

    def _parts(self) -> dict[int, Place]:
        """Regular files that have the names of parts, by number."""
        if self._place.descriptor is not None:
            return {}
        pattern = re.compile(re.escape(self._place.name) + r"(?:\.([1-9]\d{0,8}))?")
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._place.folder)
        try:
            names = [match for match in map(pattern.fullmatch, os.listdir(listing)) if match]
        finally:
            os.close(listing)
        found = {}
        for number in sorted(int(match[1] or 0) for match in names):
            place = self._part(number)
            status = place.status()
            if status is not None and stat.S_ISREG(status.st_mode):
                found[number] = place
        return found


def is_recording(place: Place) -> bool:
    """Whether a file begins as a recording does, whole or not."""
    try:
        descriptor = place.open(os.O_RDONLY)
    except OSError:
        return False
    try:
        head = os.pread(descriptor, _HEAD_BYTES, 0)
    finally:
        os.close(descriptor)
    return head.startswith(_STREAM_MARK) and schema.KEY_VERSION in head


def _cannot(path: Path, error: OSError) -> RecordingStoppedError:
    return RecordingStoppedError(f"{path}: cannot be written: {error.strerror}; choose another place")
