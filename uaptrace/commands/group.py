# SPDX-License-Identifier: Apache-2.0
"""The commands by name. Each is imported only when it is called, so that every one starts quickly."""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

from uaptrace import __version__
from uaptrace.abi.errors import ReaderGoneError, UsageError

SECTIONS: Final = {
    "See what happens": {
        "top": "The direct map and the unmapped cache, live.",
        "map": "The direct map as a picture.",
        "splits": "Who split what, when.",
        "trace": "One line for each event.",
    },
    "Keep and export": {
        "serve": "The scrape endpoint for Prometheus.",
        "record": "Write a recording, to be analysed later.",
        "recording": "What a recording has.",
        "report": "An HTML report of one recording, or of two compared.",
        "archive": "Recordings of many hosts in one place, and what they answer.",
    },
    "Check": {
        "check": "What this host can do, hook by hook, and how to fix what is missing.",
        "verify": "Compare the live state with an independent reading, page by page.",
        "audit": "Check the invariants of the unmapped cache.",
        "cost": "Measure what a read of split memory costs on this host.",
        "whatif": "What each design would have kept in large mappings.",
        "trial": "The same workload on several kernels, and one table of the results.",
    },
}
"""Commands by job, in the order in which help lists them, each with what it is for."""
COMMANDS: Final = {name: text for section in SECTIONS.values() for name, text in section.items()}


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
        except BrokenPipeError:  # Of a file that a command writes; click would make it status 1.
            raise ReaderGoneError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: listing commands must not import them all.
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="uaptrace")
def main_group() -> None:
    """Who splits the kernel's direct map, what the unmapped cache does about it, exactly and live.

    \b
    Exit status: 0 all right, 1 an error, 2 bad usage or the host cannot be traced (check: 1 degraded),
    3 audit found a broken invariant, 4 not a usable recording, 5 verify found pages that differ,
    128 + N ended by signal N (130 SIGINT, 141 the reader of the output went away).
    """


def run_command() -> int:
    """Run the command that the arguments name. Returns its status; what click has to say is a UsageError."""
    try:
        status = main_group.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        if context is None:
            raise UsageError(error.format_message()) from None
        wrong = "a command is missing" if isinstance(error, click.exceptions.NoArgsIsHelpError) else error.format_message()
        raise UsageError(f"{wrong} (try: {context.command_path} --help)") from None
    return status if isinstance(status, int) else 0
