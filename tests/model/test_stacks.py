# SPDX-License-Identifier: Apache-2.0
"""A stack shows who called whom in the kernel, not that uaptrace watched."""

from uaptrace.model.causes import classify
from uaptrace.model.snapshot import Cause
from uaptrace.model.stacks import without_tracer

# As read on the patched 6.1 kernel by tests/vm/guest.py, phase "mix", split of a 2M mapping.
WATCHED = (
    "bpf_prog_6f973aa4f0e005be_kfunc__flush_tlb_all+0x3c5 [bpf]",
    "bpf_trampoline_6442456031+0x39 [bpf]",
    "flush_tlb_all+0x5",
    "__change_page_attr_set_clr+0x3e6",
    "bpf_trampoline_6442482537+0x76 [bpf]",
    "__change_page_attr_set_clr+0x5",
    "set_direct_map_invalid_noflush+0x69",
    "bpf_trampoline_6442482499+0x6e [bpf]",
    "set_direct_map_invalid_noflush+0x5",
    "unmap_pages+0x35",
    "unmapped_pages_alloc+0x1a5",
    "bpf_trampoline_6442466514+0x76 [bpf]",
    "unmapped_pages_alloc+0x5",
    "__alloc_pages+0x1cb",
    "secretmem_fault+0x8f",
)


def test_the_tracer_is_not_on_the_stack_and_not_the_cause() -> None:
    stack = without_tracer(WATCHED)
    assert stack == (
        "flush_tlb_all+0x5",
        "__change_page_attr_set_clr+0x3e6",
        "set_direct_map_invalid_noflush+0x69",
        "unmap_pages+0x35",
        "unmapped_pages_alloc+0x1a5",
        "__alloc_pages+0x1cb",
        "secretmem_fault+0x8f",
    )
    assert classify(stack) is Cause.UNMAPPED_ALLOC


def test_loading_a_program_stays_a_cause() -> None:
    stack = ("set_memory_ro+0x10", "bpf_trampoline_link_prog+0x20", "bpf_trampoline_update+0x9", "bpf_tracing_prog_attach+0x1")
    assert without_tracer(stack) == stack
    assert classify(stack) is Cause.BPF


def test_recursion_without_a_trampoline_is_kept() -> None:
    stack = ("__change_page_attr_set_clr+0x10", "__change_page_attr_set_clr+0x2b1")
    assert without_tracer(stack) == stack
