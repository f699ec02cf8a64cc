# SPDX-License-Identifier: Apache-2.0
"""The one error of this package."""

from __future__ import annotations


class HostError(Exception):
    """Something is missing or failed. The message is one line: what, and what to do."""
