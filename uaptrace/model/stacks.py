# SPDX-License-Identifier: Apache-2.0
"""Kernel stacks as they would be without the tracer on them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_TRACER: Final = re.compile(r"bpf_(prog_[0-9a-f]{16}(_|\+|$)|trampoline_\d+(\+|$))")
"""Images of programs and of the trampolines that call them, by their names in /proc/kallsyms."""


def without_tracer(stack: Iterable[str]) -> tuple[str, ...]:
    """Leave out BPF programs and trampolines, and the second frame of a function that was entered through one.

    A hooked function stands on the stack twice: as itself, called by the trampoline, and as the place of its entry that called the
    trampoline. Loading a program is a cause of splits; being watched by one is not.
    """
    kept: list[str] = []
    through_trampoline = False
    for frame in stack:
        if _TRACER.match(frame):
            through_trampoline = True
            continue
        if through_trampoline and kept and function_of(kept[-1]) == function_of(frame):
            through_trampoline = False
            continue
        through_trampoline = False
        kept.append(frame)
    return tuple(kept)


def function_of(frame: str) -> str:
    """``symbol`` of ``symbol+0xoff [module]``."""
    return frame.split("+", 1)[0].split(" ", 1)[0]
