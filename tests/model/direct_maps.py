# SPDX-License-Identifier: Apache-2.0
"""A direct map of a few regions. For tests."""

from __future__ import annotations

from uaptrace.abi.units import Level

K4, M2, G1 = int(Level.K4), int(Level.M2), int(Level.G1)
