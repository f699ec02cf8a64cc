# SPDX-License-Identifier: Apache-2.0
"""What crosses a boundary: records, numbers, units and errors."""
