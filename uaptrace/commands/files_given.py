# SPDX-License-Identifier: Apache-2.0
"""What commands check before they read or load anything: outputs against inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uaptrace.process.outputs import check_outputs


def check_files(
    outputs: Iterable[Path | None] = (),
    *,
    recordings: Iterable[Path | None] = (),
    others: Iterable[Path | None] = (),
    ready_file: Path | None = None,
) -> None:
    """UsageError where an output cannot be made, or is one of the ``recordings`` with their parts, the ``others`` that are read,
    or another output, by whatever name."""
    inputs = [file for path in recordings if path is not None for file in _files_of(path)]
    check_outputs(outputs, [*inputs, *(path for path in others if path is not None)], markers=[ready_file])


def _files_of(recording: Path) -> list[Path]:
    from uaptrace.recording.part_names import existing_parts, split_part

    return [recording, *existing_parts(recording).values(), *existing_parts(split_part(recording)[0]).values()]
