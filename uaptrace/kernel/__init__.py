# SPDX-License-Identifier: Apache-2.0
"""Reads this kernel: memory, page tables, struct page, procfs, debugfs. Knows no way to attach to it."""
