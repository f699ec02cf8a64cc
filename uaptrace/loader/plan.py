# SPDX-License-Identifier: Apache-2.0
"""Decides, from facts, how each hook will be attached. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from uaptrace.abi.hooks import HOOKS, SERIES_SYMBOL, Hook, Need, PageAllocHook

NONE = "none"
FENTRY = "fentry"
KPROBE = "kprobe"
TRACEPOINT = "tracepoint"
CALLER = "caller"


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook with the function and the mechanism chosen for it, or the reason why not."""

    hook: Hook
    symbol: str | None
    mechanism: str
    """fentry (with fexit where the hook has an exit), kprobe (with kretprobe), tracepoint, caller (no program of its own: the exit
    program of the attribute change sees that it returns there) or none."""
    reason: str = ""
    is_missing: bool = False
    """Something is not seen for want of it. Not so where the kernel has nothing to be seen there, or it was not asked for."""
    is_refused: bool = False
    """It is missing because the kernel refused it however it was tried; ``reason`` has the kernel's own words."""


def wanted_symbols() -> frozenset[str]:
    """Every function that some hook may use."""
    return frozenset(symbol for hook in HOOKS for symbol in hook.symbols) | {SERIES_SYMBOL, *_BETWEEN, *GRAPH_RETURNS, *PROBE_RETURNS}


def sized_symbols() -> frozenset[str]:
    """Those of which it has to be known how far their code goes."""
    return frozenset(symbol for hook in HOOKS if hook.name in ("CPA", *CALLERS) for symbol in hook.symbols)


def plan_hooks(
    symbols: Mapping[str, int],
    attachable: frozenset[str] | None,
    has_type: Callable[[str], bool],
    *,
    page_alloc: PageAllocHook = PageAllocHook.AUTO,
    mechanism: str | None = None,
    count_flushes: bool = False,
    unknown: Set[str] = frozenset(),
    refused: Mapping[str, Sequence[str]] = MappingProxyType({}),
    code_bytes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[PlannedHook, ...]:
    """Choose for every hook.

    ``symbols``: functions that the kernel has; ``attachable``: those that ftrace can hook, None where that is not
    known; ``has_type``: whether BTF has the function. ``mechanism`` forces kprobe or fentry; ``count_flushes``: flushes of ranges are
    counted on a kernel without the series too; ``unknown``: fields of KernelConstants that this kernel does not tell: a hook that needs
    one is left out, with the reason; ``refused``: what the kernel said to each mechanism of a hook, by its name, that was
    tried so far: the hook gets the next one; ``code_bytes``: HostFacts.code_bytes: without them nothing is seen by where it returns.
    """
    has_series = SERIES_SYMBOL in symbols
    not_wanted = {hook.name: _not_wanted(hook, has_series, page_alloc, count_flushes) for hook in HOOKS}
    planned = (
        PlannedHook(hook, None, NONE, reason)
        if (reason := not_wanted[hook.name])
        else _plan(hook, symbols, attachable, has_type, mechanism, refused.get(hook.name, ()))
        for hook in HOOKS
    )
    told = tuple(p if p.mechanism == NONE else _if_told(p, unknown) for p in planned)
    by_caller = not has_series and _sees_callers(told, symbols, code_bytes)
    return tuple(replace(p, mechanism=CALLER) if by_caller and p.hook.name in CALLERS and p.mechanism == FENTRY else p for p in told)


CALLERS: Final = ("SET_INVALID", "SET_DEFAULT", "SET_VALID")
"""Functions that are one attribute change each: without the series, where nothing has to be known before it, the exit of that
change is enough. docs/performance.md has what that saves."""
_BETWEEN: Final = ("__set_pages_np", "__set_pages_p", "__kernel_map_pages")
"""What they call the change by: where the compiler has not put it into them, the change returns there and not to them. And what makes
the same change without them (CONFIG_DEBUG_PAGEALLOC)."""
GRAPH_RETURNS: Final = ("return_to_handler",)
PROBE_RETURNS: Final = ("arch_rethook_trampoline", "__kretprobe_trampoline", "kretprobe_trampoline")
"""Code of the kernel that others who trace the change make it return to; of each kernel the first that it has."""


def _sees_callers(planned: Sequence[PlannedHook], symbols: Mapping[str, int], code_bytes: Mapping[str, int]) -> bool:
    wanted = {str(p.symbol) for p in planned if p.hook.name in CALLERS and p.mechanism != NONE}
    cpa = next(p for p in planned if p.hook.name == "CPA")
    return cpa.mechanism == FENTRY and {str(cpa.symbol), *wanted} <= code_bytes.keys() and not symbols.keys() & set(_BETWEEN)


def _if_told(planned: PlannedHook, unknown: Set[str]) -> PlannedHook:
    constant, reason = _NEEDS.get(planned.hook.name, ("", ""))
    return replace(planned, mechanism=NONE, reason=reason, is_missing=True) if constant in unknown else planned


_PAGE_ALLOC_HOOKS: Final = {
    "PAGE_ALLOC": PageAllocHook.TRACEPOINT,
    "ALLOC_PAGES": PageAllocHook.ENTRY,
    "SECRETMEM_FAULT": PageAllocHook.CALLERS,
}
_FLAG: Final = ("gfp_unmapped", "the value of the gfp flag is neither in BTF nor in the format of kmem:mm_page_alloc: mount tracefs")
_NEEDS: Final = {
    "PAGE_ALLOC": _FLAG,
    "ALLOC_PAGES": _FLAG,
    "SECRETMEM_FAULT": ("vm_fault_locked", "the value of VM_FAULT_LOCKED is not in BTF"),
}
"""Hooks whose programs compare with a value that not every kernel tells: the field of KernelConstants, 0 where unknown."""


def _not_wanted(hook: Hook, has_series: bool, page_alloc: PageAllocHook, count_flushes: bool) -> str:
    """Why a hook is left out on purpose; empty: it is wanted."""
    if hook.name == "FLUSH_RANGE" and count_flushes:
        return ""
    if hook.need is Need.SERIES and not has_series:
        return "the series is not in this kernel"
    if hook.name in _PAGE_ALLOC_HOOKS and _PAGE_ALLOC_HOOKS[hook.name] is not page_alloc:
        return f"only with --page-alloc-hook={_PAGE_ALLOC_HOOKS[hook.name]}"
    if hook.name == "ALLOC_PAGES_COUNT" and (page_alloc is not PageAllocHook.COUNT or has_series):
        return "only with --page-alloc-hook=count on a kernel without the series"
    return ""


def _plan(
    hook: Hook,
    symbols: Mapping[str, int],
    attachable: frozenset[str] | None,
    has_type: Callable[[str], bool],
    forced: str | None,
    refusals: Sequence[str],
) -> PlannedHook:
    symbol = next((s for s in hook.symbols if s in symbols), None)
    if symbol is None:
        return PlannedHook(hook, None, NONE, f"{hook.symbols[-1]}() is not in this kernel", is_missing=hook.need is not Need.OPTIONAL)
    if hook.tracepoint:
        return _first_left(hook, hook.tracepoint, (TRACEPOINT,), refusals)
    if attachable is not None and symbol not in attachable:
        return PlannedHook(hook, symbol, NONE, f"{symbol}() cannot be attached to (not in available_filter_functions)", is_missing=True)
    possible = (FENTRY, KPROBE) if has_type(symbol) else (KPROBE,)
    mechanisms = [mechanism for mechanism in possible if forced in (None, mechanism)]
    if not mechanisms:
        return PlannedHook(hook, symbol, NONE, f"{symbol}() has no type in BTF, which {forced} needs", is_missing=True)
    return _first_left(hook, symbol, mechanisms, refusals)


def _first_left(hook: Hook, symbol: str, mechanisms: Sequence[str], refusals: Sequence[str]) -> PlannedHook:
    """The first mechanism that was not refused; missing where all were."""
    if len(refusals) >= len(mechanisms):
        return PlannedHook(hook, symbol, NONE, refusals[-1], is_missing=True, is_refused=True)
    return PlannedHook(hook, symbol, mechanisms[len(refusals)])
