# SPDX-License-Identifier: Apache-2.0
"""Names of the parts of a rotated recording: FILE, FILE.1, FILE.2, ... in order of time; nothing is ever renamed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def part_path(path: Path, part: int) -> Path:
    """File of one part; part 0 is ``path`` itself."""
    return path if part == 0 else path.with_name(f"{path.name}.{part}")


def existing_parts(path: Path) -> dict[int, Path]:
    """Parts of ``path`` that are there, by number, in ascending order."""
    pattern = re.compile(re.escape(path.name) + r"\.([1-9]\d*)")
    found = {}
    with contextlib.suppress(OSError):  # A name that cannot be, or a folder that cannot be listed: its parts cannot be known.
        if path.is_file():
            found[0] = path
        numbers = [pattern.fullmatch(p.name) for p in path.parent.iterdir()]
        found.update({int(m[1]): path.with_name(m[0]) for m in numbers if m})
    return dict(sorted(found.items()))


def split_part(path: Path) -> tuple[Path, int]:
    """``FILE.3`` is (FILE, 3) where the name ends in a number, ``FILE`` is (FILE, 0)."""
    match = re.fullmatch(r"(.+)\.([1-9]\d*)", path.name)
    return (path.with_name(match[1]), int(match[2])) if match else (path, 0)
