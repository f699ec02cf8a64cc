# SPDX-License-Identifier: Apache-2.0
"""Decides, from facts, how each hook will be attached. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from uaptrace.loader.hooks import HOOKS, SERIES_SYMBOL, Hook, Need, PageAllocHook

NONE = "none"
FENTRY = "fentry"
KPROBE = "kprobe"
TRACEPOINT = "tracepoint"


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook with the function and the mechanism chosen for it, or the reason why not."""

    hook: Hook
    symbol: str | None
    mechanism: str
    """fentry (with fexit where the hook has an exit), kprobe (with kretprobe), tracepoint or none."""
    reason: str = ""
    is_missing: bool = False
    """Something is not seen for want of it. Not so where the kernel has nothing to be seen there, or it was not asked for."""


def wanted_symbols() -> frozenset[str]:
    """Every function that some hook may use."""
    return frozenset(symbol for hook in HOOKS for symbol in hook.symbols) | {SERIES_SYMBOL}


def plan_hooks(
    symbols: Mapping[str, int],
    attachable: frozenset[str] | None,
    has_type: Callable[[str], bool],
    *,
    page_alloc: PageAllocHook = PageAllocHook.AUTO,
    mechanism: str | None = None,
    demoted: Iterable[str] = (),
) -> tuple[PlannedHook, ...]:
    """Choose for every hook.

    ``symbols``: functions that the kernel has; ``attachable``: those that ftrace can hook, None where that is not
    known; ``has_type``: whether BTF has the function. ``mechanism`` forces kprobe or fentry; ``demoted`` are hooks whose
    first mechanism was refused when it was tried: they get the next one.
    """
    has_series = SERIES_SYMBOL in symbols
    refused = tuple(demoted)
    return tuple(_plan(hook, symbols, attachable, has_type, has_series, page_alloc, mechanism, refused.count) for hook in HOOKS)


_PAGE_ALLOC_HOOKS: Final = ("PAGE_ALLOC", "ALLOC_PAGES")


def _page_alloc_hook(
    page_alloc: PageAllocHook, symbols: Mapping[str, int], forced: str | None, refusals_of: Callable[[str], int]
) -> str | None:
    """Which of the two is to be attached on a kernel with the series. One of them that cannot be had is replaced only by ``auto``."""
    if page_alloc is PageAllocHook.OFF:
        return None
    if page_alloc is PageAllocHook.TRACEPOINT:
        return "PAGE_ALLOC"
    tracepoint = next(hook for hook in HOOKS if hook.name == "PAGE_ALLOC")
    usable = forced in (None, TRACEPOINT) and not refusals_of("PAGE_ALLOC") and any(s in symbols for s in tracepoint.symbols)
    return "PAGE_ALLOC" if page_alloc is PageAllocHook.AUTO and usable else "ALLOC_PAGES"


def _plan(
    hook: Hook,
    symbols: Mapping[str, int],
    attachable: frozenset[str] | None,
    has_type: Callable[[str], bool],
    has_series: bool,
    page_alloc: PageAllocHook,
    forced: str | None,
    refusals_of: Callable[[str], int],
) -> PlannedHook:
    if hook.need is Need.SERIES and not has_series:
        return PlannedHook(hook, None, NONE, "the series is not in this kernel")
    if hook.name in _PAGE_ALLOC_HOOKS:
        wanted = _page_alloc_hook(page_alloc, symbols, forced, refusals_of)
        if wanted is None:
            return PlannedHook(hook, None, NONE, "off by --page-alloc-hook", is_missing=hook.name == "ALLOC_PAGES")
        if hook.name != wanted:
            return PlannedHook(hook, None, NONE, f"{wanted.lower()} does instead (see --page-alloc-hook)")
    if hook.name == "ALLOC_PAGES_COUNT" and (page_alloc is not PageAllocHook.COUNT or has_series):
        return PlannedHook(hook, None, NONE, "only with --page-alloc-hook=count on a kernel without the series")
    symbol = next((s for s in hook.symbols if s in symbols), None)
    if symbol is None:
        return PlannedHook(hook, None, NONE, f"{hook.symbols[-1]}() is not in this kernel", is_missing=hook.need is not Need.OPTIONAL)
    if hook.tracepoint:
        if refusals_of(hook.name):
            return PlannedHook(hook, hook.tracepoint, NONE, f"the kernel refused to attach to {hook.tracepoint}", is_missing=True)
        return PlannedHook(hook, hook.tracepoint, TRACEPOINT)
    if attachable is not None and symbol not in attachable:
        return PlannedHook(hook, symbol, NONE, f"{symbol}() cannot be attached to (not in available_filter_functions)", is_missing=True)
    mechanisms = [m for m in (FENTRY, KPROBE) if m != FENTRY or has_type(symbol)]
    if forced:
        mechanisms = [m for m in mechanisms if m == forced]
    refusals = refusals_of(hook.name)
    if refusals >= len(mechanisms):
        return PlannedHook(hook, symbol, NONE, f"the kernel refused to attach to {symbol}()", is_missing=True)
    return PlannedHook(hook, symbol, mechanisms[refusals])
