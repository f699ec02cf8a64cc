# SPDX-License-Identifier: Apache-2.0
"""Pictures, tables and pages made from snapshots."""
