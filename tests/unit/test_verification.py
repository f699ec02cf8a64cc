# SPDX-License-Identifier: Apache-2.0
"""What a comparison without a difference is worth."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.view_snapshots import make
from uaptrace.loader.attaching import verdict as verifiers_verdict
from uaptrace.model.hook_status import HookStatus
from uaptrace.model.snapshot import Exactness, Snapshot
from uaptrace.session.verification import Verdict

HOOK = HookStatus("cpa", "__change_page_attr_set_clr", "fentry")


def good() -> Snapshot:
    return replace(make(), exactness=Exactness(True), hooks=(HOOK,))


def verdict_of(snapshot: Snapshot, compared: int = 512, expected: int = 512) -> Verdict:
    return Verdict("kcore", "pages", compared, 0, (), snapshot, True, expected)


def test_nothing_is_in_doubt_where_all_was_compared_exactly() -> None:
    spare = replace(HOOK, name="set_valid", mechanism=None, needed=False, reason="not in this kernel")
    assert verdict_of(replace(good(), hooks=(HOOK, spare))).doubts == ()
    assert verdict_of(good(), compared=600).doubts == (), "pages that only the reading has are compared too"


def test_a_hook_that_something_goes_unseen_for_is_a_doubt() -> None:
    for refused, state in ((True, "refused"), (False, "missing")):
        lacking = replace(HOOK, mechanism=None, refused=refused, reason="R2 min value is negative")
        (doubt,) = verdict_of(replace(good(), hooks=(lacking,))).doubts
        assert doubt == f"the hook cpa is {state}: R2 min value is negative"


def test_an_inexact_state_is_a_doubt_with_its_reasons() -> None:
    (doubt,) = verdict_of(replace(good(), exactness=Exactness(False, ("one", "two")))).doubts
    assert doubt == "the state is inexact: one; two"


def test_fewer_pages_than_the_map_has_are_a_doubt() -> None:
    (doubt,) = verdict_of(good(), compared=511).doubts
    assert "only 511 of 512 pages" in doubt
    assert verdict_of(good(), compared=0, expected=0).doubts, "nothing at all proves nothing"


def test_rereads_are_told() -> None:
    assert verdict_of(replace(good(), exactness=Exactness(True, nr_rereads=3))).to_json()["rereads"] == 3


def test_the_verifiers_reason_is_its_last_line_before_its_figures() -> None:
    log = (
        "0: (79) r2 = *(u64 *)(r1 +0)\nR2 min value is negative, either use unsigned or 'var &= const'\n"
        "verification time 12 usec\nstack depth 8\nprocessed 87 insns (limit 1000000) max_states_per_insn 1\n\0\0"
    )
    assert verifiers_verdict(log) == "R2 min value is negative, either use unsigned or 'var &= const'"
    assert verifiers_verdict("") == ""
    assert verifiers_verdict("processed 0 insns\n") == ""
