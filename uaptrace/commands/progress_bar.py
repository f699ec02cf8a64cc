# SPDX-License-Identifier: Apache-2.0
"""A progress bar that appears only where a wait is long enough to wonder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

PATIENCE_S: Final = 2.0


@contextmanager
def progress_bar(label: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int, int], None]]:
    """Gives ``progress(done, total)``; the bar is drawn on stderr, if that is a terminal, once it has taken two seconds."""
    begin_s = clock()
    bar = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if not sys.stderr.isatty() or total <= 0:
            return
        if bar is None:
            if clock() - begin_s < PATIENCE_S or done >= total:
                return
            bar = click.progressbar(length=total, label=label, file=sys.stderr, show_pos=False)
            bar.__enter__()
        bar.update(min(done, total) - bar.pos)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
