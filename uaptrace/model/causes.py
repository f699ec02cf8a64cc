# SPDX-License-Identifier: Apache-2.0
"""Why a mapping was split, by the names of the functions on the kernel stack.

The table is read frame by frame, innermost first, and the first frame that tells decides. Functions that several
subsystems go through (module_alloc() gave BPF, ftrace and kprobes their memory until execmem_alloc() did, 6.10) tell only
where nothing else on the stack does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final

from .snapshot import Cause

_TABLE: Final[tuple[tuple[Cause, str, str], ...]] = (
    (
        Cause.UNMAPPED_ALLOC,
        r"unmapped_(pages_)?(alloc|free).*|__free_unmapped_page",
        "the unmapped cache refills, hands out, takes back or releases",
    ),
    (Cause.SECRETMEM, r"(__)?secretmem_.*", "memfd_secret() unmaps its pages itself where there is no unmapped cache"),
    (
        Cause.BPF,
        r"bpf_(prog_pack|jit|int_jit|arch|trampoline|dispatcher|struct_ops|ksym|prog_select_runtime|prog_load|prog_free).*"
        r"|(__)?bpf_(prog|tramp)_.*|arch_(prepare_|protect_|alloc_|free_)?bpf_.*|(__)?bpf_int_jit_compile",
        "BPF programs, packs and trampolines become read-only and executable",
    ),
    (
        Cause.FTRACE,
        r"(__)?(arch_)?ftrace_.*|(un)?register_ftrace_.*|create_trampoline|set_ftrace_ops_ro",
        "ftrace patches code and makes trampolines",
    ),
    (
        Cause.KPROBE,
        r"(__)?(un)?register_k(ret)?probes?|(?=.*kprobe).*optimi[sz].*|arch_(prepare|arm|disarm)_(optimized_)?k(ret)?probe"
        r"|(__)?(alloc|free)_(insn_page|insn_slot|optinsn_page|optinsn_slot)|__get_(opt)?insn_slot|__free_(opt)?insn_slot|collect_garbage_slots",
        "kprobes keep copied instructions in pages of their own",
    ),
    (
        Cause.DRIVER,
        r"_?set_pages_array_.*|ttm_.*|drm_.*|dma_.*decrypted|dma_direct_(alloc|free).*|agp_.*|i915_.*|amdgpu_.*",
        "drivers change the memory type or the encryption of their buffers",
    ),
)
_FALLBACK: Final[tuple[tuple[Cause, str, str], ...]] = (
    (
        Cause.MODULE,
        r"load_module|init_module_from_file|do_init_module|module_(alloc|memory_alloc|memfree|memory_free|enable_.*|disable_.*|finalize)"
        r"|free_module|do_free_init|execmem_.*|frob_(text|rodata|writable_data|ro_after_init)|complete_formation|post_relocation"
        # What is left of unloading where free_module() is inlined and its last call has taken its frame.
        r"|__(do|se|x64|ia32)_sys_(init|finit|delete)_module",
        "module text and data become read-only, executable, or ordinary again",
    ),
)
_MAX_SYMBOL: Final = 512
"""KSYM_NAME_LEN. What is longer is no kernel's; a pattern has one ``.*`` before what it looks for, and so takes time in proportion."""
_CACHED: Final = 8192
_SET_MEMORY: Final = re.compile(r"_?set_(memory|pages)_\w+")


def classify(names: Iterable[str]) -> Cause:
    """The cause that a stack tells, given its frames as ``symbol+0xoff`` or ``symbol+0xoff [module]``, innermost first."""
    fallback: Cause | None = None
    attribute_change = False
    for name in names:
        symbol, in_module = _split(name)
        cause = _of_symbol(symbol)
        if cause is not None:
            return cause
        if attribute_change and in_module:
            # set_memory_*() called out of a module: a driver changing its own memory, also while it is being initialised.
            return Cause.DRIVER
        attribute_change = _SET_MEMORY.fullmatch(symbol) is not None
        if fallback is None:
            fallback = _of_fallback(symbol)
    return fallback or Cause.OTHER


def _split(name: str) -> tuple[str, bool]:
    """``foo.isra.0+0x12/0x40 [mod]`` -> foo, True: without what the compiler added."""
    symbol, _, module = name.partition(" [")
    return symbol.split("+", 1)[0].split(".", 1)[0][:_MAX_SYMBOL], bool(module)


@cache
def _patterns() -> tuple[tuple[tuple[Cause, re.Pattern[str]], ...], ...]:
    return tuple(tuple((cause, re.compile(pattern)) for cause, pattern, _ in table) for table in (_TABLE, _FALLBACK))


@lru_cache(_CACHED)
def _of_symbol(symbol: str) -> Cause | None:
    return next((cause for cause, pattern in _patterns()[0] if pattern.fullmatch(symbol)), None)


@lru_cache(_CACHED)
def _of_fallback(symbol: str) -> Cause | None:
    return next((cause for cause, pattern in _patterns()[1] if pattern.fullmatch(symbol)), None)
