# SPDX-License-Identifier: Apache-2.0
"""A command that does not let one of two files or addresses win silently."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from uaptrace.process.limits import require_address_space

_RECORDINGS: Final = ("replay", "file", "recordings")
"""Parameters that name the recording that a command reads."""


class StrictCommand(click.Command):
    """Refuses an option that names something (it has a metavar: FILE, ADDRESS:PORT) when it is given twice.

    Of other options the last one counts, so that an alias can have defaults.

    What the values of a recording cause anywhere in the command is RecordingError.
    """

    def invoke(self, ctx: click.Context) -> Any:
        require_address_space()
        try:
            return super().invoke(ctx)
        except Exception as error:
            names = [value for name in _RECORDINGS for value in _paths(ctx.params.get(name))]
            if not names:
                raise
            from uaptrace.recording.errors import BY_DATA, not_usable  # imports pyarrow: only a command that has read a recording needs it

            if not isinstance(error, BY_DATA):
                raise
            raise not_usable(", ".join(names), error) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and isinstance(parameter, click.Option) and parameter.metavar and not parameter.multiple:
                raise click.UsageError(f"{parameter.opts[-1]} is given {times} times: give it once", ctx)
        return super().parse_args(ctx, args)


def _paths(value: Any) -> list[str]:
    return [str(path) for path in (value if isinstance(value, tuple) else (value,)) if isinstance(path, str | Path)]
