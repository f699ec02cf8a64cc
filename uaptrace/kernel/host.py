# SPDX-License-Identifier: Apache-2.0
"""What this host is called."""

from __future__ import annotations

from pathlib import Path

from uaptrace.model.snapshot import NO_NODE_NAME


def host_name(node: str, root: Path = Path("/")) -> str:
    """``node`` (uname -n); where nobody has set it, what /etc/hostname would set it to; empty where there is neither."""
    if node and node != NO_NODE_NAME:
        return node
    try:
        lines = (root / "etc/hostname").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((name for name in (line.strip() for line in lines) if name and not name.startswith("#")), "")
