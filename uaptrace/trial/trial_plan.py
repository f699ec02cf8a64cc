# SPDX-License-Identifier: Apache-2.0
"""What a trial is to do: kernels, work, and the order of the runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import UsageError
from uaptrace.testhost import kernel_names
from uaptrace.testhost.errors import HostError
from uaptrace.testhost.images import packaged_image

BUILT_IMAGE: Final = "arch/x86/boot/bzImage"
"""Where a build tree of the kernel has its image."""
FAULT_ARGUMENT: Final = "unmapped_alloc_fault"
"""``KERNEL+unmapped_alloc_fault=MASK``: the mask is written to the file of that name in debugfs before the work begins."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a trial: a name that kernel/boot takes, or an image; and more arguments for its command line. Neither: this host's."""

    label: str
    """As it was given."""
    name: str | None
    image: Path | None
    append: str

    @property
    def is_here(self) -> bool:
        """It is the kernel that this host runs: nothing is booted."""
        return self.name is None and self.image is None

    def boot_options(self) -> list[str]:
        """Options of kernel/boot that start it."""
        which = ["--kernel", self.name] if self.name is not None else ["--image", str(self.image)]
        return [*which, *(["--append", self.append] if self.append else [])]


@dataclass(frozen=True, slots=True)
class Workload:
    """One command that is run in each guest. ``label`` is as it was given."""

    label: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole trial. ``kernels[0]`` is the baseline."""

    kernels: tuple[Kernel, ...]
    workloads: tuple[Workload, ...]
    repeat: int
    seed: int
    memory: str
    """As kernel/boot takes it: 2G. Of a host: for people."""
    cpus: int
    timeout_s: float
    """Of one run, from the start of the virtual machine."""
    count_instructions: bool

    def runs(self) -> list[tuple[int, int]]:
        """(number of the kernel, number of the repetition) in the order in which they run: forwards, backwards, and so on, so that
        what drifts on this machine meets all kernels alike."""
        order = range(len(self.kernels))
        return [(kernel, number) for number in range(self.repeat) for kernel in (reversed(order) if number % 2 else order)]

    def to_json(self) -> dict[str, Any]:
        """What has to be the same where a trial is resumed. Plain values."""
        return {
            "kernels": [kernel.label for kernel in self.kernels],
            "workloads": [{"label": work.label, "command": list(work.command)} for work in self.workloads],
            "repeat": self.repeat,
            "seed": self.seed,
            "memory": self.memory,
            "cpus": self.cpus,
            "timeout_s": self.timeout_s,
            "count_instructions": self.count_instructions,
        }


def plan_from_json(said: dict[str, Any]) -> Plan:
    """The plan that Plan.to_json() was made of, with kernels that this host runs. Raises KeyError, TypeError or ValueError where it is
    none."""
    return Plan(
        tuple(Kernel(str(label), None, None, "") for label in said["kernels"]),
        tuple(Workload(str(work["label"]), tuple(map(str, work["command"]))) for work in said["workloads"]),
        int(said["repeat"]),
        int(said["seed"]),
        str(said["memory"]),
        int(said["cpus"]),
        float(said["timeout_s"]),
        bool(said["count_instructions"]),
    )


def parse_kernel(text: str) -> Kernel:
    """``patched-6.12``, ``debian-7.3``, a kernel image, its .deb, or the folder of a build; each with ``+ARGUMENTS`` for its command line.
    UsageError where it is none of these."""
    if Path(text).exists():
        return Kernel(text, None, _image(Path(text)), "")
    name, _, append = text.partition("+")
    try:
        shlex.split(append)
    except ValueError as error:
        raise UsageError(f"{text}: the kernel's arguments cannot be read: {error}") from None
    if kernel_names.is_known(name):
        return Kernel(text, name, None, append)
    if not Path(name).exists():
        raise UsageError(f"no such kernel: {name or text} (a kernel image, its .deb, the folder of a kernel's build, {kernel_names.KNOWN})")
    return Kernel(text, None, _image(Path(name)), append)


def _image(path: Path) -> Path:
    if path.suffix == ".deb":
        try:
            return packaged_image(path)
        except HostError as error:
            raise UsageError(str(error)) from None
    if not path.is_dir():
        return path.resolve()
    image = path / BUILT_IMAGE
    if not image.is_file():
        raise UsageError(f"{path} is not a finished kernel build: it has no {BUILT_IMAGE}")
    return image.resolve()


def parse_workload(text: str, workload: Path, seed: int) -> Workload:
    """``secretmem:pages=4096,order=random``: a verb of kernel/workload (``workload``) and its options. Only the form is checked.
    The seed is given to those that take one (SEEDED) and name none. UsageError where the form is wrong."""
    verb, _, rest = text.partition(":")
    options: list[str] = []
    names: set[str] = set()
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not name or not equals or not value or name in names:
            raise UsageError(f"workload {text}: {part!r} is not NAME=VALUE, each name once")
        names.add(name)
        options.append(f"--{name}={value}")
    if verb in SEEDED and "seed" not in names:
        options.append(f"--seed={seed}")
    return Workload(text, (str(workload), verb, *options))


SEEDED: Final = frozenset({"secretmem", "mix"})
"""Verbs of kernel/workload that take ``--seed``."""
