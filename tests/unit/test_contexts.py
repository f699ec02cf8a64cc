# SPDX-License-Identifier: Apache-2.0
"""Where a program keeps what a task is in the middle of: the C of bpf/contexts.bpf.c in a real kernel, run by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import bpf_programs
from uaptrace.abi.events import Counter
from uaptrace.ebpf.compiled import with_values
from uaptrace.ebpf.counters import MappedCounters
from uaptrace.ebpf.objects import Program, create_map, load_program
from uaptrace.loader.program import bpf_folder, compiler_flags, map_sizes
from uaptrace.loader.programs import compile_now

SOCKET_FILTER = 1
NR_TRIES = 4
PLACE_BITS = 12
OPERATIONS = """
static __always_inline u32 key_in(struct __sk_buff *skb)
{
	u32 key = 0;

	bpf_skb_load_bytes(skb, 0, &key, sizeof(key));
	return key;
}

int make(struct __sk_buff *skb) { return make_context_of(key_in(skb)) != 0; }
int find(struct __sk_buff *skb) { return context_of(key_in(skb)) != 0; }
int drop(struct __sk_buff *skb)
{
	struct uap_context *c = context_of(key_in(skb));

	if (c)
		drop_context_if_idle(c);
	return 0;
}
"""


def places_of(key: int) -> list[int]:
    """The places where the context of a task may be, first one first."""
    home = (key * 2654435769 & 0xFFFFFFFF) >> 32 - PLACE_BITS
    return [(home + attempt) % (1 << PLACE_BITS) for attempt in range(NR_TRIES)]


def keys_at(place: int, nr: int) -> list[int]:
    """Ids of tasks whose first place that is."""
    found: list[int] = []
    key = 1
    while len(found) < nr:
        if places_of(key)[0] == place:
            found.append(key)
        key += 1
    return found


KEYS = [key for place in (0, 1, (1 << PLACE_BITS) - 1) for key in keys_at(place, 4)]
"""Tasks that compete for six places, the last and the first of all among them."""


@dataclass
class Contexts:
    """The programs, loaded once."""

    programs: dict[str, int]
    counters: MappedCounters

    def run(self, operation: str, key: int) -> int:
        return bpf_programs.run(self.programs[operation], packet=bytes(14) + key.to_bytes(4, "little"))

    def nr_lost(self) -> int:
        return int(self.counters.read()[Counter.CONTEXT_LOST])


@pytest.fixture(scope="module")
def contexts() -> Iterator[Contexts]:
    if why := bpf_programs.why_not():
        pytest.skip(why)
    folder = bpf_folder()
    text = '#include "events.h"\n' + "".join((folder / f"{subject}.bpf.c").read_text() for subject in ("common", "contexts")) + OPERATIONS
    compiled = compile_now(text, compiler_flags(), folder).sized(map_sizes(ring_bytes=4096, nr_cpus=len(os.sched_getaffinity(0)) + 64))
    maps = [create_map(name, spec) for name, spec in compiled.maps.items()]
    programs = {
        name: load_program(Program(name, SOCKET_FILTER, with_values(code, maps, [0] * 64))) for name, code in compiled.functions.items()
    }
    place = list(compiled.maps).index("counters")
    with MappedCounters(maps[place], list(compiled.maps.values())[place].max_entries) as counters:
        yield Contexts(programs, counters)
    for fd in (*programs.values(), *maps):
        os.close(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["make", "drop"]), st.sampled_from(KEYS)), max_size=60))
def test_a_task_finds_what_it_left_and_nobody_elses_and_where_there_is_no_room_it_is_counted(
    contexts: Contexts, steps: list[tuple[str, int]]
) -> None:
    held: dict[int, int] = {}
    try:
        for operation, key in steps:
            lost = contexts.nr_lost()
            got = contexts.run(operation, key)
            if operation == "drop":
                held = {place: holder for place, holder in held.items() if holder != key}
            elif key not in held.values():
                free = next((place for place in places_of(key) if place not in held), None)
                assert got == (free is not None)
                assert contexts.nr_lost() == lost + (free is None)
                if free is not None:
                    held[free] = key
            else:
                assert got == 1, "a call inside a call has the context of the outer one"
            assert {task for task in KEYS if contexts.run("find", task)} == set(held.values())
    finally:
        for key in KEYS:
            contexts.run("drop", key)
