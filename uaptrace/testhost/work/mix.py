# SPDX-License-Identifier: Apache-2.0
"""All of it, in a seeded order."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

from uaptrace.testhost.work.common import Result, hold
from uaptrace.testhost.work.modules import load_unload, pick_module
from uaptrace.testhost.work.pressure import press
from uaptrace.testhost.work.programs import load_filter
from uaptrace.testhost.work.secret_memory import SecretMemory, raise_memlock
from uaptrace.testhost.work.shrinkers import ask_shrinkers, shrinker_files


class Mix:
    """Steps at random, and what they came to."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._random = random.Random(args.seed)
        self._module = args.module or pick_module()
        self.held: list[SecretMemory] = []
        self.total: Result = {
            "seed": args.seed, "module": self._module, "steps": 0, "pages": 0, "dirty_pages": 0, "loaded": 0, "programs": 0,
            "asked_pages": 0, "pressure_rounds": 0, "killed_by_kernel": 0,
        }  # fmt: skip
        self._steps: list[Callable[[], None]] = [self._secretmem, self._modules, self._bpf, self._shrink]
        self._weights = [11, 3, 3, 5]
        if not args.no_pressure:
            self._steps.append(self._pressure)
            self._weights.append(1)

    def step(self) -> None:
        self._random.choices(self._steps, self._weights)[0]()
        self.total["steps"] += 1

    def _secretmem(self) -> None:
        nr_pages = self._random.choice([1, 7, 61, 127, 509, 1021])
        memory = SecretMemory(nr_pages)
        self.total["pages"] += nr_pages
        self.total["dirty_pages"] += memory.nr_dirty
        self.held.append(memory)
        if len(self.held) > 5:
            self.held.pop(self._random.randrange(len(self.held))).close()

    def _modules(self) -> None:
        times = self._random.choice([1, 2, 3])
        load_unload(self._module, times)
        self.total["loaded"] += times

    def _bpf(self) -> None:
        times = self._random.choice([3, 7, 13])
        for _ in range(times):
            os.close(load_filter(self._random.choice([2, 31, 1009])))
        self.total["programs"] += times

    def _shrink(self) -> None:
        nr_pages = self._random.choice([1, 31, 127, 1021])
        if files := shrinker_files(self._args.shrinker):
            ask_shrinkers(files, nr_pages)
            self.total["asked_pages"] += nr_pages

    def _pressure(self) -> None:
        result = press(0)
        self.total["pressure_rounds"] += result["rounds"]
        self.total["killed_by_kernel"] += result["killed_by_kernel"]


def mix(args: argparse.Namespace) -> Result:
    """A seeded sequence of all of the above. Without --steps, how far it gets depends on the time."""
    raise_memlock()
    work = Mix(args)
    end = time.monotonic() + args.seconds
    while work.total["steps"] < args.steps if args.steps else time.monotonic() < end:
        work.step()
    hold(args)
    for memory in work.held:
        memory.close()
    return work.total
