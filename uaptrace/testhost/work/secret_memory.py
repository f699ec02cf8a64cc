# SPDX-License-Identifier: Apache-2.0
"""Pages of memfd_secret()."""

from __future__ import annotations

import argparse
import ctypes
import errno
import mmap
import os
import random
import resource
from typing import Final

from uaptrace.testhost.work.common import PAGE_SIZE, Result, WorkError, hold, libc

SYS_MEMFD_SECRET: Final = 447


def raise_memlock() -> None:
    # Since 6.1.19x secret pages count against the limit, for root as well: SIGBUS past it.
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    except (ValueError, OSError):
        raise WorkError("cannot raise the limit of locked memory: run as root") from None


def memfd_secret() -> int:
    descriptor = libc.syscall(SYS_MEMFD_SECRET, 0)
    if descriptor < 0:
        error = ctypes.get_errno()
        if error == errno.ENOSYS:
            raise WorkError("this kernel has no memfd_secret (6.1 needs secretmem.enable=1)")
        raise WorkError(f"memfd_secret: {os.strerror(error)}")
    return int(descriptor)


class SecretMemory:
    """A mapping of secret memory with every page touched, in order or in that which ``shuffled`` makes of it."""

    def __init__(self, nr_pages: int, shuffled: random.Random | None = None) -> None:
        descriptor = memfd_secret()
        try:
            os.ftruncate(descriptor, nr_pages * PAGE_SIZE)
            self.map = mmap.mmap(descriptor, nr_pages * PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(descriptor)
        # Pages read before they are written tell whether content outlived its owner.
        self.nr_dirty = 0
        offsets = list(range(0, nr_pages * PAGE_SIZE, PAGE_SIZE))
        if shuffled is not None:
            shuffled.shuffle(offsets)
        for offset in offsets:
            if self.map[offset : offset + PAGE_SIZE] != bytes(PAGE_SIZE):
                self.nr_dirty += 1
            self.map[offset : offset + 8] = b"uaptrace"

    def close(self) -> None:
        self.map.close()


def secretmem(args: argparse.Namespace) -> Result:
    raise_memlock()
    shuffled = random.Random(args.seed) if args.order == "random" else None
    nr_dirty = 0
    for _ in range(args.times - 1):
        memory = SecretMemory(args.pages, shuffled)
        nr_dirty += memory.nr_dirty
        memory.close()
    memory = SecretMemory(args.pages, shuffled)
    hold(args)
    memory.close()
    return {"pages": args.pages, "times": args.times, "dirty_pages": nr_dirty + memory.nr_dirty}


def processes(args: argparse.Namespace) -> Result:
    raise_memlock()
    # A kernel that has none is told so here: what fails in a child has no words.
    os.close(memfd_secret())
    for _ in range(args.times):
        child = os.fork()
        if not child:
            status = 1
            try:
                SecretMemory(1).close()
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            raise WorkError("a process could not touch a page of memfd_secret()", 1)
    hold(args)
    return {"processes": args.times}
