# SPDX-License-Identifier: Apache-2.0
"""Commands run on files. For tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RECORDING = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"
UAPTRACE = [sys.executable, "-m", "uaptrace"]


def uaptrace(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UAPTRACE, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
