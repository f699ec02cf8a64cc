# SPDX-License-Identifier: Apache-2.0
"""uaptrace: what happens to the kernel's direct map, exactly and live."""

__version__ = "0.1.0"
