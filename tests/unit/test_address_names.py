# SPDX-License-Identifier: Apache-2.0
"""A stack's addresses are called what they were called when the stack was seen, and /proc/kallsyms is not read for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uaptrace.kernel.address_names import MAX_TRIES, MODULES_INTERVAL_NS, PAUSE_NS, AddressNames

KERNEL, MODULE = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_C020_0000
HOUR_NS = 3600 * 10**9


class Host:
    """The kernel's two files, and how often each was read."""

    def __init__(self) -> None:
        self.functions = {KERNEL: "vmalloc"}
        self.modules: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        self.kallsyms_reads = self.modules_reads = 0
        self.names = AddressNames(self.kallsyms, self.proc_modules)

    def kallsyms(self) -> bytes:
        self.kallsyms_reads += 1
        lines = [f"{address:016x} T {name}\n" for address, name in self.functions.items()]
        lines += [f"{address:016x} t init_{name}\t[{name}]\n" for name, address in self.modules.items()]
        lines += [f"{address:016x} t {name}\t[bpf]\n" for name, address in self.programs.items()]
        return "".join(lines).encode()

    def proc_modules(self) -> bytes:
        self.modules_reads += 1
        # The third field, how many use it, changes while a module stays.
        return "".join(f"{name} 16384 {self.modules_reads} - Live {at:#x}\n" for name, at in self.modules.items()).encode()


def test_a_name_is_said_once() -> None:
    host = Host()
    host.names.want([KERNEL + 5, 0])
    assert host.names.new(0) == {KERNEL + 5: "vmalloc+0x5"}
    host.names.want([KERNEL + 5])
    assert host.names.new(1) == {}
    assert host.kallsyms_reads == 1


def test_an_address_without_a_name_does_not_cost_a_reading_for_ever() -> None:
    host = Host()
    host.names.want([0x1234])
    for second in range(3600):
        host.names.want([0x1234])
        assert host.names.new(second * 10**9) == {}
    assert host.kallsyms_reads == MAX_TRIES


def test_a_module_that_comes_later_gives_the_name() -> None:
    host = Host()
    host.names.want([MODULE + 3])
    for second in range(100):
        host.names.new(second * 10**9)
    host.modules["late"] = MODULE
    assert host.names.new(HOUR_NS) == {MODULE + 3: "init_late+0x3 [late]"}


def test_another_module_at_the_same_address_has_its_own_name() -> None:
    host = Host()
    host.modules["first"] = MODULE
    host.names.want([MODULE + 3, KERNEL])
    assert host.names.new(0)[MODULE + 3] == "init_first+0x3 [first]"
    host.modules = {"second": MODULE}
    assert host.names.new(MODULES_INTERVAL_NS) == {MODULE + 3: "init_second+0x3 [second]"}
    host.modules = {}
    assert host.names.new(2 * MODULES_INTERVAL_NS) == {}, "what was seen keeps the name that it had"
    host.modules = {"third": MODULE}
    assert host.names.new(3 * MODULES_INTERVAL_NS) == {MODULE + 3: "init_third+0x3 [third]"}


def test_a_host_that_loads_modules_all_day_costs_no_reading_of_all_symbols() -> None:
    """Each stack has a BPF program's name, ours, and one address of a module's beginning that nobody can name any more."""
    host = Host()
    host.programs["bpf_prog_enter_CPA"] = MODULE + 0x2000_0000
    host.names.want([KERNEL, MODULE + 0x2000_0001, MODULE + 0x3000_0000])
    for second in range(100):
        host.names.new(second * 10**9)
    reads = host.kallsyms_reads
    for second in range(100, 3600):
        host.modules = {} if host.modules else {"dummy": MODULE}
        host.names.new(second * 10**9)
    assert host.kallsyms_reads == reads


def test_another_program_at_the_same_address_has_its_own_name_at_the_next_reading() -> None:
    host = Host()
    host.programs["bpf_prog_one"] = MODULE
    host.names.want([MODULE])
    assert host.names.new(0) == {MODULE: "bpf_prog_one+0x0 [bpf]"}
    host.programs = {"bpf_prog_two": MODULE}
    host.names.want([MODULE, KERNEL])
    assert host.names.new(1) == {MODULE: "bpf_prog_two+0x0 [bpf]", KERNEL: "vmalloc+0x0"}


def test_where_modules_do_not_say_where_they_are_each_may_be_the_one() -> None:
    host = Host()
    names = AddressNames(host.kallsyms, lambda: b"".join(f"{name} 16384 0 - Live\n".encode() for name in host.modules))
    names.want([MODULE + 3])
    for second in range(100):
        names.new(second * 10**9)
    host.modules["late"] = MODULE
    assert names.new(HOUR_NS) == {MODULE + 3: "init_late+0x3 [late]"}


def test_modules_are_looked_at_now_and_then_only() -> None:
    host = Host()
    for at in range(0, 10 * MODULES_INTERVAL_NS, MODULES_INTERVAL_NS // 50):
        host.names.new(at)
    assert host.modules_reads == 10
    assert host.kallsyms_reads == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * PAUSE_NS), st.sampled_from(["want", "load", "unload", "nothing"]), st.integers(0, 3), st.sampled_from("abc")
        ),
        max_size=60,
    )
)
def test_after_a_pause_every_address_has_the_name_that_the_kernel_has(steps: list[tuple[int, str, int, str]]) -> None:
    host, now, wanted, told = Host(), 0, set(), {}
    for wait, what, slot, name in steps:
        now += wait
        address = MODULE + slot * 0x1000_0000
        if what == "want":
            wanted.add(address)
            host.names.want([address])
        elif what == "load" and name not in host.modules and address not in host.modules.values():
            host.modules[name] = address
        elif what == "unload":
            host.modules.pop(name, None)
        told.update(host.names.new(now))
    now += PAUSE_NS
    told.update(host.names.new(now))
    told.update(host.names.new(now + PAUSE_NS))
    for name, address in host.modules.items():
        if address in wanted:
            assert told[address] == f"init_{name}+0x0 [{name}]"
    assert told.keys() <= wanted
