# SPDX-License-Identifier: Apache-2.0
"""Writes the completions of bash, zsh and fish, as click makes them: ``python3 completion.py SHARE``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from click.shell_completion import get_completion_class

from uaptrace.commands.group import main_group

PLACES: Final = {
    "bash": "bash-completion/completions/uaptrace",
    "zsh": "zsh/vendor-completions/_uaptrace",
    "fish": "fish/vendor_completions.d/uaptrace.fish",
}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for shell, place in PLACES.items():
        made = get_completion_class(shell)
        assert made is not None
        # For bash, source() would ask the bash of this machine for its version; the text does not depend on it.
        completion = made(main_group, {}, "uaptrace", "_UAPTRACE_COMPLETE")
        file = Path(sys.argv[1]) / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(completion.source_template % completion.source_vars())
    return 0


if __name__ == "__main__":
    sys.exit(main())
