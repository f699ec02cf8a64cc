# SPDX-License-Identifier: Apache-2.0
"""Root file systems of other Debian releases for guests: as small as uaptrace runs in, made by debootstrap and kept in the cache folder."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from . import archive
from .errors import HostError
from .host import CACHE, locked, need, note, own_mounts, run

RELEASES: Final = {"12": "bookworm", "13": "trixie"}
PACKAGES: Final = ("python3", "python3-bpfcc", "python3-venv", "libbpf1", "kmod")
"""What the README asks a machine to have, its compiler for ``--compile``, and modprobe for the workload."""
SYSTEM_PACKAGES: Final = "systemd systemd-sysv udev procps man-db prometheus"
"""What such a tree needs to boot as a host of its own, and what scrapes it."""
VENV: Final = "opt/uaptrace"
"""In the tree: uaptrace's dependencies for the Python of the release. uaptrace itself is the checkout's."""
_PIP_SETTINGS: Final = ("/etc/pip.conf", "/etc/xdg/pip", "~/.pip", "~/.config/pip")
_LOCAL_PATH: Final = re.compile(r"(?:^|[\s=])(?:file://)?(/[^\s]+)")


def release_name(release: str) -> str:
    """The code name of a release by its number or its name. HostError where it is not known."""
    name = RELEASES.get(release, release)
    if name not in RELEASES.values():
        known = ", ".join(f"{number} ({name})" for number, name in RELEASES.items())
        raise HostError(f"no such release: {release} (known are {known})")
    return name


def requirements(setup_cfg: str) -> list[str]:
    """uaptrace's dependencies, from the text of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read_string(setup_cfg)
    return parser["options"]["install_requires"].split("\n")[1:]


def tree(release: str, checkout: Path) -> Path:
    """The root of a tree of that release, made where it is not there yet. HostError where it cannot be made."""
    name = release_name(release)
    needs = requirements((checkout / "setup.cfg").read_text())
    digest = hashlib.sha256("\n".join([*PACKAGES, *needs]).encode()).hexdigest()[:12]
    final = CACHE / "trees" / f"{name}-{digest}"
    if final.is_dir():
        return final
    if os.geteuid() != 0:
        raise HostError(f"a tree of {name} is made by root only: sudo kernel/tree {release}")
    with locked(f"tree-{name}"):
        if not final.is_dir():
            _make(name, needs, final)
    return final


def _make(name: str, needs: list[str], final: Path) -> None:
    work = final.with_name(f".{final.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    work.chmod(0o755)
    note("tree", f"Debian {name}: debootstrap, 2 or 3 minutes on two processors")
    run(
        [
            # It leaves /proc mounted in the tree: a mount namespace of its own takes that away again.
            *own_mounts(),
            need("debootstrap", "debootstrap"),
            "--variant=minbase",
            f"--keyring={archive.KEYRING}",
            f"--include={','.join(PACKAGES)}",
            name,
            str(work),
            archive.mirror(),
        ],
        name="debootstrap",
    )
    note("tree", f"Debian {name}: uaptrace's dependencies")
    in_tree(work, ["python3", "-m", "venv", "--system-site-packages", f"/{VENV}"])
    in_tree(work, [f"/{VENV}/bin/pip", "install", "--quiet", "--no-cache-dir", *needs])
    # uaptrace is found in the checkout, which kernel/guest puts on the path of this Python.
    command = work / VENV / "bin/uaptrace"
    command.write_text(f"#!/{VENV}/bin/python\nimport sys\n\nfrom uaptrace.cli import main\n\nsys.exit(main())\n")
    command.chmod(0o755)
    for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(work / leftover, ignore_errors=True)
    work.rename(final)


def copied_tree(release: str, checkout: Path, root: Path) -> Path:
    """A tree of that release at ``root``, without uaptrace's dependencies, to be changed; root only. HostError where it cannot be made."""
    # Device nodes are copied as such: shutil would read them.
    run([need("cp", "coreutils"), "--archive", str(tree(release, checkout)), str(root)])
    shutil.rmtree(root / VENV)
    return root


def system_tree(package: Path, checkout: Path, root: Path) -> Path:
    """A tree at ``root`` that boots with systemd, with a Debian package of uaptrace installed, of the release that the package is for;
    root only. Made anew each time. HostError where it cannot be made."""
    release = package_release(package.name)
    copied_tree(release, checkout, root)
    note("tree", f"Debian {release}: systemd and {package.name}")
    shutil.copy(package, root / "root/uaptrace.deb")
    # The services are for the guest's systemd, not for this machine's.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # Nobody who installs the package has to have the compiler.
    for command in ("update", "purge python3-bpfcc libbpfcc", f"install --no-install-recommends {SYSTEM_PACKAGES} /root/uaptrace.deb"):
        in_tree(root, ["sh", "-c", f"DEBIAN_FRONTEND=noninteractive apt-get -q -y {command} >&2"])
    policy.unlink()
    (root / "root/uaptrace.deb").unlink()
    return root


def package_release(name: str) -> str:
    """The code name of the release that a package is for, from the name that build-deb gave its file. HostError: none that is known."""
    found = re.search(r"~deb(\d+)u", name)
    return release_name(found[1] if found else name)


def in_tree(root: Path, command: list[str]) -> None:
    """Run a command in the tree with this machine's way to the package index.

    The files are mounted in a mount namespace of the command's own: nothing of this machine stays in the tree, and no mount is left
    behind however it ends.
    """
    steps = []
    for path in handed_through(os.environ):
        inside = root / path.relative_to("/")
        if path.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        steps.append(shlex.join(["mount", "--bind", str(path), str(inside)]))
    steps.append("exec " + shlex.join([need("chroot", "coreutils"), str(root), *command]))
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    run([*own_mounts(), "sh", "-ec", "\n".join(steps)], environment=environment, name=f"{command[0]} in the tree")


def handed_through(environment: Mapping[str, str]) -> list[Path]:
    """What of this machine pip needs in order to reach the package index: names, certificates, its settings, and files that they name.

    Folders of packages that the settings name are left out: pip does without them.
    """
    settings = [Path(path).expanduser() for path in _PIP_SETTINGS]
    files = [file for path in settings for file in (path, path / "pip.conf") if file.is_file()]
    texts = [file.read_text() for file in files] + [value for name, value in environment.items() if name.startswith("PIP_")]
    named = [path for text in texts for path in map(Path, _LOCAL_PATH.findall(text)) if path.is_file()]
    found: list[Path] = []
    for path in [Path("/etc/resolv.conf"), Path("/etc/hosts"), Path("/etc/ssl"), *settings, *named]:
        if path.exists() and not any(outer in found for outer in (path, *path.parents)):
            found.append(path)
    return found
