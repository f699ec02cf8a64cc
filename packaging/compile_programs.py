# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF programs with this machine's bcc, for every kernel: ``python3 compile_programs.py FOLDER`` (bpf/).

bcc makes each map in the kernel while it compiles, so this needs root, or CAP_BPF. Without either the package is complete all the
same: a host then compiles at its first start, and needs bcc for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from uaptrace.abi.errors import CannotTraceError
from uaptrace.loader.programs import compile_now, compiler_version, shipped_with, sources
from uaptrace.loader.shipped import Shipped


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]).resolve()
    if shipped_with(folder):
        return 0
    try:
        programs = {key: compile_now(*source, folder) for key, source in sources(folder).items()}
        Shipped(compiler_version(folder), programs).write(folder)
    except CannotTraceError as error:
        print(f"the BPF programs are not compiled now, but at the first start on each host: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
