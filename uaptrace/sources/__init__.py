# SPDX-License-Identifier: Apache-2.0
"""Where records and readings come from: procfs, debugfs, page tables, the ring, live and replay."""
