# SPDX-License-Identifier: Apache-2.0
"""Where an archive is: a folder, or a bucket of an S3-compatible store. ``date=2026-11-29/host=NAME/ID.parquet``, as Hive has it.

A row's file is named by what it is of, so adding a recording again, or one that has grown, replaces its rows and never doubles them.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from uaptrace.abi.errors import UsageError
from uaptrace.archive.days import HostDay
from uaptrace.archive.schema import SCHEMA
from uaptrace.process.files import write_whole
from uaptrace.process.plain import plain

REMOTE: Final = ("s3://",)
SUFFIX: Final = ".parquet"
_DATE: Final = "date="
_NO_HOST: Final = "unnamed"


class Archive:
    """``place``: a folder, or ``s3://BUCKET/PATH`` with pyarrow's options (``?endpoint_override=...&scheme=http``); credentials are of
    the environment (AWS_ACCESS_KEY_ID, ...). UsageError where it cannot be reached or written to."""

    def __init__(self, place: str) -> None:
        self.place: Final = plain(place)
        self.remote: Final = place.startswith(REMOTE)
        if not self.remote and "://" in place:
            raise UsageError(f"{self.place}: give a folder, or s3://BUCKET/PATH")
        self._fs, self._path = self._open(place) if self.remote else (pa.fs.LocalFileSystem(), os.fspath(Path(place).absolute()))
        if not self._path:
            raise UsageError(f"{self.place}: give the name of a bucket, s3://BUCKET/PATH")

    def add(self, row: HostDay) -> int:
        """Write a row. Returns the bytes of its file."""
        table = pa.Table.from_pylist([dict(row.columns)], SCHEMA)
        out = io.BytesIO()
        # A file has one row: statistics and dictionaries would be more than half of it.
        pq.write_table(table, out, compression="zstd", write_statistics=False, use_dictionary=False, store_schema=False)
        data = out.getvalue()
        folder = f"{self._path}/{_DATE}{row.day.isoformat()}/host={quote(row.hostname or _NO_HOST, safe='')}"
        with self._said("write to"):
            if self.remote:
                with self._fs.open_output_stream(f"{folder}/{row.id}{SUFFIX}") as stream:
                    stream.write(data)
            else:
                os.makedirs(folder, exist_ok=True)
                write_whole(f"{folder}/{row.id}{SUFFIX}", data)
        return len(data)

    @contextlib.contextmanager
    def local(self, since: date | None, until: date | None, progress: Callable[[int, int], None] | None = None) -> Iterator[list[Path]]:
        """Folders of the days from ``since`` to ``until`` (both included), where this machine can read them: those of a remote archive are
        copied for as long as this lasts. UsageError where there is none. ``progress(done, total)``."""
        with self._said("read"):
            days = self._days(since, until)
        if not days:
            raise UsageError(f"{self.place}: no days of an archive are there{_between(since, until)}; uaptrace archive add makes one")
        if not self.remote:
            yield [Path(self._path) / name for name in days]
            return
        with tempfile.TemporaryDirectory(prefix="uaptrace-archive-") as folder, self._said("read"):
            for done, name in enumerate(days):
                (Path(folder) / name).mkdir()
                pa.fs.copy_files(
                    f"{self._path}/{name}", f"{folder}/{name}", source_filesystem=self._fs, destination_filesystem=pa.fs.LocalFileSystem()
                )
                if progress is not None:
                    progress(done + 1, len(days))
            yield [Path(folder) / name for name in days]

    def _days(self, since: date | None, until: date | None) -> list[str]:
        found = self._fs.get_file_info(pa.fs.FileSelector(self._path, allow_not_found=True))
        names = sorted(entry.base_name for entry in found if entry.type == pa.fs.FileType.Directory and entry.base_name.startswith(_DATE))
        return [name for name in names if _is_within(name.removeprefix(_DATE), since, until)]

    def _open(self, place: str) -> tuple[Any, str]:
        with self._said("reach"):
            return cast("tuple[Any, str]", pa.fs.FileSystem.from_uri(place))

    @contextlib.contextmanager
    def _said(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            first = plain(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise UsageError(f"cannot {verb} {self.place}: {first}") from None


def _is_within(text: str, since: date | None, until: date | None) -> bool:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return False
    return (since is None or day >= since) and (until is None or day <= until)


def _between(since: date | None, until: date | None) -> str:
    return (f" since {since}" if since else "") + (f" until {until}" if until else "")
