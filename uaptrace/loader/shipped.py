# SPDX-License-Identifier: Apache-2.0
"""The programs as they come with uaptrace: compiled where it was built, so that a host needs neither bcc nor LLVM.

They are one file beside the sources (``make setup``, ``packaging/compile_programs.py``). Where the sources are not those that were
compiled, as in a checkout that is being changed, the file has nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uaptrace.ebpf.compiled import Compiled, from_json

NAME: Final = "programs.json"


@dataclass(frozen=True, slots=True)
class Shipped:
    """``compiler``: what compiled them, in words; ``programs``: by cache.cache_key() of what they were compiled from."""

    compiler: str
    programs: Mapping[str, Compiled]

    def write(self, folder: Path) -> None:
        """Into the folder, for read_shipped(). Raises OSError."""
        programs = {key: compiled.to_json() for key, compiled in sorted(self.programs.items())}
        (folder / NAME).write_text(json.dumps({"compiler": self.compiler, "programs": programs}, indent=1) + "\n")


def read_shipped(folder: Path) -> Shipped | None:
    """What is in the folder; None where there is none, or nothing that can be read."""
    try:
        held = json.loads((folder / NAME).read_bytes())
        programs = {str(key): from_json(compiled) for key, compiled in held["programs"].items()}
        return Shipped(str(held["compiler"]), programs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
