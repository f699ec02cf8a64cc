# SPDX-License-Identifier: Apache-2.0
"""uaptrace trial."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.core import ParameterSource

from uaptrace.abi.errors import UsageError
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.types import MAX_COUNT, Finite

if TYPE_CHECKING:
    from uaptrace.trial.conditions import Condition
    from uaptrace.trial.outcome import Outcome
    from uaptrace.trial.runs import Run
    from uaptrace.trial.trial_plan import Plan, Workload

_MEMORY: Final = re.compile(r"[1-9]\d{0,4}[MG]")
_DEFAULT_WORK: Final = "mix:steps=40"
_FOLDER: Final = "uaptrace-trial"


class _Memory(click.ParamType[str]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _MEMORY.fullmatch(value):
            self.fail(f"{value!r} is not a size such as 2G or 1536M", param, ctx)
        return str(value)


class _TrialCommand(StrictCommand):
    """What stands after ``--`` is a command to run in the guests."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        if args[at:] == ["--"]:
            raise click.UsageError("a command is missing after --", ctx)
        ctx.obj = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command(cls=_TrialCommand)
@click.argument("kernels", metavar="[BASELINE CANDIDATE...]", nargs=-1)
@click.option("--workload", "workloads", metavar="NAME[:OPTION=VALUE,...]", multiple=True,
              help=f"Work of kernel/workload; several are run one after the other. Default: {_DEFAULT_WORK}.")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs of each kernel.")
@click.option("--seed", type=click.IntRange(0, MAX_COUNT), default=1, show_default=True, help="Seed for workloads with a random order.")
@click.option("--memory", type=_Memory(), default="2G", show_default=True, help="Of each virtual machine.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Of each virtual machine.")
@click.option(
    "--timeout", "timeout_s", type=Finite(min=10, max=86400), default=900.0, show_default=True, help="Time limit of a run, in seconds."
)
@click.option("--count-instructions", is_flag=True, help="Count the instructions of the work exactly (emulated, with one CPU).")
@click.option(
    "--fail-if", "fail_if", metavar="CONDITION", multiple=True, help="Exit status 6 where it is true, such as 'splits.2m > baseline * 1.1'."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help=f"Default: {_FOLDER}, or the next free name.")
@click.option("--here", metavar="NAME", help="Run on this host, with the kernel that is running, and call it NAME.")
@click.option("--resume", is_flag=True, help="Continue the trial in DIR; failed runs are repeated.")
@click.option("--format", "format_", type=click.Choice(["text", "md", "json", "ktap", "junit"]), default="text", show_default=True,
              help="Format on standard output. DIR gets all formats.")  # fmt: skip
@click.option("--kconfig-fragment", "kconfig", is_flag=True, help="Print the configuration options that a kernel needs, and exit.")
@click.pass_obj
def trial(
    command: tuple[str, ...],
    kernels: tuple[str, ...],
    workloads: tuple[str, ...],
    repeat: int,
    seed: int,
    memory: str,
    cpus: int,
    timeout_s: float,
    count_instructions: bool,
    fail_if: tuple[str, ...],
    output: Path | None,
    here: str | None,
    resume: bool,
    format_: str,
    kconfig: bool,
) -> int:
    """Run the same workload on several kernels in virtual machines, and print one table of the results.

    A kernel is patched (the project's own), patched-6.12, debian-7.3, a kernel image, its .deb or the folder of a kernel's
    build; each with +ARGUMENTS for its command line. The first is what the others are held against.

    On a host of its own: --here NAME -o DIR as root under each kernel, then "uaptrace trial join DIR" ("join DIR NAME NAME..." for
    another order).

    \b
    Exit status: 0 nothing is broken and no condition failed, 3 an invariant is broken, 5 pages differ, 6 a condition failed,
    7 a kernel did not boot or crashed, 8 it cannot be traced or its state is not exact, 9 the work failed, 124 a run took too long.
    Of several: 3, 5, 7, 124, 8, 9, 6. 130: Ctrl-C; finished runs are kept.
    """
    if kconfig:
        from uaptrace.trial.needs import kconfig_fragment

        click.echo(kconfig_fragment(), nl=False)
        return 0
    if here is not None:
        _refuse(_NOT_HERE, "--here")
        return _here(here, kernels, _named(workloads, command, seed), repeat, seed, timeout_s, output, resume=resume)
    if kernels[:1] == ("join",):
        _refuse(_NOT_JOINED, "join")
        if command:
            raise UsageError("join runs nothing: no command after --")
        return _join(kernels[1:], fail_if, format_)
    if len(kernels) < 2:
        raise UsageError("give at least two kernels, such as: uaptrace trial debian-6.12 patched-6.12")
    from uaptrace.trial.conditions import parse_condition
    from uaptrace.trial.runs import begin
    from uaptrace.trial.trial_plan import Plan, parse_kernel

    conditions = [parse_condition(text) for text in fail_if]
    work = _work(workloads, command, seed)
    found = tuple(parse_kernel(text) for text in kernels)
    plan = Plan(found, work, repeat, seed, memory, 1 if count_instructions else cpus, timeout_s, count_instructions)
    folder = _folder(output, resume=resume)
    begin(plan, folder, resume=resume)
    runs, interrupted = _run(plan, folder)
    outcome = _judged(plan, runs, conditions)
    _answer(outcome, plan, runs, folder, format_)
    if interrupted:
        raise KeyboardInterrupt
    return int(outcome.status)


_NOT_HERE: Final = ("memory", "cpus", "count_instructions", "fail_if", "format_")
_NOT_JOINED: Final = ("workloads", "repeat", "seed", "memory", "cpus", "timeout_s", "count_instructions", "output", "resume")
"""Parameters that would change nothing."""


def _refuse(names: Sequence[str], where: str) -> None:
    """UsageError where one of these parameters was given."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            raise UsageError(f"{max(parameter.opts, key=len)} does not go with {where}")


def _here(
    label: str,
    kernels: tuple[str, ...],
    work: tuple[Workload, ...],
    repeat: int,
    seed: int,
    timeout_s: float,
    output: Path | None,
    *,
    resume: bool,
) -> int:
    """The runs of the kernel that runs now. Returns the exit status."""
    from uaptrace.trial.here import folder_here, plan_here
    from uaptrace.trial.runs import begin

    if kernels:
        raise UsageError("--here makes the runs of this kernel only: name no other one")
    if output is None:
        raise UsageError("--here needs -o DIR: the same folder for each kernel")
    plan = plan_here(label, work, repeat, seed, timeout_s)
    folder = folder_here(output.resolve(), label)
    begin(plan, folder, resume=resume)
    runs, interrupted = _run(plan, folder)
    if interrupted:
        raise KeyboardInterrupt
    outcome = _judged(plan, runs, [])
    click.echo(f"trial: {sum(run.result is not None for run in runs)} of {repeat} runs of {label} are in {folder}", err=True)
    return int(outcome.status)


def _join(names: tuple[str, ...], fail_if: tuple[str, ...], format_: str) -> int:
    """The table of runs that were made on a host. Returns the exit status."""
    from uaptrace.trial.conditions import parse_condition
    from uaptrace.trial.here import join

    if not names:
        raise UsageError("join needs the folder of the runs, such as: uaptrace trial join DIR")
    conditions = [parse_condition(text) for text in fail_if]
    folder = Path(names[0]).resolve()
    plan, runs = join(folder, names[1:])
    outcome = _judged(plan, runs, conditions)
    _answer(outcome, plan, runs, folder, format_)
    return int(outcome.status)


def _answer(outcome: Outcome, plan: Plan, runs: list[Run], folder: Path, format_: str) -> None:
    texts = _texts(outcome)
    _write(folder, texts, plan, runs)
    click.echo(texts[format_], nl=False)


def _named(workloads: tuple[str, ...], command: tuple[str, ...], seed: int) -> tuple[Workload, ...]:
    """Work for a host that is somebody's: none by default, and a command needs no checkout."""
    from uaptrace.trial.trial_plan import Workload

    if not workloads and not command:
        raise UsageError("--here runs no work by default: give --workload, or a command after --")
    return _work(workloads, command, seed) if workloads else (Workload(shlex.join(command), command),)


def _work(workloads: tuple[str, ...], command: tuple[str, ...], seed: int) -> tuple[Workload, ...]:
    """What is run in each guest, checked as far as it can be before anything boots."""
    from uaptrace.trial.runs import WORKLOAD, check_workload, need_checkout
    from uaptrace.trial.trial_plan import Workload, parse_workload

    need_checkout()
    if command and workloads:
        raise UsageError("give --workload, or a command after --, not both")
    if command:
        return (Workload(shlex.join(command), command),)
    work = [parse_workload(text, WORKLOAD, seed) for text in workloads or (_DEFAULT_WORK,)]
    for one in work:
        check_workload(one.command, one.label)
    return tuple(work)


def _folder(output: Path | None, *, resume: bool) -> Path:
    """Absolute: the guest has the same folder by the same name."""
    if output is not None:
        return output.resolve()
    if resume:
        return Path(_FOLDER).resolve()
    names = itertools.chain([_FOLDER], (f"{_FOLDER}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists()).resolve()


def _run(plan: Plan, folder: Path) -> tuple[list[Run], bool]:
    """The runs that ended, and whether Ctrl-C kept others from it."""
    from uaptrace.trial.runs import run_all

    def say(text: str) -> None:
        click.echo(f"trial: {text}", err=True)

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, leave)
    runs = []
    try:
        for run in run_all(plan, folder, say):
            runs.append(run)
    except KeyboardInterrupt:
        say(f"interrupted: {len(runs)} of {len(plan.runs())} runs are kept in {folder}; --resume goes on")
        return runs, True
    return runs, False


def _judged(plan: Plan, runs: list[Run], conditions: list[Condition]) -> Outcome:
    from uaptrace.trial.outcome import Ended, judge

    return judge(plan, [Ended(run.kernel, run.result, run.error, run.status) for run in runs], conditions)


def _texts(outcome: Outcome) -> dict[str, str]:
    from uaptrace.trial.answer_texts import to_json, to_markdown, to_text
    from uaptrace.trial.ci import to_junit, to_ktap

    return {
        "text": to_text(outcome),
        "md": to_markdown(outcome),
        "json": json.dumps(to_json(outcome), indent=1, allow_nan=False) + "\n",
        "ktap": to_ktap(outcome),
        "junit": to_junit(outcome),
    }


_FILES: Final = {"text": "trial.txt", "md": "trial.md", "json": "trial.json", "ktap": "trial.ktap", "junit": "trial.xml"}


def _write(folder: Path, texts: dict[str, str], plan: Plan, runs: list[Run]) -> None:
    from uaptrace.process.files import write_whole
    from uaptrace.reports.page.gather import gather
    from uaptrace.reports.page.page import page
    from uaptrace.trial.runs import recording_name

    for name, text in texts.items():
        write_whole(folder / _FILES[name], text.encode(errors="replace"))
    for number, kernel in enumerate(plan.kernels[1:], 1):
        pair = [next((run for run in runs if run.kernel == which and run.result is not None), None) for which in (0, number)]
        if all(pair):
            recorded = [gather(run.folder / recording_name(plan.kernels[run.kernel])) for run in pair if run is not None]
            name = "trial.html" if number == 1 else f"trial-{number}.html"
            write_whole(folder / name, page(recorded).encode(errors="replace"))
            click.echo(f"trial: {folder / name} has both maps, and the splits of {kernel.label} beside the baseline's", err=True)
