# SPDX-License-Identifier: Apache-2.0
"""One click command per file."""
