# SPDX-License-Identifier: Apache-2.0
"""BPF programs, processes, and pipes full of ordinary pages."""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import resource
import shutil
import struct
import subprocess
from typing import Final

from uaptrace.testhost.work.common import PAGE_SIZE, Result, WorkError, hold, libc
from uaptrace.testhost.work.secret_memory import raise_memlock

SYS_BPF: Final = 321
BPF_PROG_LOAD: Final = 5
BPF_PROG_TYPE_SOCKET_FILTER: Final = 1


def pipes(args: argparse.Namespace) -> Result:
    """Pipe buffers are pages that cannot be moved, as the cache's chunks were: the page allocator takes both from the same blocks."""
    per_pipe = 256
    nr_pipes = -(-args.pages // per_pipe)
    limit = 2 * nr_pipes + 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    ends = [os.pipe() for _ in range(nr_pipes)]
    left = args.pages
    for _, writer in ends:
        nr_pages = min(left, per_pipe)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, per_pipe * PAGE_SIZE)
        os.write(writer, bytes(nr_pages * PAGE_SIZE))
        left -= nr_pages
    hold(args)
    for pair in ends:
        for descriptor in pair:
            os.close(descriptor)
    return {"pages": args.pages}


def load_filter(nr_instructions: int) -> int:
    """Loads a socket filter that returns 0; the JIT writes it to module memory."""
    move = struct.pack("<BBhi", 0xB7, 0, 0, 0)  # r0 = 0
    leave = struct.pack("<BBhi", 0x95, 0, 0, 0)  # exit
    code = ctypes.create_string_buffer(move * (nr_instructions - 1) + leave, nr_instructions * 8)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16s",
        BPF_PROG_TYPE_SOCKET_FILTER,
        nr_instructions,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"uap_workload",
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    descriptor = libc.syscall(SYS_BPF, BPF_PROG_LOAD, buffer, len(attributes))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise WorkError(f"cannot load a BPF program: {os.strerror(error)}", 2 if error in (errno.ENOSYS, errno.EPERM) else 1)
    return int(descriptor)


def bpf(args: argparse.Namespace) -> Result:
    raise_memlock()
    if args.keep:
        descriptors = [load_filter(args.instructions) for _ in range(args.times)]
        hold(args)
        for descriptor in descriptors:
            os.close(descriptor)
    else:
        for _ in range(args.times):
            os.close(load_filter(args.instructions))
        hold(args)
    return {"programs": args.times, "instructions": args.instructions}


def storm(args: argparse.Namespace) -> Result:
    """Forks and execs: a control, which does nothing to the direct map."""
    command = shutil.which("true")
    if command is None:
        raise WorkError("true is missing (package coreutils)")
    for _ in range(args.times):
        subprocess.run([command], check=True)
    hold(args)
    return {"processes": args.times}
