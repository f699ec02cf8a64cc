# SPDX-License-Identifier: Apache-2.0
"""Tests with Debian's prometheus and promtool."""
