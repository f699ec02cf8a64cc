# SPDX-License-Identifier: Apache-2.0
"""Real BPF programs on any Linux machine, also one whose kernel forbids tracing: BPF_PROG_TEST_RUN of a socket filter."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

_SYS_BPF = 321
_BPF_PROG_TEST_RUN = 10
BPF_DIR = Path(__file__).resolve().parents[1] / "bpf"


class _TestRun(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
    ]


def run(prog_fd: int, repeat: int = 1, packet: bytes = b"") -> int:
    """Run a loaded program ``repeat`` times over a packet (14 bytes of link header, which the program does not see); what it returned."""
    data = ctypes.create_string_buffer(packet.ljust(64, b"\0"), max(64, len(packet)))
    args = _TestRun(prog_fd=prog_fd, data_size_in=len(data), data_in=ctypes.addressof(data), repeat=repeat)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_BPF, _BPF_PROG_TEST_RUN, ctypes.byref(args), ctypes.sizeof(args)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(args.retval)


def why_not() -> str:
    """Why BPF programs cannot be loaded here; empty where they can."""
    if os.geteuid() != 0:
        return "loading BPF programs needs root"
    try:
        import bcc  # noqa: F401
    except ImportError:
        return "needs bcc (Debian: python3-bpfcc)"
    return ""


def compile_text(text: str) -> Any:
    """A bcc.BPF of the text, with the stub headers and bpf/ on the include path."""
    os.environ["BCC_KERNEL_SOURCE"] = str(BPF_DIR)
    from bcc import BPF

    return BPF(text=text.encode(), cflags=[f"-I{BPF_DIR}"])
