# SPDX-License-Identifier: Apache-2.0
"""Runs inside the virtual machine: what each command says when the kernel's verifier refuses one program, or does not compile any.

``python -m tests.vm.refused OUT.json``

The commands run from a copy of the package in which the program that sees splits reads an address without being allowed to: the
refusal is the verifier's own, on the way that every program takes.
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
PORT = 9971
JIT = Path("/proc/sys/net/core/bpf_jit_enable")


def altered_copy(folder: Path) -> Path:
    """A folder for PYTHONPATH with the package, and with a program that no verifier takes."""
    shutil.copytree(TOP / "uaptrace", folder / "uaptrace")
    shutil.copytree(TOP / "bpf", folder / "uaptrace/bpf")
    source = folder / "uaptrace/bpf/direct_map.bpf.c"
    text = source.read_text()
    assert text.count(_BEFORE) == 1
    source.write_text(text.replace(_BEFORE, _REFUSED))
    return folder


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
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        whole = {"check": run(TOP, "check"), "check_json": run(TOP, "check", "--json"), "verify_json": run(TOP, "verify", "--json")}
        altered_copy(folder)
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
        JIT.write_text("0")
        without_jit = {"check_json": run(TOP, "check", "--json"), "verify_json": run(TOP, "verify", "--json")}
        out.write_text(json.dumps({"whole": whole, "refused": refused, "without_jit": without_jit}))


if __name__ == "__main__":
    main()
