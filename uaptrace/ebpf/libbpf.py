# SPDX-License-Identifier: Apache-2.0
"""libbpf (Debian: libbpf1) through ctypes, as far as uaptrace needs it: maps, programs, links, test runs and kernel types.

Options are structs that begin with their own size, and libbpf takes shorter ones (bpf/bpf.h, OPTS_VALID): each is declared up to the
last field that is used. On kernels that charge maps to RLIMIT_MEMLOCK (before 5.11) libbpf raises that limit itself.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, Final

from uaptrace.abi.errors import CannotTraceError

_INSTRUCTION_BYTES: Final = 8


class _MapCreate(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


class _ProgLoad(ctypes.Structure):
    """struct bpf_prog_load_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
    )


def create_map(type_id: int, name: str, *, key_size: int, value_size: int, max_entries: int, flags: int) -> int:
    """Descriptor of a new map. Raises OSError."""
    options = _MapCreate(sz=ctypes.sizeof(_MapCreate), map_flags=flags)
    return _answer(library().bpf_map_create(type_id, name.encode(), key_size, value_size, max_entries, ctypes.byref(options)))


def load_program(
    kind: int, name: str, code: bytes, *, attach_type: int = 0, attach_btf_id: int = 0, log: ctypes.Array[ctypes.c_char] | None = None
) -> int:
    """Descriptor of a loaded program (enum bpf_prog_type; licence GPL). Raises OSError.

    With ``log`` the verifier writes down what it does.
    """
    log_address, log_bytes = _room(log)
    options = _ProgLoad(
        sz=ctypes.sizeof(_ProgLoad),
        expected_attach_type=attach_type,
        attach_btf_id=attach_btf_id,
        log_level=int(log is not None),
        log_size=log_bytes,
        log_buf=log_address,
    )
    nr_instructions = len(code) // _INSTRUCTION_BYTES
    return _answer(library().bpf_prog_load(kind, name.encode(), b"GPL", code, nr_instructions, ctypes.byref(options)))


def link_program(program_fd: int, tracepoint: str = "") -> int:
    """Attach a program of kind TRACING to its function, or one of kind RAW_TRACEPOINT to the named tracepoint: a link's descriptor.

    What is attached lives as long as the descriptor. Raises OSError.
    """
    return _answer(library().bpf_raw_tracepoint_open(tracepoint.encode() if tracepoint else None, program_fd))


def run_program(program_fd: int, *, context: Any = None, data: Any = None, repeat: int = 0) -> int:
    """Run a program once, or ``repeat`` times, by BPF_PROG_TEST_RUN: what it returned. Raises OSError.

    ``context``, ``data``: ctypes objects, what it is given and the packet that it sees.
    """
    context_address, context_bytes = _room(context)
    data_address, data_bytes = _room(data)
    options = _TestRun(
        sz=ctypes.sizeof(_TestRun),
        ctx_in=context_address,
        ctx_size_in=context_bytes,
        data_in=data_address,
        data_size_in=data_bytes,
        repeat=repeat,
    )
    _answer(library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options)))
    return int(options.retval)


def object_info(fd: int, size_bytes: int) -> bytes:
    """struct bpf_prog_info or bpf_map_info of a program or map, as far as this kernel has it. Raises OSError."""
    info = ctypes.create_string_buffer(size_bytes)
    length = ctypes.c_uint32(size_bytes)
    _answer(library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)))
    return info.raw[: length.value]


def _room(value: Any) -> tuple[int | None, int]:
    """Address and size of a ctypes object, of none for None."""
    return (None, 0) if value is None else (ctypes.addressof(value), ctypes.sizeof(value))


def _answer(answer: int) -> int:
    """What libbpf answered, not negative. Raises OSError with the kernel's error number."""
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf, which prints nothing by itself. Raises CannotTraceError where it is not installed."""
    try:
        lib = ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        raise CannotTraceError(f"libbpf is not installed ({error}): apt-get install libbpf1") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(None)
    return lib


_POINTER, _TEXT, _U32, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_size_t
_PROTOTYPES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "libbpf_set_print": (_POINTER, [_POINTER]),
    "bpf_map_create": (_INT, [_U32, _TEXT, _U32, _U32, _U32, _POINTER]),
    "bpf_prog_load": (_INT, [_U32, _TEXT, _TEXT, _POINTER, _SIZE, _POINTER]),
    "bpf_raw_tracepoint_open": (_INT, [_TEXT, _INT]),
    "bpf_prog_test_run_opts": (_INT, [_INT, _POINTER]),
    "bpf_obj_get_info_by_fd": (_INT, [_INT, _POINTER, _POINTER]),
    "btf__load_vmlinux_btf": (_POINTER, []),
    "btf__find_by_name_kind": (_INT, [_POINTER, _TEXT, _U32]),
    "btf__type_by_id": (_POINTER, [_POINTER, _U32]),
    "btf__name_by_offset": (_TEXT, [_POINTER, _U32]),
    "btf__resolve_size": (ctypes.c_int64, [_POINTER, _U32]),
    "btf__raw_data": (_POINTER, [_POINTER, _POINTER]),
    "btf__free": (None, [_POINTER]),
}
