# SPDX-License-Identifier: Apache-2.0
"""uaptrace check."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from functools import partial

import click

from uaptrace.abi.hooks import Need
from uaptrace.commands.strict import StrictCommand
from uaptrace.commands.tracing import COMPILE_HELP
from uaptrace.cost.walks import walks_error
from uaptrace.kernel.container import read_container
from uaptrace.loader.constants import VARIABLES
from uaptrace.loader.designs import design_symbols, designs_of
from uaptrace.loader.host_check import CheckResult, kcore_error, load_everything, tracing_program_error
from uaptrace.loader.host_check import check as check_host
from uaptrace.loader.host_facts import read_host_facts
from uaptrace.loader.kernel_switches import off_now
from uaptrace.loader.plan import NONE, PlannedHook, sized_symbols, wanted_symbols
from uaptrace.loader.program import bpf_folder
from uaptrace.loader.programs import shipped_with


@click.command(cls=StrictCommand)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--compile", "fresh", is_flag=True, help=COMPILE_HELP)
@click.option("--verbose", is_flag=True, help="With the verifier's whole log of a refused program.")
@click.pass_context
def check(ctx: click.Context, as_json: bool, fresh: bool, verbose: bool) -> None:
    """What this host can trace: each program is loaded, and let go again. Exit status: 0 ready, 1 degraded, 2 cannot trace."""
    facts = read_host_facts(wanted_symbols() | set(VARIABLES) | design_symbols(), sized=sized_symbols())
    shipped = None if fresh else shipped_with(bpf_folder())
    load = partial(load_everything, fresh=fresh)
    compiler = shipped.compiler if shipped else None
    result = check_host(
        facts,
        kcore_error(),
        tracing_program_error(),
        load,
        off_now(),
        compiler,
        designs_of(facts.symbols),
        walks_error(),
        read_container(dict(os.environ)),
    )
    if as_json:
        document = result.to_json()
        if not verbose:
            del document["logs"]
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join([_text(result), *(_logs(result) if verbose else ())]))
    ctx.exit(result.status)


def _logs(result: CheckResult) -> Iterator[str]:
    if not result.logs:
        yield f"\nThe verifier refused no program{'' if result.tried else ': none was loaded'}."
    for hook, logs in result.logs.items():
        for log in logs:
            yield f"\n--- {hook}: the verifier's log ---\n{log}"


def _text(result: CheckResult) -> str:
    verdict = ("ready", "degraded: some figures will be missing", "this host cannot be traced")[result.status]
    lines = [f"uaptrace on Linux {platform.release()}: {verdict}", ""]
    for finding in result.findings:
        lines.append(f"  {'ok' if finding.ok else 'NO':<4}{finding.name:<18}{finding.detail}")
        if finding.mend:
            lines.append(f"      {'':<18}-> {finding.mend}")
    for need in Need:
        lines += ["", f"Hooks: {need.value}{'' if result.tried else ' (what would be tried)'}"]
        lines += [_hook_line(result, planned) for planned in result.hooks if planned.hook.need is need]
    return "\n".join(lines)


def _hook_line(result: CheckResult, planned: PlannedHook) -> str:
    how, what = planned.mechanism, planned.hook.tracepoint or f"{planned.symbol}()"
    if how == NONE:
        state = result.state(planned)
        fault = state != "not needed"
        how, what = state.upper() if fault else "--", planned.reason
        if fault and planned.symbol:
            what = f"{planned.symbol}(): {what}"
    return f"  {how:<12}{planned.hook.purpose:<48}{what}"
