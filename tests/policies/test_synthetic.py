# SPDX-License-Identifier: Apache-2.0
"""Synthetic requests: as many as asked for, in an order that could have happened, the same for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uaptrace.policies.engine_layout import Op, RequestFlag
from uaptrace.policies.synthetic import KINDS, LIVE_PAGES, synthetic_requests


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 3000), st.integers(0, 2**63))
def test_every_block_is_allocated_before_it_is_used_and_freed_once(kind: str, count: int, seed: int) -> None:
    r = synthetic_requests(kind, count, seed)
    assert len(r) == count
    state: dict[int, str] = {}
    for op, ident in zip(r.op.tolist(), r.ident.tolist(), strict=True):
        if op == Op.ALLOCATE:
            assert ident not in state
            state[ident] = "held"
        elif op == Op.FREE:
            assert state[ident] == "held"
            state[ident] = "freed"
        elif op == Op.CHANGE:
            assert state[ident] == "held"
    assert (np.diff(r.time_ns) >= 0).all()


def test_a_closed_owner_holds_nothing() -> None:
    r = synthetic_requests("secretmem", 20_000, 3)
    held = [0] * r.nr_owners
    closed = 0
    secret: set[int] = set()
    for op, ident, owner, flags in zip(r.op.tolist(), r.ident.tolist(), r.owner.tolist(), r.flags.tolist(), strict=True):
        if op == Op.ALLOCATE and flags == RequestFlag.HIDDEN:
            secret.add(ident)
            held[owner] += 1
        elif op == Op.FREE and ident in secret:
            held[owner] -= 1
        elif op == Op.CLOSE:
            assert held[owner] == 0
            closed += 1
    assert closed > 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_working_set_stays_as_large_as_is_said(kind: str) -> None:
    r = synthetic_requests(kind, 400_000, 2)
    served = (r.op == Op.ALLOCATE) & ((r.flags & RequestFlag.ORDINARY) == 0)
    idents = r.ident[served]
    ours = np.isin(r.ident, idents)
    change = np.where(served, 1, np.where(ours & (r.op == Op.FREE), -1, 0))
    live = np.cumsum(change)[len(r) // 2 :].mean()
    kinds = {"secretmem": 1.0, "modules": 1.0, "bpf": 0.125, "mixed": 2.125}
    assert 0.6 * kinds[kind] * LIVE_PAGES < live < 1.6 * kinds[kind] * LIVE_PAGES


def test_same_seed_same_requests_bit_for_bit() -> None:
    r = synthetic_requests("mixed", 5000, 42)
    digest = hashlib.sha256(b"".join(column.tobytes() for column in (r.op, r.ident, r.order, r.flags, r.owner, r.nr_pages))).hexdigest()
    assert digest == DIGEST
    assert synthetic_requests("mixed", 5000, 43).op.tobytes() != r.op.tobytes()


DIGEST = "e83cf67bdc9337628a533eedea7fc4693863e310e83c8fbcc78cb1b34c6a171b"
