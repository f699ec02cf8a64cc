# SPDX-License-Identifier: Apache-2.0
"""Where the compiled programs come from: as they are shipped, as an earlier start compiled them, or compiled now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uaptrace.ebpf.compiled import Compiled
from uaptrace.loader import cache as program_cache
from uaptrace.loader.compiler import bcc_version, compile_programs, compiler_identity
from uaptrace.loader.program import compiler_flags, cost_text, program_text, reader_text, use_stub_headers
from uaptrace.loader.shipped import Shipped, read_shipped


def source_key(text: str, flags: Sequence[str], folder: Path) -> str:
    """A name for what is compiled, whoever compiles it: from the sources, the headers in ``folder`` and the flags."""
    return program_cache.cache_key(text, flags, (path.read_bytes() for path in sorted(folder.rglob("*.h"))))


def compiled_programs(
    text: str, flags: Sequence[str], folder: Path, *, fresh: bool = False, kept_in: Path = program_cache.FOLDER
) -> Compiled:
    """The programs of the text. ``folder``: bpf_folder(); ``fresh``: by this host's compiler, even where they are shipped.

    Raises CannotTraceError where they have to be compiled and cannot be.
    """
    source = source_key(text, flags, folder)
    shipped = None if fresh else read_shipped(folder)
    if shipped is not None and source in shipped.programs:
        return shipped.programs[source]
    key = program_cache.cache_key(source, (), compiler_identity())
    compiled = program_cache.read(key, kept_in)
    if compiled is None:
        compiled = compile_now(text, flags, folder)
        program_cache.write(key, compiled, kept_in)
    return compiled


def compile_now(text: str, flags: Sequence[str], folder: Path) -> Compiled:
    """Compile with bcc. Raises CannotTraceError."""
    use_stub_headers(folder)
    return compile_programs(text, [f"-I{folder}", *flags])


def compiler_version(folder: Path) -> str:
    """As a user would name it: ``bcc 0.26.0, clang 14``. Raises CannotTraceError."""
    code = compile_now("int clang_major(void *ctx) { return __clang_major__; }", (), folder).functions["clang_major"]
    # The first instruction is r0 = the number.
    return f"bcc {bcc_version()}, clang {int.from_bytes(code[4:8], 'little')}"


def sources(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each text that is compiled, with its flags, by its source_key(): all that is shipped."""
    found = (program_text(folder), compiler_flags()), (reader_text(folder), ()), (cost_text(folder), ())
    return {source_key(text, flags, folder): (text, flags) for text, flags in found}


def shipped_with(folder: Path) -> Shipped | None:
    """What is shipped, where it is all of the sources in the folder; else None."""
    shipped = read_shipped(folder)
    return shipped if shipped is not None and sources(folder).keys() <= shipped.programs.keys() else None
