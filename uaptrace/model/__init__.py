# SPDX-License-Identifier: Apache-2.0
"""The pure model: batches of records in, one frozen snapshot out. No I/O and no clock in here."""
