# SPDX-License-Identifier: Apache-2.0
"""What compilers and the verifier say, in few lines."""

from __future__ import annotations

import os


def last_words(text: str) -> str:
    """Of what a compiler or a verifier said, the lines that tell why; more of them with UAPTRACE_LOADER_LOG set."""
    lines = text.strip("\0 \n").splitlines()
    if os.environ.get("UAPTRACE_LOADER_LOG"):
        return "\n".join(lines[-12:])
    return "; ".join(line.strip() for line in lines if "error" in line.lower())[:500] or "; ".join(lines[-3:])
