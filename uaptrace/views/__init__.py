# SPDX-License-Identifier: Apache-2.0
"""What the screen and the reports share: words, lines, rates, panels and the cells of the map. Pure functions of a Snapshot."""
