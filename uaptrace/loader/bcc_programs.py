# SPDX-License-Identifier: Apache-2.0
"""Compiles, loads and attaches with bcc. The only module that imports it, and only when something is to be attached."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from uaptrace.errors import CannotTraceError
from uaptrace.loader import program_cache
from uaptrace.loader.compiled import Compiled, MapSpec, with_fds, with_places
from uaptrace.loader.plan import FENTRY, NONE, TRACEPOINT, PlannedHook
from uaptrace.loader.program import bpf_folder
from uaptrace.model.snapshot import HookStatus
from uaptrace.sources.bpf_programs import object_info

_COMPILER_FLAGS: Final = ("-g0", "-O1")
"""Neither debugging information nor the last optimisation is worth a third of the time that compiling takes."""
_MAP_SPEC: Final = struct.Struct("<6I")


class HookRefusedError(Exception):
    """The kernel refused to load or attach one hook's program. ``hook`` is its name."""

    def __init__(self, hook: str, why: str) -> None:
        super().__init__(why)
        self.hook = hook
        self.why = why


@dataclass(frozen=True, slots=True)
class Attached:
    """Descriptors of what was attached, and what each hook became. Descriptors live as long as the process that has them."""

    ring_fd: int
    counters_fd: int
    link_fds: tuple[int, ...]
    program_fds: tuple[int, ...]
    hooks: tuple[HookStatus, ...]


def compile_and_attach(text: str, flags: Sequence[str], plan: Sequence[PlannedHook], on_split_hooks: Any = None) -> Attached:
    """Load the text and attach every planned hook in order.

    ``on_split_hooks`` is called once, when the first two hooks (those that see splits) are live. Raises HookRefusedError for
    the first hook that the kernel refuses, with nothing left attached; CannotTraceError when compiling failed.
    """
    bcc = _bcc()
    compiled = compiled_programs(text, flags)
    maps = _create_maps(bcc, compiled)
    links: list[int] = []
    functions: list[int] = []
    statuses: list[HookStatus] = []
    called = on_split_hooks is None
    try:
        for planned in plan:
            if not called and planned.hook.name not in ("CPA", "FLUSH_ALL"):
                called = True
                on_split_hooks()
            if planned.mechanism == NONE or planned.symbol is None:
                if planned.is_missing:
                    statuses.append(HookStatus(planned.hook.name.lower(), planned.symbol, None, planned.reason))
                continue
            for is_exit in (True, False) if planned.hook.has_exit else (False,):
                # Exit first: a call that is entered before its exit is hooked would leave its context behind.
                with _quiet_stderr() as complaints:
                    program, link = _attach(bcc, compiled, maps, planned, is_exit, complaints)
                functions.append(program)
                links.append(link)
            statuses.append(HookStatus(planned.hook.name.lower(), planned.symbol, planned.mechanism))
    except HookRefusedError:
        for fd in (*links, *functions, *maps):
            os.close(fd)
        raise
    by_name = dict(zip(compiled.maps, maps, strict=True))
    return Attached(by_name["ring"], by_name["counters"], tuple(links), tuple(functions), tuple(statuses))


def load_reader(text: str) -> tuple[int, int]:
    """Load bpf/reader.bpf.c: descriptors of its program and of its window. Raises CannotTraceError."""
    bcc = _bcc()
    compiled = compiled_programs(text, ())
    maps = _create_maps(bcc, compiled)
    with _quiet_stderr() as complaints:
        program = _load(bcc, compiled, maps, b"read_kernel", bcc.BPF.RAW_TRACEPOINT)
        if program < 0:
            raise CannotTraceError(f"kernel memory can be read neither by /proc/kcore nor by BPF: {complaints()}")
    return program, maps[list(compiled.maps).index("window")]


def compiled_programs(text: str, flags: Sequence[str], kept_in: Path = program_cache.FOLDER) -> Compiled:
    """The programs of the text, as an earlier start of this boot compiled them, or compiled now. Raises CannotTraceError."""
    bcc = _bcc()
    flags = [*flags, *_COMPILER_FLAGS]
    compiler = Path(bcc.libbcc.lib._name), Path(bcc.__file__)
    headers = sorted(bpf_folder().rglob("*.h"))
    key = program_cache.cache_key(text, flags, [*(str(path).encode() for path in compiler), *(path.read_bytes() for path in headers)])
    compiled = program_cache.read(key, kept_in)
    if compiled is None:
        compiled = _compile(bcc, text, flags)
        program_cache.write(key, compiled, kept_in)
    return compiled


def _bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise CannotTraceError(f"bcc cannot be imported ({error}): apt-get install python3-bpfcc") from error
    return bcc


def _compile(bcc: Any, text: str, flags: Sequence[str]) -> Compiled:
    class Programs(bcc.BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """Nothing by itself: each hook is attached on its own."""

    with _quiet_stderr() as complaints:
        try:
            programs = Programs(text=text.encode(), cflags=list(flags))
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


def _map_spec(fd: int) -> MapSpec:
    """What a map was made with. struct bpf_map_info (include/uapi/linux/bpf.h): type, id, key_size, value_size, max_entries, map_flags."""
    info = object_info(fd)
    if len(info) < _MAP_SPEC.size:
        raise CannotTraceError(f"the kernel does not describe a BPF map: {os.strerror(ctypes.get_errno())}")
    type_id, _, key_size, value_size, max_entries, flags = _MAP_SPEC.unpack_from(info)
    return MapSpec(type_id, key_size, value_size, max_entries, flags)


def _create_maps(bcc: Any, compiled: Compiled) -> list[int]:
    """Descriptors of new maps, in the order of compiled.maps."""
    lib = bcc.libbcc.lib
    fds: list[int] = []
    with _quiet_stderr() as complaints:
        for name, spec in compiled.maps.items():
            fd = lib.bcc_create_map(spec.type_id, name.encode(), spec.key_size, spec.value_size, spec.max_entries, spec.flags)
            if fd < 0:
                raise CannotTraceError(f"the kernel refused the BPF map {name} ({os.strerror(ctypes.get_errno())}) {complaints()}".strip())
            fds.append(fd)
    return fds


def _load(bcc: Any, compiled: Compiled, maps: Sequence[int], name: bytes, kind: int) -> int:
    """Descriptor of the program, negative where the kernel refused it: why is then on standard error."""
    code = with_fds(compiled.functions[name.decode()], maps)
    return int(bcc.libbcc.lib.bcc_prog_load(kind, name, code, len(code), b"GPL", 0, 0, None, 0))


def _attach(bcc: Any, compiled: Compiled, maps: Sequence[int], planned: PlannedHook, is_exit: bool, complaints: Any) -> tuple[int, int]:
    """Descriptors of the program and of its link (or perf event)."""
    lib, kinds = bcc.libbcc.lib, bcc.BPF
    symbol = str(planned.symbol).encode()
    if planned.mechanism == FENTRY:
        # libbcc takes the function to attach to from the program's name.
        name, kind = (b"kretfunc__" if is_exit else b"kfunc__") + symbol, kinds.TRACING
    elif planned.mechanism == TRACEPOINT:
        name, kind = b"enter_" + planned.hook.name.encode(), kinds.RAW_TRACEPOINT
    else:
        name, kind = (b"exit_" if is_exit else b"enter_") + planned.hook.name.encode(), kinds.KPROBE
    program = _load(bcc, compiled, maps, name, kind)
    if program < 0:
        raise HookRefusedError(planned.hook.name, complaints() or f"cannot load {name.decode()}")
    if planned.mechanism == FENTRY:
        link = lib.bpf_attach_kfunc(program)
    elif planned.mechanism == TRACEPOINT:
        link = lib.bpf_attach_raw_tracepoint(program, symbol)
    else:
        event = (b"r_" if is_exit else b"p_") + b"uaptrace_" + symbol
        link = lib.bpf_attach_kprobe(program, int(is_exit), event, symbol, 0, 0)
    if link < 0:
        os.close(program)
        raise HookRefusedError(planned.hook.name, complaints() or f"cannot attach {planned.mechanism} to {planned.symbol}")
    return program, link


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Any]:
    """Catch what LLVM and libbpf print on descriptor 2. Yields a function that gives the last lines of it so far."""
    sys.stderr.flush()
    saved = os.dup(2)
    catcher = os.memfd_create("complaints")
    os.dup2(catcher, 2)

    def said() -> str:
        size = os.lseek(catcher, 0, os.SEEK_END)
        lines = os.pread(catcher, 65536, max(0, size - 65536)).decode(errors="replace").strip().splitlines()
        if os.environ.get("UAPTRACE_LOADER_LOG"):
            return "\n".join(lines[-12:])
        return "; ".join(line.strip() for line in lines if "error" in line.lower())[:500] or "; ".join(lines[-3:])

    try:
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(catcher)
