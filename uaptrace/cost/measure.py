# SPDX-License-Identifier: Apache-2.0
"""Reads pages of each level in turn, round by round, on one CPU."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.units import Level
from uaptrace.cost.pages import CHAIN_READS, MIN_REGIONS, Choice, addresses, choose_pages
from uaptrace.cost.probe import Probe
from uaptrace.cost.result import Conditions, Cost, conclude
from uaptrace.kernel.page_tables import PageTableReader
from uaptrace.kernel.processor import read_processor
from uaptrace.loader.constants import VARIABLES
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.loading import open_kernel
from uaptrace.loader.paging import paging_layout
from uaptrace.loader.parent import LoaderOptions

_WARM_UP: Final = 2
"""Rounds that are not counted: caches and TLBs are as the next ones find them."""


def measure(nr_rounds: int, max_pages: int, seed: int | None = None, *, fresh: bool = False) -> Cost:
    """Time reads on this host, as root. ``max_pages``: read in a round at each level; ``fresh``: compile the program here.

    Raises CannotTraceError.
    """
    rng = np.random.default_rng(seed)
    with _tables(fresh) as (tables, page_offset):
        choice = choose_pages(tables.read_all(), max_pages, rng)
    processor = read_processor(Path("/"))
    with _one_cpu() as cpu:
        conditions = Conditions(
            processor=processor.name,
            virtual=processor.virtual,
            emulated=processor.emulated,
            cpu=cpu,
            nr_rounds=nr_rounds,
            nr_pages=choice.nr_pages,
            nr_regions=choice.nr_regions,
        )
        if not choice.pfns:
            return conclude(conditions, {}, _too_few(choice))
        rounds = _time_rounds(choice, page_offset, nr_rounds, rng, fresh=fresh)
    doubt = "" if len(rounds[Level.K4]) * 2 > nr_rounds else "pages that were read left the direct map in most rounds"
    return conclude(conditions, rounds if not doubt else {}, doubt)


def _too_few(choice: Choice) -> str:
    nr_split, nr_large = choice.nr_regions[Level.K4], choice.nr_regions[Level.M2] + choice.nr_regions[Level.G1]
    if nr_split < MIN_REGIONS:
        return f"{nr_split} regions of 2M are split on this host, and {MIN_REGIONS} with nearly all of their pages are needed"
    if nr_large < MIN_REGIONS:
        return f"{nr_large} regions of 2M are in large mappings on this host, and {MIN_REGIONS} are needed"
    return f"the {nr_split} split regions of 2M have fewer than {CHAIN_READS} pages in the direct map"


def _time_rounds(
    choice: Choice, page_offset: int, nr_rounds: int, rng: np.random.Generator, *, fresh: bool
) -> dict[Level, NDArray[np.float64]]:
    """Nanoseconds a read by level, float64, one for each round in which all could be read."""
    levels = list(choice.pfns)
    nr_chains = choice.nr_pages // CHAIN_READS
    chains = [chain for level in levels for chain in np.split(addresses(choice.pfns[level], page_offset, rng), nr_chains)]
    found: dict[Level, list[float]] = {level: [] for level in levels}
    with Probe(chains, fresh=fresh) as probe:
        for number in range(_WARM_UP + nr_rounds):
            times = {}
            # In any order: what one level leaves in the caches is not always the same next one's to meet.
            for at in rng.permutation(len(levels)).tolist():
                runs = [probe.run(at * nr_chains + chain) for chain in range(nr_chains)]
                times[levels[at]] = None if None in runs else sum(run for run in runs if run is not None) / choice.nr_pages
            if number >= _WARM_UP and None not in times.values():
                for level, ns in times.items():
                    found[level].append(ns or 0.0)
    return {level: np.array(values, np.float64) for level, values in found.items()}


@contextlib.contextmanager
def _tables(fresh: bool) -> Iterator[tuple[PageTableReader, int]]:
    """A reader of this kernel's tables, and where the direct map begins."""
    with open_kernel(LoaderOptions(compile=fresh), read_host_facts(VARIABLES)) as (memory, _, constants):
        yield PageTableReader(memory, paging_layout(constants), time.monotonic_ns), constants.page_offset


@contextlib.contextmanager
def _one_cpu() -> Iterator[int]:
    """Stay on one CPU: another one's caches and TLBs know nothing of what was read before."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)
