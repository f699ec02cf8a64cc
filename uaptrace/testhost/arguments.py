# SPDX-License-Identifier: Apache-2.0
"""Values on the command lines of the test host's scripts."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A number above 0. Raises ArgumentTypeError."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"not a number above 0: {text}")
    return int(text)
