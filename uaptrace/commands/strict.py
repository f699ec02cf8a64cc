# SPDX-License-Identifier: Apache-2.0
"""A command that does not let one of two files or addresses win silently."""

from __future__ import annotations

from collections import Counter

import click


class StrictCommand(click.Command):
    """Refuses an option that names something (it has a metavar: FILE, ADDRESS:PORT) when it is given twice.

    Of other options the last one counts, so that an alias can have defaults.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and isinstance(parameter, click.Option) and parameter.metavar and not parameter.multiple:
                raise click.UsageError(f"{parameter.opts[-1]} is given {times} times: give it once", ctx)
        return super().parse_args(ctx, args)
