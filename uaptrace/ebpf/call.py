# SPDX-License-Identifier: Apache-2.0
"""System calls that Python has no function for: bpf() (man 2 bpf, include/uapi/linux/bpf.h) and perf_event_open(). Made only here."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import Any, Final

PROG_TEST_RUN: Final = 10
_NUMBERS: Final = {"x86_64": {"perf_event_open": 298, "bpf": 321}}


class TestRun(ctypes.Structure):
    """The part of union bpf_attr that BPF_PROG_TEST_RUN reads."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
    )


def bpf(command: int, attr: ctypes.Structure) -> int:
    """What the kernel answers, not negative. Raises OSError with its error number. Other threads run meanwhile."""
    return _call("bpf", command, ctypes.byref(attr), ctypes.sizeof(attr))


def perf_event_open(attr: ctypes.Structure, pid: int, cpu: int, group_fd: int, flags: int) -> int:
    """Descriptor of the event (man 2 perf_event_open). Raises OSError with the kernel's error number."""
    return _call("perf_event_open", ctypes.byref(attr), pid, cpu, group_fd, ctypes.c_ulong(flags))


def _call(name: str, *arguments: Any) -> int:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(f"uaptrace does not know the number of {name}() on {platform.machine()}")
    answer = int(_libc().syscall(numbers[name], *arguments))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
