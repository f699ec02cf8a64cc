# SPDX-License-Identifier: Apache-2.0
"""Who split what, and why: told from the stack, whatever arrives first."""

from __future__ import annotations

import pytest

from tests.model.build import Ring, cut, start, traced
from uaptrace.abi.events import Flag, Kind
from uaptrace.abi.units import Level
from uaptrace.model.causes import classify
from uaptrace.model.ledger import MAX_GROUPS, MAX_ROWS
from uaptrace.model.processes import MAX_PROCESSES
from uaptrace.model.processes import MAX_ROWS as MAX_PROCESS_ROWS
from uaptrace.model.snapshot import Cause, Snapshot
from uaptrace.model.state import KernelState
from uaptrace.model.updates import Cgroups, Records, Symbols

CPA = ("__change_page_attr_set_clr+0x3e6", "change_page_attr_set_clr+0xd2")
DELETE_MODULE = "__do_sys_delete_module+0x2c8"
STACKS: list[tuple[Cause, tuple[str, ...]]] = [
    # A fault on memfd_secret() memory on a kernel with the cache, and on one without (Debian 6.1).
    (
        Cause.UNMAPPED_ALLOC,
        (
            CPA[0],
            "set_direct_map_invalid_noflush+0x69",
            "unmap_pages+0x35",
            "unmapped_pages_alloc+0x1a5",
            "__alloc_pages+0x1cb",
            "secretmem_fault+0x8f",
        ),
    ),
    (Cause.UNMAPPED_ALLOC, (CPA[0], "set_direct_map_default_noflush+0x69", "unmapped_alloc_scan_objects+0x90", "do_shrink_slab+0x1")),
    (Cause.SECRETMEM, (CPA[0], "set_direct_map_invalid_noflush+0x69", "secretmem_fault+0x121", "__do_fault+0x33")),
    (Cause.MODULE, (*CPA, "set_memory_ro+0x26", "frob_text.constprop.0+0x20", "module_enable_ro+0x84", "load_module+0x1b8c")),
    (Cause.MODULE, (*CPA, "set_memory_nx+0x26", "do_free_init+0x40", "process_one_work+0x1d0")),
    (Cause.MODULE, (*CPA, "set_memory_x+0x26", "execmem_cache_free+0x9", "free_module+0x1")),
    # rmmod on Debian's 6.1.
    (Cause.MODULE, (CPA[0], "set_direct_map_invalid_noflush+0x63", "__vunmap+0x174", "__do_sys_delete_module+0x274", "do_syscall_64+0x5d")),
    # BPF gets its memory from the module allocator.
    (Cause.BPF, (*CPA, "set_memory_x+0x26", "execmem_alloc+0x30", "bpf_jit_alloc_exec+0x10", "bpf_prog_pack_alloc+0x8")),
    (Cause.BPF, (*CPA, "set_memory_ro+0x26", "bpf_trampoline_update.constprop.0+0x210", "__bpf_trampoline_link_prog+0x1")),
    (Cause.BPF, (*CPA, "module_alloc+0x30", "bpf_prog_pack_alloc+0x8", "bpf_int_jit_compile+0x1")),
    (Cause.FTRACE, (*CPA, "set_memory_ro+0x26", "create_trampoline+0x14f", "arch_ftrace_update_trampoline+0x1")),
    (Cause.KPROBE, (*CPA, "set_memory_rox+0x26", "alloc_insn_page+0x30", "__get_insn_slot+0x9", "arch_prepare_kprobe+0x1")),
    (Cause.KPROBE, (*CPA, "module_alloc+0x30", "alloc_optinsn_page+0x5", "arch_prepare_optimized_kprobe+0x1", "register_kprobe+0x3")),
    # A probe that a module registers while it is loaded is a probe.
    (Cause.KPROBE, (*CPA, "register_kprobe+0x1", "init+0x5 [probe]", "do_one_initcall+0x5", "do_init_module+0x1", "load_module+0x1")),
    (Cause.DRIVER, (*CPA, "set_memory_uc+0x26", "probe_device+0x88 [some_driver]", "do_init_module+0x4a", "load_module+0x1")),
    (Cause.DRIVER, (CPA[0], "set_pages_array_wc+0x15", "ttm_pool_alloc+0x1 [ttm]")),
    (Cause.DRIVER, (CPA[0], "dma_set_decrypted+0x15", "dma_direct_alloc+0x1")),
    # Captured: rmmod on Debian's 6.12, modprobe on its 7.3 (tests/data/split_causes.py);
    # a page that fails (tests/vm/test_memory_failure.py).
    (
        Cause.MODULE,
        (
            "flush_tlb_all+0x9",
            "__change_page_attr_set_clr+0x4a8",
            "set_direct_map_invalid_noflush+0x72",
            "vfree.part.0+0x1c5",
            DELETE_MODULE,
        ),
    ),
    (Cause.MODULE, ("__change_page_attr_set_clr+0x5c7", "change_page_attr_set_clr+0x118", "set_memory_ro+0x28", "do_init_module+0xea")),
    (
        Cause.MEMORY_FAILURE,
        (*CPA, "set_mce_nospec+0x4b", "uc_decode_notifier+0x8e", "blocking_notifier_call_chain+0x59", "mce_gen_pool_process+0x3a"),
    ),
    # The functions are those of the kallsyms of Debian's 6.12 and 7.3; what calls what was read in the sources.
    (Cause.KEXEC, (*CPA, "set_memory_x+0x26", "machine_kexec_prepare+0x1", "do_kexec_load+0x1")),
    (Cause.KEXEC, (CPA[0], "kexec_mark_range.isra.0+0x1", "arch_kexec_protect_crashkres+0x1", "__do_sys_kexec_file_load+0x1")),
    (Cause.CONFIDENTIAL, (CPA[0], "__set_memory_enc_pgtable+0x1", "set_memory_decrypted+0x1", "init+0x1 [sev_guest]")),
    (Cause.CONFIDENTIAL, (CPA[0], "set_direct_map_invalid_noflush+0x1", "rmpupdate+0x1", "rmp_make_private+0x1")),
    (Cause.HIBERNATION, (CPA[0], "set_direct_map_default_noflush+0x1", "swsusp_save+0x1", "swsusp_arch_suspend+0x1")),
    # A kworker cleans the cache of executable memory for nobody in particular; with a module on the stack it is the module's.
    (Cause.EXECMEM, (*CPA, "set_memory_rox+0x1", "execmem_cache_clean+0x1", "execmem_cache_clean_work+0x1", "process_one_work+0x1")),
    (Cause.MODULE, (*CPA, "set_memory_nx+0x1", "execmem_cache_free_slow+0x1", "execmem_free+0x1", "free_module+0x1")),
    (Cause.OTHER, (*CPA, "set_memory_4k+0x15", "kfence_init_pool+0x1")),
    (Cause.OTHER, ("0xffffffff81000000",)),
    (Cause.OTHER, ()),
]


@pytest.mark.parametrize(("cause", "stack"), STACKS)
def test_a_stack_tells_its_cause(cause: Cause, stack: tuple[str, ...]) -> None:
    assert classify(stack) is cause


def snapshot(state: KernelState) -> Snapshot:
    return state.snapshot(10**12, 0.0)


def counted(state: KernelState) -> dict[tuple[Level, Cause], int]:
    return {key: n for key, n in snapshot(state).splits.by_cause.items() if n}


def test_a_split_has_its_process_stack_cgroup_and_pages() -> None:
    state = traced(64)
    ring = Ring().task(7, "modprobe").stack(3, [0x10, 0x20, 0x30, 0x40, 0x50])
    for i in range(12):
        ring.split((2 + i) * 512, tid=7, stack_id=3, cgroup_id=99)
    state.update(Records(ring.batch()))
    assert counted(state) == {(Level.M2, Cause.OTHER): 12}  # no names yet
    names = {0x10: CPA[0], 0x20: "set_memory_ro+0x1", 0x30: "module_enable_ro+0x1", 0x40: "load_module+0x1"}
    state.update(Symbols(names))
    state.update(Cgroups({99: "/system.slice/udev.service"}))
    assert counted(state) == {(Level.M2, Cause.MODULE): 12}
    (row,) = snapshot(state).split_rows
    assert (row.cause, row.comm, row.tgid, row.count) == (Cause.MODULE, "modprobe", 7, 12)
    assert row.cgroup == "/system.slice/udev.service"
    assert row.stack == (*names.values(), "0x50")
    assert row.pfns == tuple((2 + i) * 512 for i in range(8))
    assert row.first_time_ns < row.last_time_ns


def test_a_stack_may_come_after_its_split() -> None:
    state = traced()
    state.update(Symbols({0x10: "secretmem_fault+0x1"}))
    state.update(Records(Ring().split(512, tid=7, stack_id=3).batch()))
    assert counted(state) == {(Level.M2, Cause.OTHER): 1}
    state.update(Records(Ring().stack(3, [0x10]).batch()))
    assert counted(state) == {(Level.M2, Cause.SECRETMEM): 1}


def test_what_uaptrace_splits_is_its_own_and_what_is_elsewhere_is_apart() -> None:
    state = KernelState()
    state.update(start(self_tgids=frozenset({42})))
    ring = Ring().stack(3, [0x10])
    ring.split(0, tid=42, stack_id=3).split(512, tid=7, stack_id=3).split(1 << 18, tid=7, level=Level.G1, flags=Flag.IN_CACHE)
    ring.split(0, tid=7, flags=Flag.OTHER_MAPPING).split(4096, tid=7, flags=Flag.KERNEL_IMAGE)
    state.update(Symbols({0x10: "load_module+0x1"}))
    state.update(Records(ring.batch()))
    assert counted(state) == {
        (Level.M2, Cause.SELF): 1,
        (Level.M2, Cause.MODULE): 1,
        (Level.M2, Cause.OTHER): 1,
        (Level.G1, Cause.UNMAPPED_ALLOC): 1,
    }
    assert snapshot(state).splits.other_mappings == 1


def test_no_cause_is_left_out() -> None:
    keys = set(snapshot(traced()).splits.by_cause)
    assert keys == {(level, cause) for level in (Level.M2, Level.G1) for cause in Cause}


def test_more_groups_than_are_kept_lose_no_split_and_no_cause() -> None:
    state = KernelState()
    state.update(start())
    state.update(Symbols({0x10: "load_module+0x1", 0x20: "bpf_prog_pack_alloc+0x1"}))
    ring = Ring().stack(1, [0x10]).stack(2, [0x20])
    for tgid in range(MAX_GROUPS + 2000):
        ring.split(tgid * 512, tid=tgid + 1, stack_id=1 + tgid % 2)
    state.update(Records(ring.batch()))
    assert sum(counted(state).values()) == MAX_GROUPS + 2000
    assert set(counted(state)) == {(Level.M2, Cause.MODULE), (Level.M2, Cause.BPF)}
    assert len(snapshot(state).split_rows) == MAX_ROWS


def test_what_each_process_did() -> None:
    state = traced()
    ring = Ring().task(7, "secret").stack(1, [1, 2, 3, 4, 5, 6])
    ring.request(7).refill(7, 2048).split(2048, tid=7).unmap(2048, tid=7).alloc(7, 2048, 3).alloc(7, 0, flags=Flag.FAILED)
    ring.add(Kind.FREE, pfn=2048, order=3, tid=71, tgid=7).add(Kind.SHRINK, tid=9, tgid=8)
    for batch in cut(ring.batch(), [3, 2, 4]):
        state.update(Records(batch))
    first, second = snapshot(state).processes
    assert (first.tgid, first.comm, first.events) == (7, "secret", 7)
    assert (first.allocated_pages, first.freed_pages, first.set_direct_map_calls, first.splits, first.refills) == (8, 8, 1, 1, 1)
    assert (second.tgid, second.events) == (8, 1)


def test_the_least_active_processes_are_put_together() -> None:
    state = traced()
    ring = Ring()
    total = 0
    for round_ in range(3):
        for tgid in range(1, MAX_PROCESSES):
            ring.request(tgid + round_ * 10_000)
            total += 1
        for _ in range(5):
            ring.request(3_999_999)
            total += 1
    for batch in cut(ring.batch(), [1000] * 20):
        state.update(Records(batch))
    rows = snapshot(state).processes
    assert len(rows) <= MAX_PROCESS_ROWS
    others = next(row for row in rows if row.comm == "(others)")
    assert others.tgid == 0
    assert rows[0] is others
    assert rows[1].tgid == 3_999_999
    assert rows[1].events == 15
    processes = state._processes
    assert processes._sums[: processes._nr_rows, 0].sum() == total
    assert processes._nr_rows <= MAX_PROCESSES


def test_a_process_that_changes_its_name_has_the_last_one() -> None:
    state = traced()
    state.update(Records(Ring().task(7, "sh").request(7).task(7, "a-name-of-sixteen").request(7).batch()))
    assert [row.comm for row in snapshot(state).processes] == ["a-name-of-sixtee"]
