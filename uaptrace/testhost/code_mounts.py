# SPDX-License-Identifier: Apache-2.0
"""Where a guest reads programs from: mounts that keep what they were told of files.

virtme-ng's own mounts ask the host again for each name of a path, each time. Python looks for hundreds of files when it starts: on
two slow processors ``import numpy`` took 11 s over those mounts and 3 s over these. What changes on the host while a guest runs is
not seen through them, so they are for code alone; what a guest writes there stays in the guest.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from uaptrace.testhost import trees

SYSTEM: Final = ("usr/lib/python3*", "usr/lib/x86_64-linux-gnu", trees.VENV)
CHECKOUT: Final = (".venv", "uaptrace")
_PLACE: Final = "/run/uaptrace-code"
_OPTIONS: Final = "ro,version=9p2000.L,trans=virtio,access=any,cache=loose,msize=512000"


def exported(root: Path | None, checkout: Path) -> dict[str, tuple[Path, str, list[str]]]:
    """By the tag of its device: a folder of the host, where it is in the guest, and what of it is code."""
    system = root or Path("/")
    found: dict[str, tuple[Path, str, list[str]]] = {}
    for tag, folder, inside, patterns in (("code-system", system, "", SYSTEM), ("code-checkout", checkout, str(checkout), CHECKOUT)):
        names = [str(path.relative_to(folder)) for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_dir()]
        found[tag] = folder, inside, names
    return found


def qemu_options(root: Path | None, checkout: Path) -> list[str]:
    """A device for each of the folders."""
    options = []
    for tag, (folder, _, _) in exported(root, checkout).items():
        path = str(folder).replace(",", ",,")
        options += ["-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"]
        options += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return options


def guest_script(root: Path | None, checkout: Path) -> str:
    """Shell commands for the guest. One that fails says so on the console, and leaves virtme-ng's mount as it was."""
    lines = [f"mkdir {_PLACE} && mount -t tmpfs -o mode=755 code {_PLACE}"]
    for tag, (_, inside, names) in exported(root, checkout).items():
        lower = f"{_PLACE}/{tag}"
        lines += [f"mkdir {lower}", f"mount -t 9p -o {_OPTIONS} {tag} {lower}"]
        for number, name in enumerate(names):
            upper, work = (f"{_PLACE}/{tag}-{number}-{what}" for what in ("upper", "work"))
            overlay = shlex.quote(f"lowerdir={lower}/{name},upperdir={upper},workdir={work}")
            lines.append(f"mkdir {upper} {work} && mount -t overlay -o {overlay} code {shlex.quote(f'{inside}/{name}')}")
    return "\n".join(lines) + "\n"
