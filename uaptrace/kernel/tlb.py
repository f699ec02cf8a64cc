# SPDX-License-Identifier: Apache-2.0
"""The TLB for data as the processor describes it by CPUID.

Intel: leaf 0x18, deterministic address translation parameters, or, where a processor has none, the descriptor bytes of leaf 2 (Intel SDM,
volume 2A, CPUID). AMD: leaves 0x80000005, 0x80000006, 0x80000019 (AMD64 Architecture Programmer's Manual, volume 3, appendix E). In a
virtual machine it is what the hypervisor says. A hybrid processor says it of the core that was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from uaptrace.abi.units import Level
from uaptrace.model.tlb import TlbPart

Cpuid = Callable[[int, int], tuple[int, int, int, int]]
"""EAX, EBX, ECX, EDX of a leaf and subleaf."""

_VENDOR: Final = 0
_DESCRIPTORS: Final = 2
_PARAMETERS: Final = 0x18
_EXTENDED: Final = 0x80000000
_AMD_L1: Final = 0x80000005
_AMD_L2: Final = 0x80000006
_AMD_1G: Final = 0x80000019

_DATA_TYPES: Final = frozenset({1, 3, 4})
"""Of leaf 0x18: data, unified, load only. What is for stores only (5) holds what a load brought too."""
_SIZE_BITS: Final = ((0, Level.K4), (1, Level.M2), (3, Level.G1))
"""Of leaf 0x18. Bit 2 is 4M, which 64-bit page tables do not have."""

_K4, _M2, _G1 = Level.K4, Level.M2, Level.G1
_BY_DESCRIPTOR: Final[dict[int, tuple[tuple[int, int, tuple[Level, ...]], ...]]] = {
    0x03: ((1, 64, (_K4,)),),
    0x57: ((1, 16, (_K4,)),),
    0x59: ((1, 16, (_K4,)),),
    0x5A: ((1, 32, (_M2,)),),
    0x5B: ((1, 64, (_K4,)),),
    0x5C: ((1, 128, (_K4,)),),
    0x5D: ((1, 256, (_K4,)),),
    0x63: ((1, 32, (_M2,)), (1, 4, (_G1,))),
    0x64: ((1, 512, (_K4,)),),
    0xA0: ((1, 32, (_K4,)),),
    0xB3: ((1, 128, (_K4,)),),
    0xB4: ((2, 256, (_K4,)),),
    0xBA: ((2, 64, (_K4,)),),
    0xC0: ((1, 8, (_K4,)),),
    0xC1: ((2, 1024, (_K4, _M2)),),
    0xC2: ((1, 16, (_K4, _M2)),),
    0xC3: ((2, 1536, (_K4, _M2)), (2, 16, (_G1,))),
    0xC4: ((1, 32, (_M2,)),),
    0xCA: ((2, 512, (_K4,)),),
}
"""Level, entries and sizes by descriptor byte: data and shared TLBs; those for instructions and for 4M only are left out."""


def data_tlb(cpuid: Cpuid) -> tuple[TlbPart, ...]:
    """The structures that translate data addresses; empty where the processor does not say."""
    highest = cpuid(_VENDOR, 0)[0]
    if vendor_of(cpuid) in ("AuthenticAMD", "HygonGenuine"):
        return tuple(_of_amd(cpuid))
    if highest >= _PARAMETERS and (parts := tuple(_by_parameters(cpuid))):
        return parts
    return tuple(_by_descriptors(cpuid)) if highest >= _DESCRIPTORS else ()


def tlb_of_this_processor() -> tuple[TlbPart, ...]:
    """The same of the processor that runs this; empty where uaptrace was built without a C compiler."""
    cpuid = this_cpuid()
    return data_tlb(cpuid) if cpuid else ()


def this_cpuid() -> Cpuid | None:
    """Of the processor that runs this; None where uaptrace was built without a C compiler."""
    try:
        from uaptrace.kernel.cpuid import cpuid
    except ImportError:
        return None
    return cpuid


def vendor_of(cpuid: Cpuid) -> str:
    """As the processor spells it: ``GenuineIntel``, ``AuthenticAMD``."""
    _, first, last, middle = cpuid(_VENDOR, 0)
    return b"".join(word.to_bytes(4, "little") for word in (first, middle, last)).decode("ascii", "replace")


def _by_parameters(cpuid: Cpuid) -> Iterator[TlbPart]:
    nr_subleaves = cpuid(_PARAMETERS, 0)[0]
    for subleaf in range(min(nr_subleaves, 64) + 1):
        _, ebx, nr_sets, edx = cpuid(_PARAMETERS, subleaf)
        sizes = tuple(size for bit, size in _SIZE_BITS if ebx >> bit & 1)
        if edx & 0x1F in _DATA_TYPES and sizes:
            yield TlbPart(edx >> 5 & 7, (ebx >> 16) * nr_sets, sizes)


def _by_descriptors(cpuid: Cpuid) -> Iterator[TlbPart]:
    registers = cpuid(_DESCRIPTORS, 0)
    for number, register in enumerate(registers):
        if register >> 31:  # nothing valid in it
            continue
        # The lowest byte of EAX is a count, always 1.
        for byte in register.to_bytes(4, "little")[number == 0 :]:
            for level, nr_entries, sizes in _BY_DESCRIPTOR.get(byte, ()):
                yield TlbPart(level, nr_entries, sizes)


def _of_amd(cpuid: Cpuid) -> Iterator[TlbPart]:
    highest = cpuid(_EXTENDED, 0)[0]
    if highest >= _AMD_L1:
        large, small, *_ = cpuid(_AMD_L1, 0)
        for register, size in ((large, Level.M2), (small, Level.K4)):
            if nr_entries := register >> 16 & 0xFF:
                yield TlbPart(1, nr_entries, (size,))
    for leaf, each in ((_AMD_L2, ((2, Level.M2), (2, Level.K4))), (_AMD_1G, ((1, Level.G1), (2, Level.G1)))):
        if highest >= leaf:
            for register, (level, size) in zip(cpuid(leaf, 0)[:2], each, strict=True):
                # The associativity is 0 where there is none.
                if register >> 28 and (nr_entries := register >> 16 & 0xFFF):
                    yield TlbPart(level, nr_entries, (size,))
