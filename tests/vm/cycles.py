# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: all programs loaded, attached and let go again and again, in one boot.

``python -m tests.vm.cycles OUT.json [--times N]``

It is what a daemon's start and stop are to the kernel, without the time that a start of Python takes there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any

from tests.vm.guest import kernel_complaints
from tests.vm.guest_session import say
from tests.vm.soak import kernel_kib, objects
from uaptrace.kernel.procfs import read_split_counters
from uaptrace.loader.attaching import attach_hooks
from uaptrace.loader.constants import VARIABLES
from uaptrace.loader.host_facts import HostFacts, read_host_facts
from uaptrace.loader.loading import load_accepted, open_kernel
from uaptrace.loader.parent import LoaderOptions
from uaptrace.loader.plan import sized_symbols, wanted_symbols
from uaptrace.testhost.work.secret_memory import SecretMemory

EVERY = 25


def start_and_stop(options: LoaderOptions, facts: HostFacts) -> None:
    """As the loader does, in a process of its own: what that process does not give back goes when it ends."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the loader ended with an error"
        return
    status = 1
    try:
        with open_kernel(options, facts) as (_, btf, constants):
            load_accepted(options, facts, constants, btf, attach_hooks, lambda _: None)
        SecretMemory(1).close()
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=int, default=1000)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    options = LoaderOptions()
    facts = read_host_facts(wanted_symbols() | set(VARIABLES), sized=sized_symbols())
    held: list[dict[str, Any]] = []
    for number in range(1, args.times + 1):
        start_and_stop(options, facts)
        if number % EVERY == 0 or number == 1:
            splits = read_split_counters() or {}
            held.append({"cycle": number, "kernel_kib": kernel_kib(), "splits": {level.label: n for level, n in splits.items()}})
            say(f"  cycle {number}: {held[-1]}")
    args.out.write_text(json.dumps({"held": held, **objects(), "complaints": kernel_complaints()}))


if __name__ == "__main__":
    main()
