# SPDX-License-Identifier: Apache-2.0
"""Why a mapping was split, by the names of the functions on the kernel stack.

The table is read frame by frame, innermost first, and the first frame that tells decides. Functions that several
subsystems go through (module_alloc() gave BPF, ftrace and kprobes their memory until execmem_alloc() did, 6.10) tell only
where nothing else on the stack does: first those of modules, then execmem itself, which also works for nobody (a kworker cleans its cache).
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
        Cause.KEXEC,
        r"(machine_|crash_)?kexec_.*|machine_kexec|arch_(pre_|post_)?kexec_.*|arch_kimage_.*|kimage_.*|do_kexec_.*|__(do|se|x64|ia32)_sys_kexec_.*",
        "a kernel to boot next is loaded: its pages become executable, those of a crash kernel leave the map",
    ),
    (
        Cause.MEMORY_FAILURE,
        r"(set|clear)_mce_nospec|memory_failure(_.*)?|soft_offline_page|unpoison_memory|kill_me_(maybe|never)|uc_decode_notifier",
        "a page whose memory fails leaves the map",
    ),
    (
        Cause.HIBERNATION,
        r"swsusp_.*|hibernat(e|ion)_.*|safe_copy_page|snapshot_(read|write)_(next|finalize)|create_image",
        "the image of a system that goes to sleep is copied",
    ),
    (
        Cause.CONFIDENTIAL,
        r"_*set_memory_(en|de)crypted|_*set_memory_enc_(dec|pgtable)|(__)?snp_.*|rmp_.*|rmpupdate|psmash|hv_vtom_.*|sev_.*|tdx_.*",
        "pages of a confidential guest are shared with its host, or private again; a host gives pages to such a guest",
    ),
    (
        Cause.DRIVER,
        r"_?set_pages_array_.*|ttm_.*|drm_.*|dma_.*decrypted|dma_direct_(alloc|free).*|agp_.*|i915_.*|amdgpu_.*",
        "drivers change the memory type of their buffers",
    ),
)
_FALLBACK: Final[tuple[tuple[Cause, str, str], ...]] = (
    (
        Cause.MODULE,
        r"load_module|init_module_from_file|do_init_module|module_(alloc|memory_alloc|memfree|memory_free|enable_.*|disable_.*|finalize)"
        r"|free_module|do_free_init|frob_(text|rodata|writable_data|ro_after_init)|complete_formation|post_relocation"
        # What is left of unloading where free_module() is inlined and its last call has taken its frame.
        r"|__(do|se|x64|ia32)_sys_(init|finit|delete)_module",
        "module text and data become read-only, executable, or ordinary again",
    ),
)
_LAST: Final[tuple[tuple[Cause, str, str], ...]] = (
    (Cause.EXECMEM, r"execmem_.*", "the allocator of executable memory fills or cleans its cache"),
)
_TABLES: Final = (_TABLE, _FALLBACK, _LAST)
"""A function of the first decides; those of another only where no function of the ones before it is on the stack."""
_MAX_SYMBOL: Final = 512
"""KSYM_NAME_LEN. What is longer is no kernel's; a pattern has one ``.*`` before what it looks for, and so takes time in proportion."""
_CACHED: Final = 8192
_SET_MEMORY: Final = re.compile(r"_?set_(memory|pages)_\w+")


def classify(names: Iterable[str]) -> Cause:
    """The cause that a stack tells, given its frames as ``symbol+0xoff`` or ``symbol+0xoff [module]``, innermost first."""
    found: tuple[int, Cause] | None = None
    attribute_change = False
    for name in names:
        symbol, in_module = _split(name)
        told = _told(symbol)
        if told is not None and told[0] == 0:
            return told[1]
        if attribute_change and in_module:
            # set_memory_*() called out of a module: a driver changing its own memory, also while it is being initialised.
            return Cause.DRIVER
        attribute_change = _SET_MEMORY.fullmatch(symbol) is not None
        if told is not None and (found is None or told[0] < found[0]):
            found = told
    return Cause.OTHER if found is None else found[1]


def _split(name: str) -> tuple[str, bool]:
    """``foo.isra.0+0x12/0x40 [mod]`` -> foo, True: without what the compiler added."""
    symbol, _, module = name.partition(" [")
    return symbol.split("+", 1)[0].split(".", 1)[0][:_MAX_SYMBOL], bool(module)


@cache
def _patterns() -> tuple[tuple[int, Cause, re.Pattern[str]], ...]:
    return tuple((rank, cause, re.compile(pattern)) for rank, table in enumerate(_TABLES) for cause, pattern, _ in table)


@lru_cache(_CACHED)
def _told(symbol: str) -> tuple[int, Cause] | None:
    """What one function tells, and the number of the table that it is in."""
    return next(((rank, cause) for rank, cause, pattern in _patterns() if pattern.fullmatch(symbol)), None)
