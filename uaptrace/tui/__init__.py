# SPDX-License-Identifier: Apache-2.0
"""``uaptrace top``: the screen. Importing this package loads no terminal library; ``uaptrace.tui.app`` does."""
