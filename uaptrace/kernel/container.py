# SPDX-License-Identifier: Apache-2.0
"""Whether this process is in a container, and what of the host it does not see or may not do from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_INITIAL: Final = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE, "cgroup": 0xEFFFFFFB}
"""Inodes of the namespaces that the kernel boots with (include/uapi/linux/nsfs.h, include/linux/proc_ns.h before)."""
_MARKS: Final = ("run/.containerenv", ".dockerenv", "var/run/secrets/kubernetes.io")
"""Files of podman, docker and kubernetes."""
CAPABILITIES: Final = {
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""That the loader needs, by their numbers (include/uapi/linux/capability.h). The daemon gives all of them up."""
HOST_NAME_VARIABLE: Final = "UAPTRACE_HOST_NAME"


@dataclass(frozen=True, slots=True)
class Container:
    """The surroundings of this process."""

    is_marked: bool
    """A container runtime has left its mark."""
    foreign: frozenset[str]
    """Namespaces that are not the host's: ``user``, ``pid``, ``uts``, ``cgroup``."""
    missing: tuple[str, ...]
    """Capabilities that are needed and not there."""
    sees_all_cgroups: bool
    has_host_name: bool
    """Somebody said what the host is called."""

    @property
    def is_one(self) -> bool:
        """Whether it is a container."""
        return self.is_marked or bool(self.foreign)


def read_container(environment: dict[str, str], root: Path = Path("/")) -> Container:
    """What /proc says of this process; what cannot be read is taken for the host's."""
    effective = 0
    for line in _lines(root / "proc/self/status"):
        if line.startswith("CapEff:"):
            effective = int(line.split(":")[1], 16)
    return Container(
        is_marked=any((root / mark).exists() for mark in _MARKS),
        foreign=frozenset(name for name, inode in _INITIAL.items() if _inode(root / "proc/self/ns" / name) not in (inode, None)),
        missing=tuple(name for name, number in CAPABILITIES.items() if not effective >> number & 1),
        # The root of all cgroups is the one that has no type.
        sees_all_cgroups=not (root / "sys/fs/cgroup/cgroup.type").exists(),
        has_host_name=bool(environment.get(HOST_NAME_VARIABLE)),
    )


def problems(container: Container) -> tuple[list[str], list[str]]:
    """What is missing, and what mends it, both in the same order."""
    found = []
    if "user" in container.foreign:
        found.append(
            ("its user namespace is not the host's: the kernel takes no tracing program from it", "run it in the host's (hostUsers)")
        )
    if container.missing:
        found.append((f"{', '.join(container.missing)} missing", "add them (capabilities.add, --cap-add)"))
    if "pid" in container.foreign:
        found.append(("its process ids are not the host's: its own splits count as others'", "share the host's (hostPID, --pid=host)"))
    if not container.sees_all_cgroups:
        found.append(("it sees its own cgroups only: others have no names", "mount the host's /sys/fs/cgroup, read-only"))
    if "uts" in container.foreign and not container.has_host_name:
        found.append(("its host name is not the host's", f"set {HOST_NAME_VARIABLE} (kubernetes: spec.nodeName)"))
    return [what for what, _ in found], [mend for _, mend in found]


def _inode(path: Path) -> int | None:
    """``pid:[4026531836]`` -> 4026531836."""
    try:
        return int(path.readlink().name.partition("[")[2].rstrip("]"))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
