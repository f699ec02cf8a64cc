# SPDX-License-Identifier: Apache-2.0
"""Real BPF programs for tests; a test that needs one is skipped, with the reason, where none can be loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import bpf_run

run = bpf_run.run
why_not = bpf_run.why_not


def compile_text(text: str) -> Any:
    """bpf_run.compile_text(), or a skipped test."""
    if bpf_run.why_not():
        pytest.skip(bpf_run.why_not())
    return bpf_run.compile_text(text)
