# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is imported only when it is called, so that every one starts quickly."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

from uaptrace import __version__
from uaptrace.errors import UaptraceError
from uaptrace.plain import plain

COMMANDS: Final = {
    "check": "What this host can do, hook by hook, and how to mend what is missing.",
    "top": "The direct map and the unmapped cache, live.",
    "serve": "The scrape endpoint for Prometheus.",
    "trace": "One line for each event.",
    "record": "Write a recording that answers questions later.",
    "map": "The direct map as a picture.",
    "splits": "Who split what, when.",
    "verify": "Compare the live state with an independent reading, page by page.",
    "audit": "Check the invariants of the unmapped cache.",
    "report": "A page for people out of one recording, or two to compare.",
    "recording": "What a recording has.",
    "whatif": "What each grouping design would have kept.",
}
BROKEN_PIPE_STATUS: Final = 141
"""128 + SIGPIPE, as a shell reports it."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"uaptrace.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has enough of it. Python would complain again when it flushes at exit; click would make it status 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise click.exceptions.Exit(BROKEN_PIPE_STATUS) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: listing commands must not import them all.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uaptrace")
def main_group() -> None:
    """Who splits the kernel's direct map, what the unmapped cache does about it, exactly and live.

    \b
    Exit status: 0 all right, 1 an error, 2 bad usage or the host cannot be traced (check: 1 degraded),
    3 audit found a broken invariant, 4 not a usable recording, 5 verify found pages that differ.
    """


def main() -> None:
    """Entry point: every expected error is one line on standard error and its documented status."""
    # numpy's BLAS starts a thread for each processor when it is loaded; nothing here multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        status = main_group.main(standalone_mode=False)
    except UaptraceError as error:
        _complain(str(error))
        status = error.exit_status
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _complain(f"{error.format_message()} (try: {error.ctx.command_path} --help)")
        else:
            _complain(error.format_message())
        status = 2
    except (KeyboardInterrupt, click.Abort):
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _complain(text: str) -> None:
    line = plain(" ".join(text.split()))
    click.echo(f"uaptrace: {line}", err=True)


if __name__ == "__main__":
    main()
