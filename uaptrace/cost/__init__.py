# SPDX-License-Identifier: Apache-2.0
"""What a split mapping costs on this host: reads of the direct map, timed by level of mapping."""
