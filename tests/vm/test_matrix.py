# SPDX-License-Identifier: Apache-2.0
"""On every kernel: the state is the page tables', every split has a cause, every count is the workload's.

One boot for each row of conftest.BOOTED.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.vm.conftest import FULL, TRACEPOINT, Run, only
from tests.vm.guest import BY_CALLERS_PAGES, FAULTS
from uaptrace.abi.hooks import HOOKS
from uaptrace.loader.plan import CALLER, CALLERS

pytestmark = [pytest.mark.vm, pytest.mark.slow]

LEVELS = ("2m", "1g")


def test_the_host_says_that_it_can_be_traced(run: Run) -> None:
    check = run.result["check"]
    assert check["status"] == 0, check["json"]["findings"]
    assert check["json"]["status"] == "ready"


def test_every_hook_of_this_kernel_is_attached(run: Run) -> None:
    hooks = {hook["name"]: hook for hook in run.result["hooks"]}
    expected = {"cpa", "flush_all", "set_invalid", "set_default"}
    if run.row.series:
        expected |= {"cache_alloc", "cache_free", "cache_release", "flush_range", "shrink_scan", "shrink_count"}
        expected |= {"alloc_pages"} if "entry" in run.row.extra else set()
    if "count" in run.row.extra:
        expected |= {"alloc_pages_count"}
    if run.row.kernel.endswith("-7.3"):
        expected |= {"set_valid"}
    attached = {name for name, hook in hooks.items() if hook["mechanism"]}
    assert attached == expected
    mechanism = "kprobe" if "kprobe" in run.row.extra else "fentry"
    by_caller = set() if run.row.series or mechanism == "kprobe" else {hook.label for hook in HOOKS if hook.name in CALLERS}
    assert {name for name in attached if hooks[name]["mechanism"] == CALLER} == attached & by_caller
    assert {hooks[name]["mechanism"] for name in attached - by_caller} == {mechanism}
    for name in hooks.keys() - attached:
        assert hooks[name]["reason"], f"{name} is missing without a reason"


def test_no_page_differs_from_a_fresh_reading_of_the_tables(run: Run) -> None:
    for phase in run.result["phases"]:
        verdict = phase["kcore"]
        assert verdict["differing_pages"] == 0, (phase["name"], verdict)
        assert verdict["settled"], phase["name"]
        assert verdict["compared_pages"] >= 400_000


def test_no_page_differs_from_the_kernels_own_dump(run: Run) -> None:
    phases = [phase for phase in run.result["phases"] if "ptdump" in phase]
    if not run.row.series:
        assert not phases, "Debian's kernels have no ptdump: the test kernel is the one with it"
        return
    assert len(phases) == len(run.result["phases"])
    for phase in phases:
        assert phase["ptdump"]["differing_pages"] == 0, (phase["name"], phase["ptdump"])
        untold = phase["ptdump"]["untold_pages"]
        assert not untold or run.row.whole_chunks, "only a chunk that is absent as a whole is an entry of which the dump says nothing"
        # Such an entry is in the dump as part of the run before it, of 2M or of 4K entries.
        in_dump, entries = phase["entries_in_dump"], phase["after"]["direct_map"]["entries"]
        assert in_dump - untold <= entries <= in_dump - untold // 512, phase["name"]
        assert entries > 1000


def test_the_state_is_exact_and_nothing_was_lost(run: Run) -> None:
    for phase in run.result["phases"]:
        assert phase["after"]["exact"], (phase["name"], phase["after"].get("reasons"))
        assert phase["after"]["lost"] == 0, phase["name"]


def test_every_split_that_the_kernel_counted_has_a_cause(run: Run) -> None:
    for phase in run.result["phases"]:
        for level in LEVELS:
            kernel = phase["kernel_after"]["splits"][level] - phase["kernel_before"]["splits"][level]
            ours = phase["after"]["splits"][level] - phase["before"]["splits"][level]
            assert ours == kernel, (phase["name"], level)
            assert phase["after"]["splits"]["unexplained"][level] == 0, (phase["name"], level)
    splits = run.last["after"]["splits"]
    by_cause: dict[str, Any] = splits["by_cause"]
    for level in LEVELS:
        assert sum(cause[level] for cause in by_cause.values()) + splits["unexplained"][level] == splits[level]


def test_the_workload_split_something_and_its_makers_are_named(run: Run) -> None:
    assert run.phase("mix")["after"]["splits"]["2m"] > 0
    rows = run.result["splits"]["groups"]
    assert rows
    assert all(row["stack"] for row in rows), "a split without a stack"
    causes = {row["cause"] for row in rows}
    assert "other" not in causes, [row for row in rows if row["cause"] == "other"]


def test_granularity_changes_as_meminfo_says(run: Run) -> None:
    for phase in run.result["phases"]:
        assert phase["after"]["reconcile"]["error_bytes"] in (0, None), phase["name"]


def test_secretmem_pages_are_counted_one_by_one(run: Run) -> None:
    phase = run.phase("secretmem")
    pages = phase["workload"]["pages"]
    assert pages == 1021
    delta = {name: value - phase["before"]["counters"][name] for name, value in phase["after"]["counters"].items()}
    if not run.row.series:
        assert delta["set_invalid"] == pages
        assert delta["set_default"] == pages
        return
    # By default nothing is hooked that could tell requests from calls of the cache.
    assert delta.get("request") == (pages if "entry" in run.row.extra else None)
    assert delta["cache_alloc"] == delta["pages_allocated"] == pages
    assert delta["cache_free"] == delta["pages_freed"] == pages
    assert delta["cache_alloc_failed"] == 0
    pages_per_call = 512 if run.row.whole_chunks else 1
    assert delta["set_invalid"] * pages_per_call == delta["pages_refilled"], "a refill unmaps all of its chunk, nothing else unmaps any"
    assert delta["cache_hit"] + delta["cache_refill"] == pages


def test_pages_are_counted_where_a_return_probe_of_somebody_else_hides_the_caller(run: Run) -> None:
    """Which function made a change is seen by where it returns to, and such a probe puts another address there."""
    if run.row.series:
        return
    phase = run.phase("hidden")
    delta = {name: phase["after"]["counters"][name] - phase["before"]["counters"][name] for name in ("set_invalid", "set_default", "cpa")}
    assert delta["set_invalid"] == delta["set_default"] == phase["workload"]["pages"] == 61
    assert run.result["return_probe"]["hits"] >= delta["cpa"] >= 122, "the probe was on the way of each of them"


def test_modules_and_bpf_are_seen(run: Run) -> None:
    modules, bpf = run.phase("modules"), run.phase("bpf")
    assert modules["workload"]["loaded"] == 7
    assert bpf["workload"]["programs"] == 11
    assert modules["after"]["counters"]["cpa"] > modules["before"]["counters"]["cpa"]


def test_the_cache_is_the_kernels_block_by_block(run: Run) -> None:
    for phase in run.result["phases"]:
        cache, rows = phase["after"]["unmapped_cache"], phase["kernel_after"]["rows"]
        if not run.row.series:
            assert cache is None
            assert rows is None
            continue
        for row in ("free", "cached", "released"):
            assert cache[row] == rows[row], (phase["name"], row)
    if run.row.series:
        first = run.phase("baseline")["after"]["unmapped_cache"]
        assert sum(first["cached"]) > 0, "the cache was to be in use before tracing began"
        last = run.last["after"]["unmapped_cache"]
        assert sum(last["released"]) > sum(first["released"])
        assert last["free"] == [0] * 11


def test_no_invariant_is_broken_by_the_right_kernel(run: Run) -> None:
    if not run.row.series:
        return
    invariants = {row["number"]: row for row in run.last["audit"]["invariants"]}
    assert set(invariants) >= set(range(1, 12))
    for number, row in invariants.items():
        assert row["violated"] == 0, row
        if number == 1 and "entry" not in run.row.extra:
            assert "not checked" in row["note"]
        elif number not in (1, 10):
            assert row["checked"] > 0, row


@only(TRACEPOINT)
def test_the_tracepoint_of_the_page_allocator_sees_requests_and_refills(run: Run) -> None:
    """``--page-alloc-hook tracepoint``: each request is counted, and the state stays what it is without."""
    phases = {phase["name"]: phase for phase in run.result["with_tracepoint"]}
    for name, phase in phases.items():
        assert phase["kcore"]["differing_pages"] == phase["ptdump"]["differing_pages"] == 0, name
        assert phase["after"]["exact"], phase["after"].get("reasons")
        for row in ("free", "cached", "released"):
            assert phase["after"]["unmapped_cache"][row] == phase["kernel_after"]["rows"][row], (name, row)
    work = phases["secretmem"]
    before, after = work["before"], work["after"]
    assert after["unmapped_cache"]["requests"] - before["unmapped_cache"]["requests"] == 1021
    assert after["counters"]["request"] - before["counters"]["request"] == 1021
    assert after["unmapped_cache"]["refills"] > before["unmapped_cache"]["refills"]
    assert sum(phases["release"]["after"]["unmapped_cache"]["free"]) == 0


def test_reading_needs_no_privilege(run: Run) -> None:
    child = run.result["unprivileged"]
    assert child["CapEff"] == "0000000000000000"
    assert "0" not in child["Uid"].split()
    assert child["tables"] > 0


def test_nothing_stays_attached_and_the_kernel_has_no_complaint(run: Run) -> None:
    before = {program["id"] for program in run.result["programs_before"]}
    assert [program for program in run.result["programs_after"] if program["id"] not in before] == []
    assert run.result["complaints"] == []


def test_the_tlb_is_the_one_that_the_kernel_found(run: Run) -> None:
    """The kernel reads descriptors and AMD's leaves when it boots, and logs what it found; 0 where it does not know either."""
    said = {size: int(number) for size, number in re.findall(r"(4KB|2MB|1GB) (\d+)", run.result["tlb"]["kernel"])}
    assert said
    for size, label in (("4KB", "4k"), ("2MB", "2m")):
        entries = [part["entries"] for part in run.result["tlb"]["host"] if label in part["sizes"]]
        assert max(entries, default=0) == said[size] or not said[size]


def test_a_large_guest_has_1g_mappings(run: Run) -> None:
    """They are what a split costs most: seen where the guest is large enough for them."""
    direct_map = run.phase("baseline")["after"]["direct_map"]
    if run.row.memory == "6G":
        assert direct_map["1g"] > 0
    assert direct_map["2m"] > 0
    assert direct_map["4k"] > 0


def test_the_recording_gives_the_same_figures(run: Run) -> None:
    """Replay is exact: the last snapshot of the recording is the live one."""
    from uaptrace.reports.documents import snapshot_to_json
    from uaptrace.session.replay import ReplaySource

    source = ReplaySource(run.folder / "run.uaptrace", None, budget_s=None)
    replayed = source.latest()
    assert replayed is not None
    document, live = snapshot_to_json(replayed), run.last["after"]
    for document_or_live in (document, live):
        # Counted all the time, where it is: the two were read at different moments.
        document_or_live["counters"].pop("alloc_pages", None)
    for key in ("direct_map", "splits", "unmapped_cache", "counters", "exact", "lost"):
        assert document[key] == live[key], key


def test_the_simulation_is_the_kernel(run: Run) -> None:
    """What-if can be believed: the same requests give the same blocks, refills, releases and splits as the kernel had."""
    from uaptrace.policies.against_kernel import check_none, check_unmapped_alloc
    from uaptrace.recording import read_updates

    recording = run.folder / "run.uaptrace"
    if run.row.series:
        cache = check_unmapped_alloc(read_updates(recording))
        assert len(cache.comparisons) > 10
        assert [c for c in cache.comparisons if c.differing_blocks] == []
        assert cache.nr_blocks > 1000
        # A free is told before the cache's lock is taken, an allocation after it: where one task frees while another allocates, their
        # order on the list is not the records'. The same blocks then change places (seen: 25 of 28,128, beside a kworker that freed
        # 10 us before), and the rows above stay equal.
        assert cache.nr_blocks_elsewhere < cache.nr_blocks / 100
    else:
        splits = check_none(read_updates(recording))
        assert splits is not None
        assert splits.nr_requests > 1000
        assert splits.simulated == splits.kernel


def test_a_stripped_flag_shows_in_the_pages_that_secret_memory_is_given(run: Run) -> None:
    """What `audit` takes by default: nothing is on the page allocator's path."""
    if "--faults" not in run.row.extra:
        return
    found = run.result["by_callers"]
    assert found["sound"] == {"checked": BY_CALLERS_PAGES, "violated": 0}
    assert found["stripped"] == {"checked": BY_CALLERS_PAGES, "violated": BY_CALLERS_PAGES}


def test_each_fault_is_found_with_the_right_invariant(run: Run) -> None:
    if "--faults" not in run.row.extra:
        return
    expected = {fault.bit: fault.numbers for fault in FAULTS}
    found = {fault["bit"]: fault for fault in run.result["faults"]}
    assert found.keys() == expected.keys()
    for bit, numbers in expected.items():
        broken = {int(number) for number in found[bit]["broken"]}
        assert numbers <= broken, found[bit]
        if not numbers:
            assert not broken, "an error that the kernel handles is no violation"
            continue
        assert found[bit]["seconds"] < 10
        assert all(first["pfn"] > 0 for first in found[bit]["first"] if first["number"] != 1)


@only(FULL)
def test_a_loss_is_counted_said_and_mended(run: Run) -> None:
    ring = run.result["small_ring"]
    assert ring["exact_at_first"]
    assert ring["lost_in_kernel"] > 1000
    assert ring["lost"] >= ring["lost_in_kernel"]
    assert not ring["exact_when_lost"]
    assert ring["reasons_when_lost"]
    assert ring["exact_after"], ring["reasons_after"]
    assert ring["seconds_to_exact"] < 2
    assert ring["kcore"]["differing_pages"] == 0


@only(FULL)
def test_the_daemon_is_small_and_has_no_privilege(run: Run) -> None:
    daemon = run.result["commands"]["daemon"]
    assert daemon["CapEff"] == "0000000000000000"
    assert int(daemon["VmRSS"].split()[0]) < 60 * 1024, daemon
    assert daemon["status_after_sigterm"] == 0
    assert run.result["commands"]["programs_after_serve"] == []


@only(FULL)
def test_the_endpoint_and_its_clients_work(run: Run) -> None:
    commands = run.result["commands"]
    for name in ("top", "splits", "map", "audit"):
        assert commands[name]["status"] == 0, commands[name]["stderr"]
    assert commands["top"]["json"]["exact"]
    # Others may use the cache meanwhile (a BPF program does): what the workload's process did is exact.
    assert 61 in [process["allocated_pages"] for process in commands["top"]["json"]["processes"]]
    assert commands["http_metrics"]["status"] == 200
    requests = re.search(r"^uaptrace_unmapped_cache_requests_total (\S+)$", commands["http_metrics"]["body"], re.MULTILINE)
    assert requests is not None
    assert float(requests[1]) >= 61
    assert commands["http_readyz"]["status"] == 200
    assert commands["http_healthz"]["status"] == 200
    assert commands["http_nowhere"]["status"] == 404


@only(FULL)
def test_what_a_split_costs_is_measured_and_not_claimed_of_an_emulated_processor(run: Run) -> None:
    cost = run.result["commands"]["cost"]
    found = cost["json"]
    assert found["nr_pages"] >= 4096, cost
    assert found["read_ns"]["4k"]["median"] > 0
    assert found["read_ns"]["2m"]["median"] > 0
    assert found["emulated"], "the guests of these tests run without KVM"
    assert not found["conclusive"]
    assert cost["status"] == 1
    assert "emulated" in cost["stderr"]
    assert len(cost["stderr"].splitlines()) == 1


@only(FULL)
def test_hostile_clients_cost_no_event(run: Run) -> None:
    """The endpoint is under attack while the kernel sends: nothing is lost, and an honest client is told."""
    attacked = run.result["commands"]["attacked"]
    assert attacked["attacks"] >= 4
    assert attacked["status"] == 0, attacked["stderr"]
    assert attacked["json"]["lost"] == 0
    assert attacked["json"]["exact"]
    assert 1009 in [process["allocated_pages"] for process in attacked["json"]["processes"]]


@only(FULL)
def test_ctrl_c_leaves_a_readable_recording_and_no_program(run: Run) -> None:
    commands = run.result["commands"]
    assert commands["record"]["status"] == 0, commands["record"]
    assert commands["replay"]["status"] == 0, commands["replay"]
    assert 127 in [process["allocated_pages"] for process in commands["replay"]["json"]["processes"]]
    assert commands["programs_after_record"] == []
