# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: what each command says when the kernel's verifier refuses one program, or does not compile any.

``python -m tests.vm.refused OUT.json COPIES``

The commands run from copies of the package that ``copies`` made outside of the guest. In one, the program that sees splits reads an
address without being allowed to: the refusal is the verifier's own, on the way that every program takes. In the other there is a hook
more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.vm.guest import get, wait_for
from tests.vm.guest_session import TOP, say

_BEFORE = "	address = canonical(given);\n"
_REFUSED = _BEFORE + "	if (given == 1)\n		return *(volatile int *)UAP_KERNEL_IMAGE;\n"
# As CONTRIBUTING.md says to add a hook: a line for the program, and a row of the table.
_LAST_PROGRAM = "ENTER(SHRINK_COUNT, count_enter())\n"
_NEW_PROGRAM = "ENTER(VFREE, 0)\n"
_LAST_ROW = '"plain count of allocations", counts_alone=(Counter.ALLOC_PAGES,)),\n'
_NEW_ROW = '    Hook("VFREE", ("vfree",), Need.OPTIONAL, False, "memory that vmalloc() gave goes back"),\n'
PORT = 9971
JIT = Path("/proc/sys/net/core/bpf_jit_enable")


def copies(folder: Path) -> None:
    """Both, with their programs compiled where this machine lets bcc do so; else the guest compiles them at its first start."""
    refused, added = folder / "refused", folder / "added"
    copy_with(refused, "bpf/direct_map.bpf.c", _BEFORE, _REFUSED)
    copy_with(added, "bpf/shrinker.bpf.c", _LAST_PROGRAM, _LAST_PROGRAM + _NEW_PROGRAM)
    copy_with(added, "abi/hooks.py", _LAST_ROW, _LAST_ROW + _NEW_ROW)
    for copy in (refused, added):
        command = [sys.executable, str(TOP / "packaging/compile_programs.py"), str(copy / "uaptrace/bpf")]
        subprocess.run(command, cwd="/", env=environment(copy), check=True)
        shutil.make_archive(str(copy), "tar", copy)  # a guest reads one large file sooner than many small ones


def copy_with(folder: Path, file: str, before: str, after: str) -> None:
    """Into a folder for PYTHONPATH: the package and its programs, if they are not there yet, with one text of one file replaced."""
    if not (folder / "uaptrace").exists():
        shutil.copytree(TOP / "uaptrace", folder / "uaptrace")
        shutil.copytree(TOP / "bpf", folder / "uaptrace/bpf")
    source = folder / "uaptrace" / file
    text = source.read_text()
    assert text.count(before) == 1, (file, before)
    source.write_text(text.replace(before, after))


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    say(" ".join(arguments))
    command = [sys.executable, "-m", "uaptrace", *arguments]
    done = subprocess.run(command, cwd="/", env=environment(folder), capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def served(folder: Path) -> dict[str, Any]:
    """What the daemon's endpoint says."""
    say("serve")
    ready = folder / "ready"
    command = [sys.executable, "-m", "uaptrace", "serve", "--listen", f"127.0.0.1:{PORT}", "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd="/", env=environment(folder), stderr=subprocess.PIPE, text=True) as daemon:
        wait_for(ready, daemon)
        found = {path: get(f"http://127.0.0.1:{PORT}/{path}") for path in ("metrics", "readyz")}
        daemon.terminate()
        found["status"] = {"status": daemon.wait(120)}
    return found


def main() -> None:
    out, made = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        whole = {"check": run(TOP, "check"), "check_json": run(TOP, "check", "--json"), "verify_json": run(TOP, "verify", "--json")}
        folder, more = top / "refused", top / "added"
        for copy in (folder, more):
            shutil.unpack_archive(made / f"{copy.name}.tar", copy)
        refused = {
            "check": run(folder, "check"),
            "check_json": run(folder, "check", "--json"),
            "check_verbose": run(folder, "check", "--verbose", "--json"),
            "top": run(folder, "top", "--once"),
            "top_json": run(folder, "top", "--once", "--json"),
            "verify": run(folder, "verify"),
            "verify_json": run(folder, "verify", "--json"),
            "serve": served(folder),
        }
        added = {"check_json": run(more, "check", "--json"), "serve": served(more)}
        JIT.write_text("0")
        without_jit = {"check_json": run(TOP, "check", "--json"), "verify_json": run(TOP, "verify", "--json")}
        out.write_text(json.dumps({"whole": whole, "refused": refused, "added": added, "without_jit": without_jit}))


if __name__ == "__main__":
    main()
