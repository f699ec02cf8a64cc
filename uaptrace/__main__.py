# SPDX-License-Identifier: Apache-2.0
"""``python -m uaptrace``."""

from uaptrace.cli import main

if __name__ == "__main__":
    main()
