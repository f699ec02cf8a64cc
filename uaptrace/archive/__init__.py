# SPDX-License-Identifier: Apache-2.0
"""Recordings of many hosts as one Parquet data set, and what it answers."""
