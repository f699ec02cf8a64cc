# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: ``python -m bench`` runs them all. None is a pass or fail test on time."""
