# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel still calls the hooks: what is known to stop it, and changes of the map that no hook told of.

A change that was seen by re-reading, or by the kernel's own counters, and by no hook, is a silence. The state is read again and
right at that moment, but the next change may be missed as well: the label stays until the hooks have shown that they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from uaptrace.abi.events import Counter
from uaptrace.abi.hooks import HOOKS

from .columns import Ints
from .hook_status import HookStatus, attached_labels
from .snapshot import SilenceView
from .updates import CountersReading

CONFIRM_NS: Final = 1_000_000_000
"""A split is counted by the kernel a little before the program on it runs: only what stays uncounted this long was missed."""


class Silence(StrEnum):
    """Why hooks are, or were, not called. A closed set: a metric has a series for each."""

    KPROBES_OFF = "kprobes_off"
    FTRACE_OFF = "ftrace_off"
    DETACHED = "detached"
    UNSEEN_SPLITS = "unseen_splits"
    UNSEEN_PAGES = "unseen_pages"


_OFF: Final[Mapping[str, str]] = MappingProxyType(
    {
        Silence.KPROBES_OFF: "kprobes are switched off",
        Silence.FTRACE_OFF: "ftrace is switched off",
        Silence.DETACHED: "a program was detached",
    }
)
_SPLIT_COUNTERS: Final = (Counter.SPLIT_2M, Counter.SPLIT_1G)


class Silences:
    """What is known of the hooks' silence."""

    def __init__(self, hooks: tuple[HookStatus, ...]) -> None:
        attached = attached_labels(hooks)
        self._proofs = tuple((counter,) for counter in sorted({c for hook in HOOKS if hook.label in attached for c in hook.counters}))
        self._off: Mapping[str, str] = MappingProxyType({})
        self._words: Ints | None = None
        self._found = dict.fromkeys(Silence, 0)
        self._unseen_pages = 0
        # Counters that have to move before the hooks are believed again, with what they were when the silence was found.
        self._unproven: dict[Silence, dict[tuple[int, ...], int]] = {}
        self._splits = _UncountedSplits()

    def take(self, reading: CountersReading, excused: int) -> str:
        """Take in a reading. ``excused``: calls, ever, that are known not to have been followed. Why everything must be read
        again; empty where it need not be."""
        self._words = reading.words.astype(np.int64)
        self._believe()
        for name in reading.hooks_off.keys() & _OFF.keys() - self._off.keys():
            self._found[Silence(name)] += 1
        ended = bool(self._off.keys() - reading.hooks_off.keys())
        self._off = reading.hooks_off
        pages = max(0, reading.unseen_pages - self._unseen_pages)
        self._unseen_pages += pages
        if self._off or ended:
            # With a cause that is known, the label ends with the cause: what was missed meanwhile is no news afterwards.
            self._splits.begin_again()
        splits = self._splits.take(reading, excused)
        if pages and not self._off:
            self._find(Silence.UNSEEN_PAGES, self._proofs)
        if splits:
            self._find(Silence.UNSEEN_SPLITS, (_SPLIT_COUNTERS,))
        if pages:
            return "pages changed that no hook reported"
        if splits:
            return "the kernel counted splits that no hook reported"
        return "hooks were silent for a while" if ended else ""

    @property
    def is_waiting(self) -> bool:
        """Another reading of the counters decides whether a split was missed."""
        return self._splits.is_waiting

    @property
    def is_silent(self) -> bool:
        """Hooks are not called, or not known to be."""
        return bool(self._off or self._unproven)

    def reasons(self) -> list[str]:
        """Why the hooks cannot be believed, each in one short sentence."""
        said = [f"hooks are silent: {_OFF.get(name, name)} ({what})" for name, what in self._off.items()]
        if Silence.UNSEEN_PAGES in self._unproven:
            left = len(self._unproven[Silence.UNSEEN_PAGES])
            said.append(
                f"hooks are silent: {self._unseen_pages} pages changed that none reported; {left} kinds of call are yet to be seen again"
            )
        if Silence.UNSEEN_SPLITS in self._unproven:
            said.append(f"hooks are silent: the kernel counted {self._splits.missed} splits that none reported; none was seen since")
        return said

    def view(self) -> SilenceView:
        """For snapshots."""
        active = self._off.keys() | self._unproven.keys()
        return SilenceView(
            active={silence.value: silence in active for silence in Silence},
            found={silence.value: number for silence, number in self._found.items()},
            unseen_pages=self._unseen_pages,
        )

    def _find(self, silence: Silence, proofs: tuple[tuple[int, ...], ...]) -> None:
        self._found[silence] += 1
        self._unproven[silence] = {counters: self._count(counters) for counters in proofs}

    def _believe(self) -> None:
        for silence, proofs in list(self._unproven.items()):
            left = {counters: before for counters, before in proofs.items() if self._count(counters) <= before}
            if left or not proofs:
                self._unproven[silence] = left
            else:
                del self._unproven[silence]

    def _count(self, counters: tuple[int, ...]) -> int:
        return 0 if self._words is None else sum(int(self._words[counter]) for counter in counters)


class _UncountedSplits:
    """Splits that vmstat counts and for which no program ran, whatever became of its record."""

    def __init__(self) -> None:
        self.missed = 0
        self._base: int | None = None
        self._excused = 0
        self._since_ns: int | None = None

    @property
    def is_waiting(self) -> bool:
        return self._since_ns is not None

    def begin_again(self) -> None:
        """What was missed until the next reading does not count."""
        self._base, self._since_ns = None, None

    def take(self, reading: CountersReading, excused: int) -> int:
        """Splits that are now known to have been missed, beyond those known before."""
        if not reading.quiet or reading.splits_total is None:
            return 0
        kernel = sum(int(number) for number in reading.splits_total.values())
        ours = sum(int(reading.words[counter]) for counter in _SPLIT_COUNTERS)
        # Splits of other mappings are counted by some kernels and not by others.
        excused += int(reading.words[Counter.SPLIT_OTHER])
        balance = kernel - ours
        if self._base is None or balance < self._base:
            self._base, self._excused = balance, excused
        missed = balance - self._base - (excused - self._excused)
        if missed <= 0:
            self._base, self._excused, self._since_ns = max(balance, self._base), excused, None
            return 0
        if self._since_ns is None:
            self._since_ns = reading.time_ns
        if reading.time_ns - self._since_ns < CONFIRM_NS:
            return 0
        self.missed += missed
        self._base, self._excused, self._since_ns = balance, excused, None
        return missed
