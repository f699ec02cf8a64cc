# SPDX-License-Identifier: Apache-2.0
"""Commands run as nobody by tests that root runs."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

NOBODY = 65534
_BECOME = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
_READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@functools.cache
def as_nobody() -> tuple[str, ...]:
    """What to put before a command, empty where the tests are not run by root. Where only root can enter the checkout, nobody may read
    everything (CAP_DAC_READ_SEARCH)."""
    if os.geteuid() != 0:
        return ()
    plain = subprocess.run([*_BECOME, sys.executable, "-c", "import uaptrace"], capture_output=True, check=False)
    return _BECOME if plain.returncode == 0 else (*_BECOME, *_READ_ALL)
