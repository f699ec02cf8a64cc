# SPDX-License-Identifier: Apache-2.0
"""``uaptrace recording``: what a recording has, what is missing, how to cut off a damaged end, and how to give one away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uaptrace.abi.units import format_bytes
from uaptrace.commands.files_given import check_files
from uaptrace.commands.progress_bar import progress_bar
from uaptrace.commands.strict import StrictCommand
from uaptrace.process.plain import plain

if TYPE_CHECKING:
    from uaptrace.model.hook_status import HookStatus
    from uaptrace.model.snapshot import HostInfo
    from uaptrace.recording import RecordingInfo


@click.group()
def recording() -> None:
    """Look at recordings (docs/recordings.md describes the format)."""


@recording.command(cls=StrictCommand)
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(file: str, as_json: bool) -> None:
    """What FILE (and the parts that follow it) has, and what is missing."""
    check_files(recordings=[Path(file)])
    from uaptrace.recording import recording_info

    with progress_bar("reading") as progress:
        found = recording_info(file, progress=progress)
    click.echo(json.dumps(info_to_json(found), indent=2) if as_json else info_to_text(found))


@recording.command(cls=StrictCommand)
@click.argument("file", type=click.Path())
def trim(file: str) -> None:
    """Cut off what follows the last whole batch of FILE, so that any Arrow reader opens it."""
    from uaptrace.recording.info import trim as trim_file

    removed = trim_file(file)
    click.echo(plain(f"{file}: {removed} bytes removed" if removed else f"{file}: nothing to remove"))


@recording.command(cls=StrictCommand)
@click.argument("file", type=click.Path())
@click.argument("output", type=click.Path(allow_dash=True))
@click.option("--overwrite", is_flag=True, help="Replace a recording that is there.")
def share(file: str, output: str, overwrite: bool) -> None:
    """Write FILE (and the parts that follow it) to OUTPUT without kernel addresses, so that others may have it.

    With addresses and names together, a reader could compute where the kernel was loaded in that boot. Names of processes, cgroups
    and functions stay.
    """
    check_files([Path(output)], recordings=[Path(file)])
    from uaptrace.recording.share import share as write_shared

    with progress_bar("writing") as progress:
        nr_records = write_shared(file, output, overwrite=overwrite, progress=progress)
    click.echo(plain(f"{output}: {nr_records:,} events, no kernel addresses"), err=output == "-")


def info_to_json(found: RecordingInfo) -> dict[str, Any]:
    """``uaptrace recording info --json``."""
    start = found.start
    return {
        "path": str(found.path),
        "version": found.version,
        "writer": found.writer,
        "host": None
        if start is None
        else {
            "hostname": start.host.name,
            "kernel_release": start.host.kernel_release,
            "boot_id": start.host.boot_id,
            "nr_cpus": start.host.nr_cpus,
            "memory_bytes": start.host.memory_bytes,
            "paging_levels": start.host.paging_levels,
            "has_series": start.host.has_series,
            "kfence": start.host.kfence,
        },
        "start_wall_time_s": None if start is None else start.wall_time_s,
        "start_time_ns": None if start is None else start.time_ns,
        "duration_s": found.duration_ns / 1e9,
        "ring_bytes": None if start is None else start.ring_bytes,
        "hooks": None
        if start is None
        else [{"name": h.name, "symbol": h.symbol, "mechanism": h.mechanism, "state": h.state, "reason": h.reason} for h in start.hooks],
        "parts": [
            {
                "path": str(p.path),
                "size_bytes": p.size_bytes,
                "rows": p.nr_rows,
                "closed": p.closed,
                "lost_bytes": p.lost_bytes,
                "reason": p.reason,
            }
            for p in found.parts
        ],
        "size_bytes": found.size_bytes,
        "records": found.nr_records,
        "records_by_kind": dict(found.records_by_kind),
        "updates_by_kind": dict(found.updates_by_kind),
        "bytes_per_event": found.bytes_per_event,
        "events_lost": found.events_lost,
        "lost_by_kind": dict(found.lost_by_kind),
        "missed_runs": found.missed_runs,
        "contexts_lost": found.contexts_lost,
        "missing": list(found.missing),
    }


def info_to_text(found: RecordingInfo) -> str:
    """``uaptrace recording info``."""
    rows: list[tuple[str, str]] = [("recording", f"{found.path}, version {found.version}, by {found.writer or 'an unknown writer'}")]
    start = found.start
    if start is not None:
        rows.append(("host", _host(start.host)))
        rows.append(("tracing began", f"{datetime.fromtimestamp(start.wall_time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"))
    rows.append(("covers", _duration(found.duration_ns / 1e9)))
    each = "" if found.bytes_per_event is None else f", {found.bytes_per_event:.1f} bytes per event"
    rows.append(("size", format_bytes(found.size_bytes) + each))
    if len(found.parts) > 1:
        rows.append(("parts", f"{len(found.parts)}: {found.parts[0].path.name} to {found.parts[-1].path.name}"))
    rows.append(("events", f"{found.nr_records:,}"))
    rows += [("", f"{n:>12,}  {kind}") for kind, n in sorted(found.records_by_kind.items(), key=lambda item: -item[1])]
    others = ", ".join(f"{kind} {n:,}" for kind, n in found.updates_by_kind.items())
    rows.append(("readings", others or "none"))
    if start is not None:
        rows.append(("hooks", _hooks(start.hooks)))
    rows.append(("events lost", "not known" if found.events_lost is None else f"{found.events_lost:,}"))
    missing = found.missing
    rows.append(("missing", missing[0] if missing else "nothing"))
    rows += [("", sentence) for sentence in missing[1:]]
    return "\n".join(f"{label:<14} {plain(text)}".rstrip() for label, text in rows)


def _hooks(hooks: Sequence[HookStatus]) -> str:
    needed = [hook.state for hook in hooks if hook.state != "not needed"]
    return f"{needed.count('attached')} of {len(needed)} attached"


def _host(host: HostInfo) -> str:
    facts = [host.name or "unnamed host", f"Linux {host.kernel_release}" if host.kernel_release else "unknown kernel"]
    if host.nr_cpus:
        facts.append(f"{host.nr_cpus} CPUs")
    if host.memory_bytes:
        facts.append(format_bytes(host.memory_bytes))
    return ", ".join([*facts, "with unmapped_alloc" if host.has_series else "without unmapped_alloc"])


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
