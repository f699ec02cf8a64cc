# SPDX-License-Identifier: Apache-2.0
"""What a processor calls its walks of page tables for data: raw events by CPUID.

From the event tables that perf has, which are the vendors' own (linux, tools/perf/pmu-events/arch/x86: virtual-memory.json of haswellx,
broadwellx, skylakex, icelakex, sapphirerapids and graniterapids, memory.json of amdzen1, amdzen2 and amdzen4, load-store.json of
amdzen5). Hybrid processors are left out: each kind of their cores has a PMU of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from uaptrace.ebpf.perf_counters import HARDWARE_CYCLES, PerfEvent, raw_event
from uaptrace.kernel.tlb import Cpuid, vendor_of

_SIGNATURE: Final = 1


@dataclass(frozen=True, slots=True)
class WalkEvents:
    """The sum of ``walks`` are the walks for data, that of ``walk_cycles`` their cycles; no ``walk_cycles``: they are not counted."""

    walks: tuple[PerfEvent, ...]
    walk_cycles: tuple[PerfEvent, ...] = ()
    cycles: PerfEvent = HARDWARE_CYCLES


def _intel(load: int, store: int, *, cycles: bool = True, active: int = 1) -> WalkEvents:
    """WALK_COMPLETED of any page size, and WALK_ACTIVE or, with ``active`` 0, WALK_DURATION."""
    walks = tuple(raw_event(event, 0x0E) for event in (load, store))
    return WalkEvents(walks, tuple(raw_event(event, 0x10, active) for event in (load, store)) if cycles else ())


_DURATION: Final = _intel(0x08, 0x49, active=0)
_ACTIVE: Final = _intel(0x08, 0x49)
_GOLDEN_COVE: Final = _intel(0x12, 0x13)
_INTEL_MODELS: Final = {
    **dict.fromkeys((0x3C, 0x3F, 0x45, 0x46), _DURATION),  # Haswell
    **dict.fromkeys((0x3D, 0x47, 0x4F, 0x56), _DURATION),  # Broadwell
    **dict.fromkeys((0x4E, 0x55, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6), _ACTIVE),  # Skylake to Comet Lake, Cascade and Cooper Lake
    **dict.fromkeys((0x6A, 0x6C, 0x7D, 0x7E, 0x8C, 0x8D, 0xA7), _ACTIVE),  # Ice, Tiger, Rocket Lake
    **dict.fromkeys((0x8F, 0xCF), _GOLDEN_COVE),  # Sapphire and Emerald Rapids
    **dict.fromkeys((0xAD, 0xAE), _intel(0x12, 0x13, cycles=False)),  # Granite Rapids
}
"""Of family 6."""
_AMD_FAMILIES: Final = (0x17, 0x19, 0x1A)
_AMD: Final = WalkEvents((raw_event(0x45, 0xF0),))
"""ls_l1_d_tlb_miss, misses of the second level for all page sizes. No event counts the cycles."""


def walk_events(cpuid: Cpuid) -> WalkEvents | str:
    """Of the processor, or, where they are not known, its vendor, family and model as one line."""
    vendor, family, model = vendor_of(cpuid), *family_and_model(cpuid(_SIGNATURE, 0)[0])
    found = None
    if vendor == "GenuineIntel" and family == 6:
        found = _INTEL_MODELS.get(model)
    elif vendor == "AuthenticAMD" and family in _AMD_FAMILIES:
        found = _AMD
    return found or f"{vendor} family {family:#x} model {model:#x}"


def family_and_model(signature: int) -> tuple[int, int]:
    """From EAX of leaf 1 (Intel SDM, volume 2A, CPUID, "Version Information"; AMD's manual has the same)."""
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family in (6, 15):
        model |= signature >> 12 & 0xF0
    return family + (signature >> 20 & 0xFF if family == 15 else 0), model
