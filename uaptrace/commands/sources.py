# SPDX-License-Identifier: Apache-2.0
"""Where a command's snapshots come from: this kernel, a recording or a daemon. One set of options, one place that opens a feed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from uaptrace.abi.errors import UsageError
from uaptrace.commands.connecting import connect_option, open_feed

if TYPE_CHECKING:
    from uaptrace.model.feed import SnapshotFeed

F = TypeVar("F", bound=Callable[..., Any])
_SCREEN_BUDGET_S: Final = 0.2
"""Longest time that a replay keeps a screen waiting."""

replay_option = click.option("--replay", type=click.Path(path_type=Path), metavar="FILE", help="From a recording.")


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """What --connect, --replay and --at said. None of them: this kernel."""

    connect: str | None = None
    replay: Path | None = None
    at_text: str | None = None

    @property
    def live(self) -> bool:
        """Whether this kernel is traced."""
        return self.connect is None and self.replay is None

    def check(self, **for_tracing: object) -> None:
        """UsageError where options exclude each other. ``for_tracing``: values of options that need a live trace, by their names."""
        if self.connect is not None and self.replay is not None:
            raise UsageError("--connect and --replay exclude each other")
        if self.at_text is not None and self.replay is None:
            raise UsageError("--at goes with --replay")
        if not self.live:
            for name, value in for_tracing.items():
                if value is not None:
                    raise UsageError(f"--{name.replace('_', '-')} goes with tracing, not with --replay or --connect")

    @contextlib.contextmanager
    def opened(self, speed: float | None = None, *, screen: bool = False) -> Iterator[SnapshotFeed]:
        """The feed of a recording or a daemon; a live one needs live_session().

        A recording is at --at, or at its end. For a ``screen`` it goes on from --at, or from its start, at ``speed`` recorded
        seconds a second; without a screen a ``speed`` alone does the same.
        """
        with contextlib.closing(self._open(speed, screen)) as feed:
            yield feed

    def _open(self, speed: float | None, screen: bool) -> SnapshotFeed:
        if self.connect is not None:
            return open_feed(self.connect)
        if self.replay is None:
            raise ValueError("a live trace has no feed before its session runs")
        from uaptrace.session.replay import ReplaySource
        from uaptrace.tui.time_control import parse_position

        plays = screen or speed is not None
        # With --at a moment is shown, which any finite speed reaches; without it all of the recording is played at once.
        rate = (speed or 1.0) if plays or self.at_text is not None else None
        source = ReplaySource(self.replay, rate, budget_s=_SCREEN_BUDGET_S if screen else None)
        if self.at_text is not None:
            if not plays:
                source.pause(True)
            source.jump(parse_position(self.at_text, 0.0, source.length_s))
        return source


def source_options(command: F) -> F:
    """--connect, --replay and --at, given to the command as ``source``, a SnapshotSource that is checked by it."""

    @connect_option
    @replay_option
    @click.option("--at", "at_text", metavar="TIME", help="With --replay: at 90, 1:30, 50% or end.")
    @functools.wraps(command)
    def with_source(*args: Any, connect: str | None, replay: Path | None, at_text: str | None, **options: Any) -> Any:
        return command(*args, source=SnapshotSource(connect, replay, at_text), **options)

    return with_source  # type: ignore[return-value]  # click calls it by its options, not by its signature
