# SPDX-License-Identifier: Apache-2.0
"""What the kernel does not tell of BPF programs is unknown, not zero."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.unit.exporter_snapshots import small_snapshot
from uaptrace.abi.errors import CannotTraceError
from uaptrace.ebpf import reader as bpf_memory
from uaptrace.ebpf.information import missed_runs
from uaptrace.exporter.metrics import snapshot_families
from uaptrace.model.snapshot import Loss, Snapshot
from uaptrace.reports.documents import snapshot_to_json
from uaptrace.views.panels import health_panel


def with_missed(runs: int | None) -> Snapshot:
    return replace(small_snapshot(), loss=Loss(events_lost=3, missed_runs=runs))


def test_a_program_of_which_the_kernel_says_nothing_makes_the_sum_unknown() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        assert missed_runs([fd]) is None
    finally:
        os.close(fd)
    assert missed_runs([]) == 0


def test_unknown_is_unknown_in_every_view() -> None:
    for runs, names in ((None, False), (0, True)):
        snapshot = with_missed(runs)
        assert ("uaptrace_missed_runs" in {family.name for family in snapshot_families(snapshot)}) == names
        assert snapshot_to_json(snapshot)["loss"]["missed_runs"] is runs
        shown = "".join(text for line in health_panel(snapshot, 80) for text, _ in line)
        assert ("left a program out is unknown" in shown) == (not names)
        assert snapshot.loss.total == 3


def test_a_kernel_that_refuses_to_run_the_reader_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf_memory, "run_program", refuse)
    with open(os.memfd_create("window"), "r+b") as window:
        window.truncate(bpf_memory.WINDOW_BYTES)
        memory = bpf_memory.BpfMemory(-1, window.fileno())
        with pytest.raises(CannotTraceError, match="unprivileged_bpf_disabled") as error:
            memory.read(0xFFFF888000000000, 8)
    assert "\n" not in str(error.value)
