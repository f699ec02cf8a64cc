# SPDX-License-Identifier: Apache-2.0
"""Writes the manual pages, one for each command, from what the commands say of themselves: ``python3 manual.py FOLDER``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from uaptrace import __version__
from uaptrace.commands.group import COMMANDS, main_group

FILES = (
    ("/var/cache/uaptrace", "Compiled programs. Only root may write there."),
    ("/etc/default/uaptrace", "Options of the services uaptrace.service and uaptrace-record.service (Debian package)."),
)


def roff(text: str) -> str:
    """Text as man(7) has it: nothing in it is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n"))


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command, click.Context]]:
    """A command and all below it: names from the first to its own, the command, its context."""
    context = click.Context(command, info_name=" ".join(path))
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


def paragraphs(help_text: str | None) -> Iterator[str]:
    """The paragraphs of a help text, in man(7); what click prints line by line stays so."""
    for text in re.split(r"\n\s*\n", inspect.cleandoc(help_text or "").partition("\f")[0]):
        if text.startswith("\b"):
            yield ".PP\n.nf\n" + roff(text.removeprefix("\b").strip("\n")) + "\n.fi"
        elif text:
            yield ".PP\n" + roff(" ".join(text.split()))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """One .TP for each option."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield f".TP\n\\fB{roff(record[0])}\\fR\n{roff(' '.join(record[1].split()))}"


def page(path: tuple[str, ...], command: click.Command, context: click.Context) -> str:
    """The page of one command."""
    name = "-".join(path)
    summary = COMMANDS.get(path[-1]) if len(path) == 2 else None
    summary = summary or " ".join(inspect.cleandoc(command.help or command.short_help or name).split("\n\n")[0].split())
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH {name.upper()} 1 "" "uaptrace {__version__}" "User commands"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{roff(' '.join(path))}\\fR {roff(usage)}",
        ".SH DESCRIPTION",
        *paragraphs(command.help),
        ".SH OPTIONS",
        *options(command, context),
    ]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            lines.append(f".TP\n\\fB{roff(name)}\\-{roff(below)}\\fR(1)\n{roff(COMMANDS.get(below) or found.get_short_help_str(200))}")
    if len(path) > 1:
        lines += [".SH EXIT STATUS", "See \\fBuaptrace\\fR(1)."]
    lines.append(".SH FILES")
    lines += [f".TP\n\\fI{roff(file)}\\fR\n{roff(what)}" for file, what in FILES]
    others = ["uaptrace", "uaptrace-check", "uaptrace-top", "uaptrace-serve", "uaptrace-record"]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{roff(other)}\\fR(1)" for other in others if other != name)]
    return "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path, command, context in commands(main_group, ("uaptrace",)):
        (folder / f"{'-'.join(path)}.1").write_text(page(path, command, context))
    return 0


if __name__ == "__main__":
    sys.exit(main())
