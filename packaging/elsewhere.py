# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian package for another release than this machine's, in a tree of that release: packaging/build-deb runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from uaptrace.testhost.errors import HostError
from uaptrace.testhost.host import CACHE, CHECKOUT, note
from uaptrace.testhost.trees import copied_tree, in_tree, release_name

_SOURCE: Final = "root/source"
_OUT: Final = "root/out"


def copy_sources(checkout: Path, to: Path) -> None:
    """What git has of the checkout, as it is there now, and the compiled programs where there are any."""
    listed = subprocess.run(["git", "-C", str(checkout), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in [*listed.split("\0")[:-1], "bpf/programs.json"]:
        if (checkout / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, to / name)


def build(release: str, checkout: Path, out: Path) -> Path:
    """The package that was built into ``out``; root only. HostError where it cannot be."""
    name = release_name(release)
    written = subprocess.run(["git", "-C", str(checkout), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True).stdout
    # A package is hundreds of megabytes until it is packed: beside the trees there is room.
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        root = copied_tree(name, checkout, Path(work, "root"))
        copy_sources(checkout, root / _SOURCE)
        note("packaging", f"Debian {name}: compilers, debhelper")
        build_there = f"/{_SOURCE}/packaging/build-deb /{_OUT}"
        in_tree(root, ["env", f"SOURCE_DATE_EPOCH={written.strip()}", "sh", "-ec", f"{build_there} >&2"])
        (package,) = (root / _OUT).glob("uaptrace_*.deb")
        return Path(shutil.copy(package, out))


def main() -> int:
    release, out = sys.argv[1:]
    if os.geteuid() != 0:
        print(f"packaging: for another release as root only: sudo packaging/build-deb {out} {release}", file=sys.stderr)
        return 2
    try:
        print(build(release, CHECKOUT, Path(out)))
    except HostError as error:
        print(f"packaging: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
