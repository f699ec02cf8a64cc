# SPDX-License-Identifier: Apache-2.0
"""What of a kernel's constants says where its page tables are. Apart from constants.py: the loader starts without NumPy."""

from __future__ import annotations

from uaptrace.kernel.page_tables import PagingLayout
from uaptrace.loader.program import KernelConstants


def paging_layout(constants: KernelConstants) -> PagingLayout:
    """For a PageTableReader."""
    return PagingLayout(constants.init_pgd, constants.page_offset, constants.direct_map_size, constants.levels, constants.pfn_mask)
