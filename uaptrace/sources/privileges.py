# SPDX-License-Identifier: Apache-2.0
"""Gives up every privilege, once what needed one has been handed over."""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path
from typing import Final

from uaptrace.errors import UaptraceError

_PR_SET_NO_NEW_PRIVS: Final = 38
_SYS_CAPSET: Final = 126
_CAPABILITY_VERSION_3: Final = 0x20080522
_NOBODY: Final = 65534


def drop_privileges(folder: Path | None = None) -> None:
    """Become nobody, without groups and without capabilities, for good.

    With ``folder``: become its owner instead, who may still make files there (root stays root, but without capabilities).
    The process stays undumpable (the kernel's default after such a change): it holds descriptors of kernel memory,
    which other processes of the same user must not be able to take. Raises UaptraceError where something is left.
    """
    if os.geteuid() == 0:
        if folder is not None:
            owner = folder.stat()
            uid, gid = owner.st_uid, owner.st_gid
        else:
            uid, gid = _nobody()
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.syscall(_SYS_CAPSET, header, nothing) != 0:
        raise UaptraceError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
    if effective_capabilities():
        raise UaptraceError("cannot give up capabilities: some are left")


def _nobody() -> tuple[int, int]:
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        return _NOBODY, _NOBODY
    return user.pw_uid, user.pw_gid


def effective_capabilities() -> int:
    """Bit mask of this process's effective capabilities (man 7 capabilities)."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
