# SPDX-License-Identifier: Apache-2.0
"""Modules, loaded and unloaded."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from uaptrace.testhost.work.common import Result, WorkError, hold

MODULES: Final = ("dummy", "nbd", "zram", "loop", "veth", "ifb", "nlmon")


def loaded_modules() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def kernel_tool(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise WorkError(f"{name} is missing (package kmod)")
    return path


def pick_module() -> str:
    if not Path("/proc/modules").exists():
        raise WorkError("this kernel has no loadable modules")
    loaded = loaded_modules()
    tree = Path("/lib/modules") / os.uname().release
    # What modprobe reads; to look through all folders takes minutes where they are the host's, in a guest that is emulated.
    try:
        lines = (tree / "modules.dep").read_text().splitlines()
    except OSError as error:
        raise WorkError(f"cannot read the list of modules: {error}") from None
    names = {Path(line.partition(":")[0]).name.split(".")[0].replace("-", "_") for line in lines}
    for name in MODULES:
        if name in names and name not in loaded:
            return name
    raise WorkError(f"no module to load under {tree} (looked for: {', '.join(MODULES)})")


def module_command(*command: str) -> None:
    """Runs modprobe or rmmod. udev opens new block devices: a module in use is soon free."""
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if not done.returncode:
            return
        if "in use" not in done.stderr or time.monotonic() > deadline:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WorkError(f"{' '.join(command)}: {reason}", 1)
        time.sleep(0.1)


def load_unload(module: str, times: int) -> None:
    modprobe, rmmod = kernel_tool("modprobe"), kernel_tool("rmmod")
    for _ in range(times):
        module_command(modprobe, module)
        module_command(rmmod, module)


def modules(args: argparse.Namespace) -> Result:
    module = args.module or pick_module()
    load_unload(module, args.times)
    hold(args)
    return {"module": module, "loaded": args.times, "unloaded": args.times}
