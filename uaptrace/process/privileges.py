# SPDX-License-Identifier: Apache-2.0
"""Gives up every privilege, once what needed one has been handed over.

The kernel keeps capabilities and no_new_privs for each thread (man 7 capabilities): the thread that calls gives them up, later ones
inherit that, and one that was there before keeps what it had. So no library may start one before:
keep_single_threaded() in limits.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from uaptrace.abi.errors import UaptraceError

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SYS_CAPSET: Final = 126
_CAPABILITY_VERSION_3: Final = 0x20080522
_NR_CAPABILITIES: Final = 64
"""As many as a set can hold; the kernel says EINVAL to those that it does not have."""
_NOBODY: Final = 65534
OWN_USER: Final = "uaptrace"
"""Who the daemon becomes where there is such a user; nobody elsewhere."""
_CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def die_with_parent(parent: int) -> None:
    """In a child: be killed when the thread of ``parent`` (a pid) that forked it ends, whatever ends it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def drop_privileges(folder: Path | None = None) -> None:
    """Become the user ``uaptrace``, or nobody, without groups and without capabilities, for good.

    With ``folder``: become its owner instead, who may still make files there (root stays root, but without capabilities).
    The process is undumpable from here on: it holds descriptors of kernel memory, which other processes of the same user must not be
    able to take. Raises UaptraceError where a thread has something left.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        uid, gid = _own_user() if folder is None else _owner(folder)
        _empty_bounding_set(libc)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.syscall(_SYS_CAPSET, header, nothing) != 0:
        raise UaptraceError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
    for thread in threads():
        if left := what_is_left(thread):
            raise UaptraceError(
                f"cannot give up privileges: the thread {thread.get('Name', '')!r}, which a library has started, keeps {left}; "
                "please report it with the versions of numpy and pyarrow"
            )


def threads() -> list[Mapping[str, str]]:
    """Of each thread of this process: the fields of its status (man 5 proc) by name."""
    found: list[Mapping[str, str]] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except OSError:
            continue  # It has ended.
        found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return found


def what_is_left(thread: Mapping[str, str]) -> str:
    """What a thread, as threads() gives it, could still do; nothing where it is as drop_privileges() leaves it."""
    left = [f"{name} {thread[name]}" for name in _CAPABILITY_SETS if int(thread.get(name, "0"), 16)]
    if thread.get("NoNewPrivs") == "0":
        left.append("NoNewPrivs 0")
    return ", ".join(left)


def _empty_bounding_set(libc: ctypes.CDLL) -> None:
    """No program that is started from here on may get a capability. Without CAP_SETPCAP (a container) there is none to take it from."""
    for capability in range(_NR_CAPABILITIES):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() in (errno.EINVAL, errno.EPERM):
            return


def _owner(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_uid, status.st_gid


def _own_user() -> tuple[int, int]:
    for name in (OWN_USER, "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if user.pw_uid != 0:
            return user.pw_uid, user.pw_gid
    return _NOBODY, _NOBODY
