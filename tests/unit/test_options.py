# SPDX-License-Identifier: Apache-2.0
"""Values of options: every number is finite and within limits, sizes need no power of two, and no second file or address wins silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from uaptrace.commands.group import COMMANDS, main_group
from uaptrace.commands.types import Finite, RingSize, Size

RECORDING = Path(__file__).parents[1] / "data/debian-6.1.uaptrace"
UAPTRACE = [sys.executable, "-m", "uaptrace"]
NUMBERS = (Finite, Size, click.types.IntParamType, click.types.FloatParamType)


def commands() -> list[tuple[str, click.Command]]:
    """Every command and subcommand, by how it is called."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(main_group)
    for name in COMMANDS:
        command = main_group.get_command(context, name)
        assert command is not None
        found += (
            [(f"{name} {sub}", made) for sub, made in command.commands.items()] if isinstance(command, click.Group) else [(name, command)]
        )
    return found


OPTIONS = [(f"{name} {option.opts[-1]}", command, option) for name, command in commands() for option in command.params]
NUMERIC = [case for case in OPTIONS if isinstance(case[2].type, NUMBERS)]


@pytest.mark.parametrize(("name", "command", "option"), NUMERIC, ids=[name for name, _, _ in NUMERIC])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "-1", "", "0x10", "9" * 400, "9" * 5000, "1e18", "1;2"])
def test_a_number_is_finite_and_within_limits(name: str, command: click.Command, option: click.Parameter, value: str) -> None:
    with pytest.raises(click.BadParameter):
        option.type.convert(value, option, click.Context(command))


def test_there_are_numbers_to_look_at() -> None:
    assert {"top --speed", "top --interval", "serve --speed", "record --max-size", "whatif --requests"} <= {name for name, _, _ in NUMERIC}


def test_every_command_refuses_a_second_file_or_address() -> None:
    for name, command, option in OPTIONS:
        if isinstance(option, click.Option) and option.metavar and not option.multiple:
            with pytest.raises(click.UsageError, match="given 2 times"):
                command.make_context(name, [option.opts[-1], "1", option.opts[-1], "1"])


@pytest.mark.parametrize(("text", "size"), [("100M", 100 << 20), ("1.5G", 3 << 29), ("64KiB", 1 << 16), ("64kb", 1 << 16), ("4097", 4097)])
def test_a_size_need_not_be_a_power_of_two(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["100M", "17", "2K", "4G", "0", "3M"])
def test_a_ring_is_a_power_of_two_that_the_kernel_takes(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"power of two|not a size"):
        RingSize().convert(text, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "--replay", str(RECORDING), "--speed", "nan"],
        ["top", "--replay", str(RECORDING), "--speed", "0"],
        ["serve", "--replay", str(RECORDING), "--speed", "inf"],
        ["top", "--once", "--interval", "inf"],
        ["verify", "--duration", "-1"],
        ["serve", "--replay", str(RECORDING), "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"],
        ["record", "-o", "a", "-o", "b"],
        ["top", "--replay", str(RECORDING), "--once", "--at", "nan"],
        ["splits", "--replay", str(RECORDING), "--at", "inf"],
        ["map", "--replay", str(RECORDING), "--at", "1e400"],
        ["map", "--replay", str(RECORDING), "--at", "9" * 5000 + ":00"],
    ],
)
def test_it_is_one_line_and_status_2(arguments: list[str]) -> None:
    done = subprocess.run([*UAPTRACE, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
