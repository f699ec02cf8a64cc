# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of loaded BPF programs and maps (include/uapi/linux/bpf.h), by their descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from uaptrace.ebpf import libbpf

_INFO_BYTES: Final = 256
_RECURSION_MISSES: Final = 208
"""Offset of recursion_misses of bpf_prog_info, since 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented", 5.12)."""


def object_info(fd: int) -> bytes:
    """What the kernel tells of a program or map: struct bpf_prog_info or bpf_map_info, as far as this kernel has it.

    Empty where it says nothing.
    """
    try:
        return libbpf.object_info(fd, _INFO_BYTES)
    except OSError:
        return b""


def missed_runs(program_fds: Iterable[int]) -> int | None:
    """Times the kernel did not run one of the programs, because it was already running on that CPU. None where it does not say:
    an older kernel, or one that tells unprivileged processes nothing (kernel.unprivileged_bpf_disabled)."""
    total = 0
    for fd in program_fds:
        said = object_info(fd)[_RECURSION_MISSES : _RECURSION_MISSES + 8]
        if len(said) < 8:
            return None
        total += int.from_bytes(said, "little")
    return total
