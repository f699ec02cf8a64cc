# SPDX-License-Identifier: Apache-2.0
"""A state that is held against the kernel's figures. For tests."""

from __future__ import annotations

from typing import Any

from tests.model.build import NO_ROWS, Ring, counters
from uaptrace.abi.events import Counter, Flag, Kind
from uaptrace.abi.units import NR_ORDERS, Level
from uaptrace.model.snapshot import Exactness
from uaptrace.model.state import KernelState


def exactness(state: KernelState, time_ns: int = 10**12) -> Exactness:
    return state.snapshot(time_ns, 0.0).exactness


def compared(state: KernelState, ring: Ring, **fields: Any) -> KernelState:
    """Take in what is new in the ring, and a reading of the counters after it."""
    state.update(ring.take())
    fields.setdefault("time_ns", ring.time_ns + 1)
    ring.time_ns = max(ring.time_ns, fields["time_ns"])
    fields["words"] = counted_splits(ring) | fields.get("words", {})
    state.update(counters([ring.batch()], **fields))
    return state


def counted_splits(ring: Ring) -> dict[int, int]:
    """What the programs counted whose records are in the ring."""
    splits = [row for row in ring.rows if row["kind"] == Kind.SPLIT]
    other = [row for row in splits if row.get("flags", 0) & (Flag.OTHER_MAPPING | Flag.UNCOUNTED)]
    of_1g = [row for row in splits if row not in other and row["before"] == Level.G1]
    return {
        int(Counter.SPLIT_OTHER): len(other),
        int(Counter.SPLIT_1G): len(of_1g),
        int(Counter.SPLIT_2M): len(splits) - len(other) - len(of_1g),
    }


def rows(free: tuple[int, ...], cached: tuple[int, ...] = NO_ROWS, released: tuple[int, ...] = NO_ROWS) -> dict[str, Any]:
    def long(row: tuple[int, ...]) -> tuple[int, ...]:
        return (*row, *NO_ROWS)[:NR_ORDERS]

    return {"rows_free": long(free), "rows_cached": long(cached), "rows_released": long(released)}
