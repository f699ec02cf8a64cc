# SPDX-License-Identifier: Apache-2.0
"""Which of uaptrace's dependencies a Debian package takes from the release, and which it has to bring.

``PYTHONPATH=. python3 packaging/dependencies.py SETUP_CFG FOLDER`` writes into FOLDER for the release whose package lists this
machine has: ``depends.txt``, its entry of Depends; ``private.txt``, the requirements that the package brings, and ``release.txt``, those
of the release, both for pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from uaptrace.loader.programs import shipped_with
from uaptrace.testhost import trees

DEBIAN_NAMES: Final = {"pillow": "python3-pil", "pyyaml": "python3-yaml"}
"""Where it is not python3-NAME."""
ALWAYS: Final = ("python3",)
COMPILER: Final = "python3-bpfcc"
"""Needed where the BPF programs do not come compiled."""
BUILT_ON: Final = {"matplotlib": "numpy"}
"""Modules in C that fit the release's own copy of another one only."""


class Requirement(NamedTuple):
    """``name>=version``."""

    name: str
    version: str

    @property
    def package(self) -> str:
        """What Debian calls it."""
        return DEBIAN_NAMES.get(self.name.lower(), f"python3-{self.name.lower()}")

    @property
    def depends(self) -> str:
        """As an entry of Depends."""
        return f"{self.package} (>= {self.version})"

    @property
    def pip(self) -> str:
        """As a line for pip."""
        return f"{self.name}>={self.version}"


def requirements(setup_cfg: str) -> list[Requirement]:
    """install_requires of the text of setup.cfg. ValueError: one is not of the form NAME>=VERSION."""
    found = []
    for line in trees.requirements(setup_cfg):
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", line)
        if match is None:
            raise ValueError(f"not NAME>=VERSION: {line}")
        found.append(Requirement(match[1], match[2]))
    return found


def divide(wanted: list[Requirement], has: Callable[[Requirement], bool]) -> tuple[list[Requirement], list[Requirement]]:
    """(those of the release, those that the package brings)."""
    there = {r.name for r in wanted if has(r)}
    fits = there - {name for name, base in BUILT_ON.items() if base not in there}
    return [r for r in wanted if r.name in fits], [r for r in wanted if r.name not in fits]


def release_has(wanted: Requirement) -> bool:
    """Whether the release of this machine has it, new enough."""
    policy = subprocess.run(["apt-cache", "policy", wanted.package], capture_output=True, text=True, check=True).stdout
    candidate = re.search(r"^  Candidate: (?:\d+:)?(\d\S*)$", policy, re.MULTILINE)
    if candidate is None:
        return False
    return subprocess.run(["dpkg", "--compare-versions", candidate[1], "ge", wanted.version], check=False).returncode == 0


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    theirs, ours = divide(requirements(Path(sys.argv[1]).read_text()), release_has)
    folder = Path(sys.argv[2])
    always = ALWAYS if shipped_with(Path(sys.argv[1]).parent / "bpf") else (*ALWAYS, COMPILER)
    (folder / "depends.txt").write_text(", ".join([*always, *(r.depends for r in theirs)]) + "\n")
    for name, some in (("private", ours), ("release", theirs)):
        (folder / f"{name}.txt").write_text("".join(f"{r.pip}\n" for r in some))
    return 0


if __name__ == "__main__":
    sys.exit(main())
