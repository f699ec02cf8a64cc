# SPDX-License-Identifier: Apache-2.0
"""Maps, programs and links, made by system calls of their own (include/uapi/linux/bpf.h).

libbcc can do all of this too, but it reads the kernel's types anew for every program that it loads, and it is not needed at all
where the programs were compiled before.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

from uaptrace.ebpf.call import bpf
from uaptrace.ebpf.compiled import MapSpec

KPROBE: Final = 2
RAW_TRACEPOINT: Final = 17
TRACING: Final = 26
"""Kinds of programs (enum bpf_prog_type)."""
FENTRY: Final = 24
FEXIT: Final = 25
"""What a program of kind TRACING is attached to (enum bpf_attach_type)."""

_MAP_CREATE: Final = 0
_PROG_LOAD: Final = 5
_RAW_TRACEPOINT_OPEN: Final = 17
_NAME_BYTES: Final = 15
_LOG_BYTES: Final = 16 << 20
"""As much as any kernel takes. Only what is written to costs memory."""


class _MapCreate(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    )


class _ProgLoad(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class _RawTracepointOpen(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32), ("pad", ctypes.c_uint32))


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
    attr = _MapCreate(
        map_type=spec.type_id,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=spec.max_entries,
        map_flags=spec.flags,
        map_name=_name(name),
    )
    return bpf(_MAP_CREATE, attr)


def load_program(program: Program) -> int:
    """Descriptor of the loaded program. Raises ProgramRefusedError."""
    instructions = ctypes.create_string_buffer(program.code, len(program.code))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = _ProgLoad(
        prog_type=program.kind,
        insn_cnt=len(program.code) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(licence),
        prog_name=_name(program.name),
        expected_attach_type=program.attach_type,
        attach_btf_id=program.attach_btf_id,
    )
    try:
        return bpf(_PROG_LOAD, attr)
    except OSError as refusal:
        # Once more for the reason: a verifier that writes down what it does takes many times as long.
        log = ctypes.create_string_buffer(_LOG_BYTES)
        attr.log_level, attr.log_size, attr.log_buf = 1, len(log), ctypes.addressof(log)
        try:
            return bpf(_PROG_LOAD, attr)
        except OSError:
            # The first error stands: the second one may be that the log was too long.
            raise ProgramRefusedError(refusal.errno or 0, log.value.decode(errors="replace")) from None


def link_program(program_fd: int, tracepoint: str = "") -> int:
    """Attach a program of kind TRACING to its function, or one of kind RAW_TRACEPOINT to the named tracepoint: a link's descriptor.

    What is attached lives as long as the descriptor. Raises OSError.
    """
    name = ctypes.create_string_buffer(tracepoint.encode())
    return bpf(_RAW_TRACEPOINT_OPEN, _RawTracepointOpen(name=ctypes.addressof(name) if tracepoint else 0, prog_fd=program_fd))


def _name(name: str) -> bytes:
    """As the kernel takes it (bpf_obj_name_cpy): letters, digits, ``_`` and ``.``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)[:_NAME_BYTES].encode()
