# SPDX-License-Identifier: Apache-2.0
"""What all verbs share: errors, ready files, holding."""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from pathlib import Path
from typing import Any, Final

PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")


libc = ctypes.CDLL(None, use_errno=True)
Result = dict[str, Any]
"""What a verb did, for JSON."""


class WorkError(Exception):
    """What ends the work with one line. ``status``: 2 where the machine or the arguments are not such that it can be done, else 1."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def touch_ready(path: Path | None) -> None:
    """The file appears only when all of it is true."""
    if path:
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(f"{os.getpid()}\n")
        temporary.rename(path)


def hold(args: argparse.Namespace) -> None:
    touch_ready(args.ready)
    if args.until:
        wait_for(args.until)
    elif args.hold:
        time.sleep(args.hold)
