# SPDX-License-Identifier: Apache-2.0
"""Real BPF programs on any Linux machine, also one whose kernel forbids tracing: BPF_PROG_TEST_RUN of a socket filter."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from uaptrace.ebpf.libbpf import run_program

BPF_DIR = Path(__file__).resolve().parents[1] / "bpf"


def run(prog_fd: int, repeat: int = 1, packet: bytes = b"") -> int:
    """Run a loaded program ``repeat`` times over a packet (14 bytes of link header, which the program does not see); what it returned."""
    data = ctypes.create_string_buffer(packet.ljust(64, b"\0"), max(64, len(packet)))
    return run_program(prog_fd, data=data, repeat=repeat)


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
