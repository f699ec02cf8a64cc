# SPDX-License-Identifier: Apache-2.0
"""The direct map of the simulation: what a change of pages, regions or ranges splits, and what it counts. Part of engine.py when it is
compiled.
"""

from __future__ import annotations

from uaptrace.policies.engine_state import (
    ABSENT,
    C_1G,
    C_2M,
    C_4K,
    C_CHANGED,
    C_FLUSHES,
    C_OPERATIONS,
    C_PAGES_CHANGED,
    C_SPLIT_1G,
    C_SPLIT_2M,
    C_STRANDED,
    C_TOUCHED,
    C_TOUCHED_NOW,
    DEFAULT,
    G1,
    GIGA,
    K4,
    M2,
    OTHER_PERMISSION,
    PMD,
    REGION,
    Engine,
)


def _is_stranded(s: Engine, region: int) -> int:
    if s.level[region] == K4 and s.nr_changed[region] == 0 and s.touched[region] == 1:
        return 1
    return 0


def _split_1g(s: Engine, region: int) -> None:
    first = region & ~(GIGA - 1)
    split = 0
    for i in range(first, min(first + GIGA, s.nr_regions)):
        if s.level[i] == G1:
            s.level[i] = M2
            split += 1
    s.counts[C_SPLIT_1G] += 1
    s.counts[C_FLUSHES] += 1
    s.counts[C_1G] -= split
    s.counts[C_2M] += split


def _note(s: Engine, region: int, before: int, stranded: int) -> None:
    """Bring the counts of regions up to date after nr_changed or the level changed."""
    after = s.nr_changed[region]
    s.counts[C_CHANGED] += after - before
    if before == 0 and after > 0:
        s.counts[C_TOUCHED_NOW] += 1
        if s.touched[region] == 0:
            s.touched[region] = 1
            s.counts[C_TOUCHED] += 1
    elif before > 0 and after == 0:
        s.counts[C_TOUCHED_NOW] -= 1
    s.counts[C_STRANDED] += _is_stranded(s, region) - stranded


def set_page(s: Engine, page: int, value: int) -> bool:
    """Change one page, splitting what it is in; False where it already is so (no entry is written then)."""
    old = s.changed[page]
    if old == value:
        return False
    region = page >> PMD
    before = s.nr_changed[region]
    stranded = _is_stranded(s, region)
    if s.level[region] == G1:
        _split_1g(s, region)
    if s.level[region] == M2:
        s.level[region] = K4
        s.counts[C_SPLIT_2M] += 1
        s.counts[C_FLUSHES] += 1
        s.counts[C_2M] -= 1
        s.counts[C_4K] += 1
    s.changed[page] = value
    s.uniform[region] = 0
    if old == DEFAULT:
        s.nr_changed[region] += 1
    elif value == DEFAULT:
        s.nr_changed[region] -= 1
    _note(s, region, before, stranded)
    s.counts[C_PAGES_CHANGED] += 1
    return True


def _set_region(s: Engine, region: int, value: int, split_1g: bool) -> None:
    """Change a whole 2M region by one call: a large entry stays one."""
    before = s.nr_changed[region]
    stranded = _is_stranded(s, region)
    if split_1g and s.level[region] == G1:
        _split_1g(s, region)
    first = region << PMD
    differing = 0
    if s.uniform[region] == 0:
        for page in range(first, first + REGION):
            differing += s.changed[page] != value
    elif s.uniform[region] != value + 1:
        differing = REGION
    if differing > 0:
        for page in range(first, first + REGION):
            s.changed[page] = value
    s.uniform[region] = value + 1
    s.counts[C_PAGES_CHANGED] += differing
    s.nr_changed[region] = 0 if value == DEFAULT else REGION
    _note(s, region, before, stranded)


def set_range(s: Engine, first: int, nr_pages: int, value: int) -> None:
    """One call over a range, as __change_page_attr_set_clr() goes through it: the largest entries that fit are kept."""
    page = first
    end = first + nr_pages
    while page < end:
        region = page >> PMD
        aligned = page & (REGION - 1) == 0 and page + REGION <= end
        if aligned and s.level[region] != K4:
            giga = GIGA * REGION
            whole = s.level[region] == G1 and page & (giga - 1) == 0 and page + giga <= end
            if whole:
                for i in range(region, region + GIGA):
                    _set_region(s, i, value, False)
                page += giga
            else:
                _set_region(s, region, value, True)
                page += REGION
        else:
            set_page(s, page, value)
            page += 1
    s.counts[C_OPERATIONS] += 1
    s.counts[C_FLUSHES] += 1


def default_page(s: Engine, page: int) -> bool:
    """set_direct_map_default_noflush() of one page; whether its old entry has to be flushed (an absent one is in no TLB)."""
    old = s.changed[page]
    s.counts[C_OPERATIONS] += 1
    set_page(s, page, DEFAULT)
    return old == OTHER_PERMISSION


def default_pages(s: Engine, page: int, nr_pages: int) -> None:
    """Default permissions for those pages of a block that have others."""
    flush = False
    for i in range(page, page + nr_pages):
        if s.changed[i] != DEFAULT:
            flush = default_page(s, i) or flush
    if flush:
        s.counts[C_FLUSHES] += 1


def hide_pages(s: Engine, page: int, nr_pages: int) -> None:
    """set_direct_map_invalid_noflush() for each page, then one flush of the range."""
    for i in range(page, page + nr_pages):
        s.counts[C_OPERATIONS] += 1
        set_page(s, i, ABSENT)
    s.counts[C_FLUSHES] += 1
