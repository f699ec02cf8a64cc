# SPDX-License-Identifier: Apache-2.0
"""Compiles with bcc. The only module that imports it, and only when it is needed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf.compiled import Compiled, MapSpec, with_places
from uaptrace.ebpf.information import object_info
from uaptrace.loader.verdicts import last_words

_COMPILER_FLAGS: Final = ("-g0", "-O1")
"""Neither debugging information nor the last optimisation is worth a third of the time that compiling takes."""
_MAP_SPEC: Final = struct.Struct("<6I")


def compiler_identity() -> list[bytes]:
    """What tells one compiler from another, without importing it: where bcc is, its version, and how it is used here."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent
    version = folder / "version.py"
    return [str(folder).encode(), version.read_bytes() if version.exists() else b"", *(flag.encode() for flag in _COMPILER_FLAGS)]


def bcc_version() -> str:
    """Raises CannotTraceError where there is none."""
    return str(_bcc().__version__)


def compile_programs(text: str, flags: Sequence[str]) -> Compiled:
    """Compile with bcc. Raises CannotTraceError."""
    bcc = _bcc()
    base: Any = bcc.BPF

    class Programs(base):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """Nothing by itself: each hook is attached on its own."""

    with _quiet_stderr() as complaints:
        try:
            programs = Programs(text=text.encode(), cflags=[*flags, *_COMPILER_FLAGS])
        except Exception as error:
            raise CannotTraceError(f"bcc could not compile the programs: {complaints() or error}") from error
    lib, module = bcc.libbcc.lib, programs.module
    lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    lib.bpf_table_name.restype, lib.bpf_table_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_size_t]
    names = [lib.bpf_table_name(module, i) for i in range(lib.bpf_num_tables(module))]
    fds = [lib.bpf_table_fd(module, name) for name in names]
    functions = {}
    for i in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, i)
        code = ctypes.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name))
        functions[name.decode()] = with_places(code, fds)
    compiled = Compiled({name.decode(): _map_spec(fd) for name, fd in zip(names, fds, strict=True)}, functions)
    programs.cleanup()
    return compiled


def _bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise CannotTraceError(f"bcc cannot be imported ({error}): apt-get install python3-bpfcc") from error
    return bcc


def _map_spec(fd: int) -> MapSpec:
    """What a map was made with. struct bpf_map_info (include/uapi/linux/bpf.h): type, id, key_size, value_size, max_entries, map_flags."""
    info = object_info(fd)
    if len(info) < _MAP_SPEC.size:
        raise CannotTraceError("the kernel does not describe a BPF map that bcc made")
    type_id, _, key_size, value_size, max_entries, flags = _MAP_SPEC.unpack_from(info)
    return MapSpec(type_id, key_size, value_size, max_entries, flags)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Callable[[], str]]:
    """Catch what LLVM and libbpf print on descriptor 2. Yields a function that gives the last lines of it so far."""
    sys.stderr.flush()
    saved = os.dup(2)
    catcher = os.memfd_create("complaints")
    os.dup2(catcher, 2)

    def said() -> str:
        size = os.lseek(catcher, 0, os.SEEK_END)
        return last_words(os.pread(catcher, 65536, max(0, size - 65536)).decode(errors="replace"))

    try:
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(catcher)
