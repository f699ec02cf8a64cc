# SPDX-License-Identifier: Apache-2.0
"""The system call bpf() (man 2 bpf, include/uapi/linux/bpf.h): every other module that makes it comes through here."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from typing import Any, Final

PROG_TEST_RUN: Final = 10
_NUMBER: Final = {"x86_64": 321}


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
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise OSError(f"uaptrace does not know the number of bpf() on {platform.machine()}")
    answer = int(_libc().syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr)))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
