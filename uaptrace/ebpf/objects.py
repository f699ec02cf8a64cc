# SPDX-License-Identifier: Apache-2.0
"""Maps and programs, made by libbpf's calls for single objects.

libbcc can do this too, but it reads the kernel's types anew for every program that it loads, and it is not needed at all
where the programs were compiled before.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Final

from uaptrace.ebpf import libbpf
from uaptrace.ebpf.compiled import MapSpec

KPROBE: Final = 2
RAW_TRACEPOINT: Final = 17
TRACING: Final = 26
"""Kinds of programs (enum bpf_prog_type)."""
FENTRY: Final = 24
FEXIT: Final = 25
"""What a program of kind TRACING is attached to (enum bpf_attach_type)."""

_NAME_BYTES: Final = 15
_LOG_BYTES: Final = 16 << 20
"""As much as any kernel takes. Only what is written to costs memory."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is loaded: ``kind`` and, for TRACING, ``attach_type`` and the BTF id of the function."""

    name: str
    kind: int
    code: bytes
    attach_type: int = 0
    attach_btf_id: int = 0


class ProgramRefusedError(OSError):
    """The kernel refused a program. ``log``: what its verifier said, empty where it said nothing."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, os.strerror(number))
        self.log = log


def create_map(name: str, spec: MapSpec) -> int:
    """Descriptor of a new map. Raises OSError."""
    return libbpf.create_map(
        spec.type_id,
        _name(name),
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        flags=spec.flags,
    )


def load_program(program: Program) -> int:
    """Descriptor of the loaded program. Raises ProgramRefusedError."""
    load = functools.partial(
        libbpf.load_program,
        program.kind,
        _name(program.name),
        program.code,
        attach_type=program.attach_type,
        attach_btf_id=program.attach_btf_id,
    )
    try:
        return load()
    except OSError as refusal:
        # Once more for the reason: a verifier that writes down what it does takes many times as long.
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return load(log=log)
        except OSError:
            # The first error stands: the second one may be that the log was too long.
            raise ProgramRefusedError(refusal.errno or 0, log.value.decode(errors="replace")) from None


def _name(name: str) -> str:
    """As the kernel takes it (bpf_obj_name_cpy): letters, digits, ``_`` and ``.``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)[:_NAME_BYTES]
