# SPDX-License-Identifier: Apache-2.0
"""This process and its surroundings: files, streams, limits, privileges."""
