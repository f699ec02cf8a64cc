# SPDX-License-Identifier: Apache-2.0
"""Counted walks: which events a processor has, the kernel's counters themselves, and what is said where there are none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.model.test_tlb import PROCESSORS, cpuid_of
from uaptrace.abi.errors import CannotTraceError
from uaptrace.commands.cost import cost, walks_to_json, walks_to_text
from uaptrace.commands.serve import serve
from uaptrace.cost import walks
from uaptrace.cost.walk_events import WalkEvents, family_and_model, walk_events
from uaptrace.cost.walks import WalkCounters, open_walk_counters
from uaptrace.ebpf.perf_counters import SOFTWARE_CONTEXT_SWITCHES, SOFTWARE_CPU_CLOCK, PerfEvent
from uaptrace.exporter.rendering import HttpStatistics, Renderer
from uaptrace.kernel.processor import Processor, online_cpus, parse_cpu_numbers
from uaptrace.model.walks import WalkCounts

TOP = Path(__file__).parents[2]
CPUS = online_cpus(Path("/"))
# What needs no PMU: time of the processors, and switches from one task to the next.
SOFTWARE = WalkEvents((SOFTWARE_CONTEXT_SWITCHES,), (), SOFTWARE_CPU_CLOCK)
# perf's tables, as its own tool would write them: cpu/event=...,umask=...,cmask=.../
KNOWN = {
    "Intel Haswell-EP": ({0x0E08, 0x0E49}, {0x1008, 0x1049}),
    "Intel Cascade Lake": ({0x0E08, 0x0E49}, {0x1001008, 0x1001049}),
    "Intel Sapphire Rapids": ({0x0E12, 0x0E13}, {0x1001012, 0x1001013}),
    "AMD Rome": ({0xF045}, set()),
    "AMD Genoa": ({0xF045}, set()),
}


def may_count() -> bool:
    """Whether this process may open counters: perf_event_paranoid and privileges."""
    try:
        WalkCounters(SOFTWARE, CPUS[:1]).close()
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EPERM)
    return True


needs_counters = pytest.mark.skipif(not may_count(), reason="counting needs root or sysctl kernel.perf_event_paranoid=-1")


@pytest.mark.parametrize("name", PROCESSORS)
def test_each_processor_has_the_events_of_its_vendor(name: str) -> None:
    events = walk_events(cpuid_of(name))
    assert isinstance(events, WalkEvents)
    assert ({event.config for event in events.walks}, {event.config for event in events.walk_cycles}) == KNOWN[name]
    assert {event.kind for event in (*events.walks, *events.walk_cycles)} == {4}, "PERF_TYPE_RAW"


@pytest.mark.parametrize(
    ("signature", "family", "model"), [(0x000306F2, 6, 0x3F), (0x00A10F11, 0x19, 0x11), (0x00830F10, 0x17, 0x31), (0x000006D8, 6, 0x0D)]
)
def test_family_and_model_are_put_together_as_the_manuals_say(signature: int, family: int, model: int) -> None:
    assert family_and_model(signature) == (family, model)


def test_a_processor_that_is_not_in_the_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def alder_lake(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return (0x00090672, 0, 0, 0) if leaf == 1 else cpuid_of("Intel Cascade Lake")(leaf, subleaf)

    assert walk_events(alder_lake) == "GenuineIntel family 0x6 model 0x97"
    monkeypatch.setattr(walks, "this_cpuid", lambda: alder_lake)
    with pytest.raises(CannotTraceError, match=r"events of this processor are not known \(GenuineIntel family 0x6 model 0x97\)"):
        open_walk_counters()


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3\n", (0, 1, 2, 3)), ("0,2-3,9", (0, 2, 3, 9)), ("5", (5,)), ("", ()), ("a-b,-1,2-", (2,)), ("3-1", ())]
)
def test_cpus_that_are_online_are_those_of_the_list(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_cpu_numbers(text) == numbers


@needs_counters
def test_counters_count_all_cpus_and_only_from_when_they_were_opened() -> None:
    with WalkCounters(SOFTWARE, CPUS) as counters:
        begin_ns = time.monotonic_ns()
        first = counters.read()
        for _ in range(50):
            time.sleep(0.001)
        last = counters.read()
        elapsed_ns = time.monotonic_ns() - begin_ns
    assert last.nr_cpus == len(CPUS)
    assert last.counted_share == 1.0
    assert last.walk_cycles is None
    # Each sleep is at least two switches: away from this task, and to it.
    assert last.walks - first.walks >= 100
    # The clock of each processor counts for all of the time: nothing is left out, whoever runs.
    assert 0.5 * elapsed_ns * len(CPUS) < last.cycles - first.cycles < 1.5 * elapsed_ns * len(CPUS)


@needs_counters
def test_a_counter_of_which_the_kernel_says_nothing_more_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with WalkCounters(SOFTWARE, CPUS) as counters:
        time.sleep(0.01)
        before = counters.read()
        monkeypatch.setattr("uaptrace.ebpf.perf_counters.os.read", lambda fd, size: b"")
        after = counters.read()
    assert (after.cycles, after.walks) == (before.cycles, before.walks)
    assert after.counted_share == 0.0


@needs_counters
@pytest.mark.skipif(os.geteuid() != 0, reason="privileges can be given up by root only")
def test_they_are_read_without_any_privilege() -> None:
    """As the daemon does: opened by root, read by nobody."""
    script = """
import os
from uaptrace.process.limits import keep_single_threaded
keep_single_threaded()
from uaptrace.cost.walks import WalkCounters
from uaptrace.ebpf.perf_counters import SOFTWARE_CONTEXT_SWITCHES, SOFTWARE_CPU_CLOCK
from uaptrace.cost.walk_events import WalkEvents
from uaptrace.process.privileges import drop_privileges
with WalkCounters(WalkEvents((SOFTWARE_CONTEXT_SWITCHES,), (), SOFTWARE_CPU_CLOCK), [0]) as counters:
    drop_privileges()
    print(os.geteuid(), counters.read().cycles > 0)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=TOP, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["True"]), done.stderr
    assert done.stdout.split()[0] != "0"


@needs_counters
def test_counters_that_are_closed_leave_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    counters = WalkCounters(SOFTWARE, CPUS)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 2 * len(CPUS)
    counters.close()
    counters.close()
    assert set(os.listdir("/proc/self/fd")) == before


@needs_counters
def test_one_event_that_there_is_not_closes_the_others() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No such file or directory"):
        WalkCounters(WalkEvents((SOFTWARE_CONTEXT_SWITCHES, PerfEvent(1, 0xFFFF)), (), SOFTWARE_CPU_CLOCK), CPUS)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "the kernel has no performance counters of this processor"),
        (errno.EOPNOTSUPP, "the kernel has no performance counters of this processor"),
        (errno.EACCES, "it needs root or CAP_PERFMON"),
        (errno.EMFILE, r"too many open files: raise the limit \(ulimit -n\)"),
        (errno.ENOSPC, "No space left on device"),
    ],
)
def test_where_nothing_can_be_counted_one_line_says_why(number: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(event: PerfEvent, cpu: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(walks, "open_counter", refuse)
    monkeypatch.setattr(walks, "this_cpuid", lambda: cpuid_of("AMD Rome"))
    with pytest.raises(CannotTraceError, match=f"^page walks cannot be counted: {said}"):
        open_walk_counters()
    for command, arguments in ((cost, ["--walks", "0.1"]), (serve, ["--count-walks", "--listen", "127.0.0.1:0"])):
        done = CliRunner().invoke(command, arguments)
        assert isinstance(done.exception, CannotTraceError), arguments
    assert walks.walks_error() is not None


def test_what_a_recording_shows_was_not_counted_here() -> None:
    done = CliRunner().invoke(serve, ["--count-walks", "--replay", __file__])
    assert "cannot go with --replay" in str(done.exception)


COUNTS = WalkCounts(2_000_000_000, 3_000_000, 50_000_000, 8, 0.5)


def test_the_command_has_each_figure_with_its_conditions() -> None:
    processor = Processor("AMD EPYC 7742", virtual=True, emulated=False)
    assert walks_to_text(processor, 10, COUNTS).splitlines() == [
        "processor  AMD EPYC 7742, in a virtual machine",
        "counted    10 s on 8 CPUs, 50% of the time",
        "cycles     2,000,000,000 in kernel mode",
        "walks      3,000,000 for data, 1,500.0 a million cycles",
        "in walks   2.50% of these cycles",
    ]
    found = walks_to_json(processor, 10, COUNTS)
    assert found["walk_share"] == 0.025
    assert json.loads(json.dumps(found)) == found
    uncounted = WalkCounts(0, 0, None, 8, 0.0)
    assert walks_to_text(processor, 10, uncounted).splitlines()[-1] == "in walks   this processor does not count the cycles of walks"


def test_the_endpoint_has_what_was_counted_and_nothing_where_nothing_is() -> None:
    body, _ = Renderer(HttpStatistics(), read_walks=lambda: COUNTS).scrape(lambda: None, "", "")
    lines = body.decode().splitlines()
    assert "uaptrace_kernel_cycles_total 2e+09" in lines
    assert "uaptrace_kernel_dtlb_walks_total 3e+06" in lines
    assert "uaptrace_kernel_dtlb_walk_cycles_total 5e+07" in lines
    assert "uaptrace_kernel_walk_counters_cpus 8.0" in lines
    assert "uaptrace_kernel_walk_counters_ratio 0.5" in lines
    amd, _ = Renderer(HttpStatistics(), read_walks=lambda: WalkCounts(1, 1, None, 8, 1.0)).scrape(lambda: None, "", "")
    assert b"walk_cycles" not in amd
    none, _ = Renderer(HttpStatistics()).scrape(lambda: None, "", "")
    assert b"uaptrace_kernel_" not in none
