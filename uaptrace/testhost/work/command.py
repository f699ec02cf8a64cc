# SPDX-License-Identifier: Apache-2.0
"""Command line of kernel/workload. Every verb prints one JSON object that says what it did.

The default amounts are prime numbers, so that a counter that is off by a factor, or mixed up with another, cannot come out right by
chance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from uaptrace.testhost.arguments import positive
from uaptrace.testhost.work.common import Result, WorkError
from uaptrace.testhost.work.mix import mix
from uaptrace.testhost.work.modules import modules
from uaptrace.testhost.work.pressure import pressure
from uaptrace.testhost.work.programs import bpf, pipes, storm
from uaptrace.testhost.work.secret_memory import processes, secretmem
from uaptrace.testhost.work.shrinkers import shrink


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WorkError(message)


def duration(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return value


def parse() -> argparse.Namespace:
    common = Parser(add_help=False)
    common.add_argument("--ready", type=Path, metavar="FILE", help="create FILE when everything is done and still held")
    common.add_argument("--until", type=Path, metavar="FILE", help="hold until FILE exists")
    common.add_argument("--check", action="store_true", help="only check the arguments")
    common.add_argument("--hold", type=duration, default=0, metavar="SECONDS", help="seconds to hold it")
    parser = Parser(prog="kernel/workload", description="Makes the kernel change its direct map, in exactly known amounts.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], Result], text: str) -> Parser:
        added = verbs.add_parser(name, parents=[common], help=text, description=text)
        added.set_defaults(run=run)
        return added

    one = verb("secretmem", secretmem, "touch pages of a memfd_secret() mapping, then free them")
    one.add_argument("--pages", type=positive, default=1021)
    one.add_argument("--times", type=positive, default=1, help="number of times, one mapping after the other")
    one.add_argument("--order", choices=["up", "random"], default="up", help="the order in which pages are touched")
    one.add_argument("--seed", type=int, default=1, help="seed of the random order")
    one = verb("processes", processes, "start processes, one after the other, that each touch a page of a memfd_secret() mapping")
    one.add_argument("--times", type=positive, default=127)
    one = verb("modules", modules, "load and unload a module")
    one.add_argument("--times", type=positive, default=7)
    one.add_argument("--module", help="name of the module (default: a small one that is there)")
    one = verb("shrink", shrink, "ask a shrinker for pages")
    one.add_argument("--pages", type=positive, default=127)
    one.add_argument("--shrinker", default="mm-unmapped-alloc", help="name of the shrinker, or all")
    one = verb("pressure", pressure, "take memory, in a child, until the kernel reclaims")
    one.add_argument("--seconds", type=duration, default=11)
    one = verb("pipes", pipes, "fill pipes with ordinary pages that cannot be moved, then free them")
    one.add_argument("--pages", type=positive, default=8191)
    one = verb("bpf", bpf, "load BPF programs")
    one.add_argument("--times", type=positive, default=61)
    one.add_argument("--instructions", type=positive, default=31)
    one.add_argument("--keep", action="store_true", help="keep all loaded to the end, instead of one at a time")
    one = verb("storm", storm, "start processes, which does nothing to the direct map: a control")
    one.add_argument("--times", type=positive, default=127)
    one = verb("mix", mix, "all of them in a seeded order")
    one.add_argument("--seconds", type=duration, default=61)
    one.add_argument("--steps", type=positive, help="number of steps, however long they take")
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--module", help="which module")
    one.add_argument("--shrinker", default="mm-unmapped-alloc", help="name of the shrinker, or all")
    one.add_argument("--no-pressure", action="store_true", help="leave out memory pressure")
    args = parser.parse_args()
    if getattr(args, "instructions", 2) < 2:
        raise WorkError("--instructions must be 2 or more")
    return args


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    try:
        return _run(parse())
    except WorkError as error:
        print(f"workload: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace) -> int:
    if args.check:
        return 0
    if os.geteuid() != 0:
        raise WorkError("run as root")
    try:
        result = args.run(args)
    except OSError as error:
        raise WorkError(f"{error.filename or args.verb}: {error.strerror}", 1) from error
    print(json.dumps({"verb": args.verb, **result}), flush=True)
    return 0
