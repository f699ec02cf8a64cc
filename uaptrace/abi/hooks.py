# SPDX-License-Identifier: Apache-2.0
"""The table of hooks: what can be hooked, by which function on which kernel, and what is not known without it.

Everything that knows of single hooks reads it here: the loader what to attach, the state what makes it inexact, the audit which
invariants cannot be judged, the exporter which figures are not known, ``check`` and docs/metrics.md what each is for. Presence decides,
never a version. Functions and when they changed: docs/kernel.md, section 2.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from uaptrace.abi.events import Counter


class Need(StrEnum):
    """What a missing hook means for the user."""

    DIRECT_MAP = "direct map"
    """Without it the state of the direct map or the cause of its splits is not exact."""
    SERIES = "unmapped cache"
    """Only on a kernel with the series."""
    OPTIONAL = "optional"
    """Not on every kernel, and nothing is lost without it."""


class PageAllocHook(StrEnum):
    """What to do on the page allocator's path. docs/performance.md has the cost of each."""

    AUTO = "auto"
    """Nothing, and for an audit of a kernel with the series its callers."""
    OFF = "off"
    """Nothing: what the series does shows where it maps and unmaps. Invariant 1 and attempts at a refill that failed are not seen."""
    TRACEPOINT = "tracepoint"
    """On a kernel with the series: kmem:mm_page_alloc, which counts what was served, and sees attempts at a refill that failed."""
    ENTRY = "entry"
    """On a kernel with the series: the entry of __alloc_pages(), which sees a request whatever becomes of it (invariant 1)."""
    CALLERS = "callers"
    """On a kernel with the series: not the allocator but memfd_secret(), whose pages show where they are handed out (invariant 1)."""
    COUNT = "count"
    """On a kernel without the series: count every allocation."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One function to be hooked on entry, and on exit where ``has_exit``.

    ``name`` is the NAME of ENTER(NAME, ...) in bpf/*.bpf.c; ``symbols`` are candidates, best first.
    """

    name: str
    symbols: tuple[str, ...]
    need: Need
    has_exit: bool
    purpose: str
    tracepoint: str = ""
    """Attached to this tracepoint, not to a function; ``symbols`` then tell whether the kernel has it."""
    unseen: str = ""
    """What is not seen without it, where the state is then not exact; empty: the state is exact without it too."""
    figures: tuple[str, ...] = ()
    """Figures that are not known without it, though a counter of them would say zero."""
    invariants: tuple[int, ...] = ()
    """Of the audit, that cannot be judged without it."""
    counters: tuple[Counter, ...] = ()
    """What counts its calls, where it tells of pages: it is believed again when one has moved."""
    counts_alone: tuple[Counter, ...] = ()
    """Counters that nobody counts without it, or another hook that has them here too: their zero would be no figure."""
    also_sees: tuple[str, ...] = ()
    """Hooks whose calls this one sees too, on a kernel without their functions."""

    @property
    def label(self) -> str:
        """As views, metrics and recordings have it."""
        return self.name.lower()


ALLOC_PAGES_SYMBOLS: Final = (
    # 6.14 and later: 49249a2a5ea1 ("mm/page_alloc: add __alloc_frozen_pages()"); the older name became a wrapper.
    "__alloc_frozen_pages_noprof",
    # 6.10 to 6.13: b951aaff5035 ("mm: enable page allocation tagging").
    "__alloc_pages_noprof",
    "__alloc_pages",
)

_OF_CACHED_PAGES: Final = (5, 6, 7, 9)
"""Invariants that are judged by what is known of each page of the cache."""

HOOKS: Final = (
    # The split hooks are attached first, so that what attaching the others splits is seen.
    Hook(
        "CPA", ("__change_page_attr_set_clr",), Need.DIRECT_MAP, True, "every attribute change of kernel mappings",
        unseen="attribute changes", figures=("splits", "cpa"), counters=(Counter.CPA,),
    ),
    Hook(
        "FLUSH_ALL", ("flush_tlb_all",), Need.DIRECT_MAP, False, "splits: in such a change only they call it",
        unseen="splits", figures=("splits",), counts_alone=(Counter.FLUSH_ALL,),
    ),
    Hook(
        "SET_INVALID", ("set_direct_map_invalid_noflush",), Need.DIRECT_MAP, True, "a page leaves the direct map",
        unseen="pages that leave the direct map", figures=("set_invalid",), invariants=(4, *_OF_CACHED_PAGES),
        counters=(Counter.SET_INVALID,),
    ),
    Hook(
        "SET_DEFAULT", ("set_direct_map_default_noflush",), Need.DIRECT_MAP, True, "a page comes back to it",
        unseen="pages that come back to the direct map", figures=("set_default",), invariants=(4,), counters=(Counter.SET_DEFAULT,),
    ),
    # 0b5b5fd2cee8 ("mm/vmalloc/execmem: set_direct_map_valid_noflush()"): 6.13 and later, with execmem's ROX cache.
    Hook(
        "SET_VALID", ("set_direct_map_valid_noflush",), Need.OPTIONAL, True, "several pages leave it or come back",
        counters=(Counter.SET_INVALID, Counter.SET_DEFAULT), also_sees=("SET_INVALID", "SET_DEFAULT"),
    ),
    Hook(
        "CACHE_ALLOC", ("unmapped_pages_alloc",), Need.SERIES, True, "allocations from the unmapped cache",
        unseen="allocations from the unmapped cache", figures=("cache", "cache_alloc", "cache_hit", "cache_refill"),
        invariants=(1, 2, 3, 4, *_OF_CACHED_PAGES),
    ),
    Hook(
        "CACHE_FREE", ("unmapped_pages_free",), Need.SERIES, True, "frees into the unmapped cache",
        unseen="frees into the unmapped cache", figures=("cache", "cache_free"), invariants=_OF_CACHED_PAGES,
    ),
    Hook(
        "CACHE_RELEASE", ("__free_unmapped_page",), Need.SERIES, False, "blocks given back to the page allocator",
        unseen="releases from the unmapped cache", figures=("cache", "cache_release"), invariants=(4, 8, 10, *_OF_CACHED_PAGES),
    ),
    Hook(
        "FLUSH_RANGE", ("flush_tlb_kernel_range",), Need.SERIES, False, "the flush that ends a refill",
        invariants=(3,), counts_alone=(Counter.FLUSH_RANGE,),
    ),
    Hook(
        "SHRINK_SCAN", ("unmapped_alloc_scan_objects",), Need.SERIES, True, "shrinker runs", figures=("shrink",), invariants=(11,),
    ),
    Hook("SHRINK_COUNT", ("unmapped_alloc_count_objects",), Need.SERIES, False, "shrinker counts", figures=("shrink_count",)),
    # include/trace/events/kmem.h; __traceiter_*() calls what is attached to a tracepoint (include/linux/tracepoint.h).
    Hook(
        "PAGE_ALLOC", ("__traceiter_mm_page_alloc",), Need.SERIES, False, "requests with the flag, refills", "mm_page_alloc",
        counts_alone=(Counter.REQUEST,),
    ),
    Hook(
        "ALLOC_PAGES", ALLOC_PAGES_SYMBOLS, Need.SERIES, False, "the same, including requests that fail",
        invariants=(1,), counts_alone=(Counter.REQUEST,),
    ),
    Hook(
        "SECRETMEM_FAULT", ("secretmem_fault",), Need.SERIES, True, "pages that secret memory is given", also_sees=("ALLOC_PAGES",),
    ),
    Hook("ALLOC_PAGES_COUNT", ALLOC_PAGES_SYMBOLS, Need.OPTIONAL, False, "plain count of allocations", counts_alone=(Counter.ALLOC_PAGES,)),
)  # fmt: skip


def counted_alone(attached: Set[str]) -> frozenset[Counter]:
    """Of Hook.counts_alone, what is counted where hooks of these labels are attached."""
    return frozenset(counter for hook in HOOKS if hook.label in attached for counter in hook.counts_alone)


SERIES_SYMBOL: Final = "unmapped_pages_alloc"
"""A kernel that has this function has the series."""
