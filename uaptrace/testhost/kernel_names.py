# SPDX-License-Identifier: Apache-2.0
"""Which names a kernel to boot can have."""

from __future__ import annotations

import re
from typing import Final

from .images import DEBIAN_NAME
from .kernel_sources import BASES

PATCHED: Final = ("patched", *(f"patched-{base}" for base in BASES))
"""The project's own kernels. The first is built from the source that this machine's release has."""
PATCHED_NAME: Final = re.compile(rf"patched(?:-({'|'.join(map(re.escape, BASES))}))?")
KNOWN: Final = f"{', '.join(PATCHED)}, or debian-6.12 and the like"
"""For an error."""


def is_known(name: str) -> bool:
    """Whether that is the name of a kernel that can be built or fetched, as far as its form tells."""
    return bool(PATCHED_NAME.fullmatch(name) or DEBIAN_NAME.fullmatch(name))
