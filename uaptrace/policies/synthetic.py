# SPDX-License-Identifier: Apache-2.0
"""Requests without a recording: workloads of one kind, and all of them together.

Each is made of *lives*: blocks that one owner allocates, uses and frees at times drawn at random. Every kind also has the
kernel's everyday allocations (slab, page tables, page cache), since it is those that a permission change lands among.
Times are in units of one request of a stream; docs/whatif.md gives the distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.policies.engine_layout import Op, RequestFlag
from uaptrace.policies.requests import Requests
from uaptrace.policies.rng import random_words, uniform

KINDS: Final = ("secretmem", "modules", "bpf", "mixed")
LIVE_PAGES: Final = 16384
"""About how many pages (64 MiB) each kind's owners hold at a time, where there are requests enough."""

_EVERYDAY: Final = 0.5
"""Share of everyday requests in every kind."""


@dataclass(frozen=True, slots=True)
class _Events:
    """Requests with the times that order them; ``ident`` and ``owner`` are numbered from 0 within the stream."""

    time: NDArray[np.float64]
    op: NDArray[np.uint8]
    ident: NDArray[np.int64]
    order: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    owner: NDArray[np.int64]
    nr_pages: NDArray[np.int64]


def synthetic_requests(kind: str, count: int, seed: int) -> Requests:
    """Exactly ``count`` requests of one of KINDS; the same for the same seed, on every machine."""
    if kind == "mixed":
        parts = [_secretmem(count * 0.2, seed), _modules(count * 0.15, seed), _bpf(count * 0.1, seed), _pressure(count, seed)]
        everyday = count * 0.55
    else:
        parts = [{"secretmem": _secretmem, "modules": _modules, "bpf": _bpf}[kind](count * (1 - _EVERYDAY), seed)]
        everyday = count * _EVERYDAY
    parts.append(_everyday(everyday, seed))
    return _merge(parts, count, f"synthetic {kind}, seed {seed}")


def _merge(parts: list[_Events], count: int, source: str) -> Requests:
    """One stream out of several, by time; each part's times are first stretched to the same end."""
    idents = owners = 0
    columns: list[list[NDArray[np.generic]]] = []
    for part in parts:
        nr_idents = int(part.ident.max(initial=-1)) + 1
        nr_owners = int(part.owner.max(initial=-1)) + 1
        ident = np.where(part.ident >= 0, part.ident + idents, -1)
        columns.append([part.time, part.op, ident, part.order, part.flags, part.owner + owners, part.nr_pages])
        idents += nr_idents
        owners += nr_owners
    time, *rest = (np.concatenate(column) for column in zip(*columns, strict=True))
    chosen = np.argsort(time, kind="stable")[:count]
    op, ident, order, flags, owner, nr_pages = (column[chosen] for column in rest)
    return Requests(
        op.astype(np.uint8),
        ident.astype(np.int32),
        order.astype(np.uint8),
        flags.astype(np.uint8),
        owner.astype(np.int32),
        np.full(len(op), -1, np.int64),
        nr_pages.astype(np.int64),
        np.zeros(len(op), np.int64),
        source,
    )


def _lives(seed: int, stream: str, count: int, mean: float) -> NDArray[np.float64]:
    """Lengths of lives: most short, a few very long (Lomax with shape 4).

    Made of divisions and square roots alone, which IEEE 754 defines to the last bit; logarithms differ between machines.
    """
    return 3 * mean * (1 / np.sqrt(np.sqrt(1 - uniform(seed, stream, count))) - 1)


def _sizes(seed: int, stream: str, count: int, low: int, octaves: int) -> NDArray[np.int64]:
    """Whole numbers from ``low`` to ``low << octaves``, without the last: each doubling as likely as the next."""
    octave = (random_words(seed, f"{stream}.octave", count) % np.uint64(octaves)).astype(np.int64)
    base = np.int64(low) << octave
    sizes: NDArray[np.int64] = base + np.floor(uniform(seed, stream, count) * base).astype(np.int64)
    return sizes


def _owners(
    name: str,
    total: float,
    seed: int,
    *,
    low: int,
    octaves: int,
    per_page: float,
    flags: int,
    changed: float,
    live_pages: int = LIVE_PAGES,
    pooled: bool = False,
) -> _Events:
    """Owners of ``low`` to ``low << octaves`` pages (order 0): allocated one after the other, the first ``changed`` of them given other
    permissions, all freed together, then the owner goes. ``per_page`` requests for each page, give or take.

    ``pooled``: to a pool for each owner they are all one, which never goes: the kernel has no inode to tie its own memory to.
    Owners come evenly over the stream, which is twice as long as asked for: the end is cut off by the caller.
    """
    mean = low * 1.5 * ((1 << octaves) - 1) / octaves - 0.5
    nr_owners = max(1, int(np.ceil(2 * total / (per_page * mean))))
    span = 2.0 * max(1.0, total)
    pages = _sizes(seed, f"{name}.pages", nr_owners, low, octaves)
    birth = uniform(seed, f"{name}.birth", nr_owners) * span
    # Little's law: owners alive = owners for each unit of time * mean life.
    life = _lives(seed, f"{name}.life", nr_owners, min(live_pages, total / 4) / (nr_owners / span * mean))
    owner = np.repeat(np.arange(nr_owners), pages)
    first = np.cumsum(pages) - pages
    position = np.arange(len(owner)) - first[owner]
    ident = np.arange(len(owner))
    is_changed = position < np.ceil(changed * pages[owner])
    # Half a unit between the pages of one owner: a burst that the everyday requests run through.
    step = 0.5
    allocated = birth[owner] + position * step
    finished = birth + pages * step
    freed = finished[owner] + life[owner] + position * 1e-6
    changes = finished[owner][is_changed] + position[is_changed] * 1e-6
    closed = finished + life + pages * 1e-6
    n, c = len(owner), int(is_changed.sum())
    pool = np.zeros(n, np.int64) if pooled else owner
    closed = closed[:0] if pooled else closed
    k = len(closed)
    return _Events(
        np.concatenate([allocated, changes, freed, closed]),
        np.concatenate([np.full(n, Op.ALLOCATE), np.full(c, Op.CHANGE), np.full(n, Op.FREE), np.full(k, Op.CLOSE)]).astype(np.uint8),
        np.concatenate([ident, ident[is_changed], ident, np.full(k, -1)]),
        np.zeros(2 * n + c + k, np.uint8),
        np.concatenate([np.full(n, flags), np.zeros(n + c + k)]).astype(np.uint8),
        np.concatenate([pool, pool[is_changed], pool, np.arange(k)]),
        np.zeros(2 * n + c + k, np.int64),
    )


def _secretmem(total: float, seed: int) -> _Events:
    """Processes with a memfd_secret() of 1 to 255 pages."""
    return _owners("secretmem", total, seed, low=1, octaves=8, per_page=2.0, flags=RequestFlag.HIDDEN, changed=0.0)


def _modules(total: float, seed: int) -> _Events:
    """Modules of 4 to 127 pages, of which text and read only data (60%) change permissions."""
    return _owners("modules", total, seed, low=4, octaves=5, per_page=2.6, flags=0, changed=0.6, pooled=True)


def _bpf(total: float, seed: int) -> _Events:
    """BPF programs of 1 to 3 pages, read only and executable as soon as they are translated."""
    return _owners("bpf", total, seed, low=1, octaves=2, per_page=3.7, flags=0, changed=1.0, live_pages=LIVE_PAGES // 8, pooled=True)


def _everyday(total: float, seed: int) -> _Events:
    """Blocks of order 0 to 3, half of them movable, half the kernel's own; most short lived, one in eight long lived."""
    n = max(1, int(np.ceil(total)))
    span = 2.0 * max(1.0, total)
    word = random_words(seed, "everyday.order", n)
    order = np.where(word & np.uint64(1), 0, np.where(word & np.uint64(2), 1, np.where(word & np.uint64(4), 2, 3))).astype(np.uint8)
    own = uniform(seed, "everyday.own", n) < 0.5
    flags = np.where(own, RequestFlag.ORDINARY | RequestFlag.UNMOVABLE, RequestFlag.ORDINARY).astype(np.uint8)
    order[own] = 0
    birth = uniform(seed, "everyday.birth", n) * span
    long = uniform(seed, "everyday.long", n) < 0.125
    mean = np.where(long, min(8.0 * LIVE_PAGES, total), min(LIVE_PAGES / 8, total / 16))
    death = birth + _lives(seed, "everyday.life", n, 1.0) * mean
    ident = np.arange(n)
    return _Events(
        np.concatenate([birth, death]),
        np.concatenate([np.full(n, Op.ALLOCATE), np.full(n, Op.FREE)]).astype(np.uint8),
        np.concatenate([ident, ident]),
        np.concatenate([order, order]),
        np.concatenate([flags, flags]),
        np.zeros(2 * n, np.int64),
        np.zeros(2 * n, np.int64),
    )


def _pressure(total: float, seed: int) -> _Events:
    """Memory pressure: now and then the shrinker is asked for 128 to 4095 pages."""
    n = max(1, int(total / 10_000) * 2)
    time = uniform(seed, "pressure.time", n) * 2.0 * total
    none = np.full(n, -1, np.int64)
    zero = np.zeros(n, np.uint8)
    pages = _sizes(seed, "pressure.pages", n, 128, 5)
    return _Events(time, np.full(n, Op.SHRINK, np.uint8), none, zero, zero, np.zeros(n, np.int64), pages)
