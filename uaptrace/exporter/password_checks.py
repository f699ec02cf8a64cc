# SPDX-License-Identifier: Apache-2.0
"""Who waits for whose password: comparisons are slow on purpose, and nobody is to pay for another's.

Each cost has a thread of its own (a lane), so that a quick comparison never waits for a slow one. In a lane, users take turns, so
that guesses for one name delay that name alone; all names that do not exist share one turn. A wrong answer takes as long for a name
that does not exist as for any that does: as long as the most expensive hash of the file.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from uaptrace.exporter.auth import PasswordCache, compare_in_vain, cost_of, matches

_USUAL_COST: Final = 10
"""What tools make hashes with; comparisons that cost more yield to whoever wants the processor."""
_NICE_PER_COST: Final = 3
_MAX_NICE: Final = 19
_NOBODY: Final = None
"""The turn that all unknown names share."""
_STOP_S: Final = 0.5

Check = Callable[[], bool]


class PasswordChecks:
    """All comparisons of one endpoint. Used from its event loop only."""

    def __init__(self) -> None:
        self._cache = PasswordCache()
        self._lanes: dict[int, _Lane] = {}

    async def check(self, user: str, password: bytes, users: Mapping[str, str], waits: Callable[[], None]) -> bool:
        """Whether the password is the user's. Answers at once where that is known already, and calls ``waits`` first where it is not."""
        answer = self._cache.lookup(user, password, users)
        if answer is None:
            waits()
            answer = await self._compare(user, password, users)
            self._cache.remember(user, password, users, answer)
        return answer

    async def _compare(self, user: str, password: bytes, users: Mapping[str, str]) -> bool:
        stored = users.get(user)
        cost = None if stored is None else cost_of(stored)
        if stored is not None and cost is not None and await self._lane(cost).take_turn(user, partial(matches, password, stored)):
            return True
        highest = max(map(cost_of, users.values()))
        return cost != highest and await self._lane(highest).take_turn(_NOBODY, partial(compare_in_vain, cost, highest))

    def _lane(self, cost: int) -> _Lane:
        if cost not in self._lanes:
            self._lanes[cost] = _Lane(min(max(cost - _USUAL_COST, 0) * _NICE_PER_COST, _MAX_NICE))
        return self._lanes[cost]

    def stop(self) -> None:
        """End the threads. A comparison that still runs may take minutes: the interpreter's end waits for it, this does not."""
        for lane in self._lanes.values():
            lane.stop()


class _Lane:
    """One thread, and who waits for it."""

    def __init__(self, nice: int) -> None:
        self._turns: dict[str | None, deque[tuple[asyncio.Future[bool], Check]]] = {}
        self._is_busy = False
        self._work: queue.SimpleQueue[tuple[asyncio.Future[bool], Check] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(nice,), name="uaptrace-password", daemon=True)
        self._thread.start()

    async def take_turn(self, user: str | None, check: Check) -> bool:
        """The check's answer, when it is this user's turn. A check whose caller has gone is not begun."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._turns.setdefault(user, deque()).append((future, check))
        self._go_on()
        return await future

    def _go_on(self) -> None:
        while self._turns and not self._is_busy:
            user = next(iter(self._turns))
            waiting = self._turns.pop(user)
            future, check = waiting.popleft()
            if waiting:
                self._turns[user] = waiting  # Behind all others.
            if not future.done():
                self._is_busy = True
                self._work.put((future, check))

    def _finished(self, future: asyncio.Future[bool], answer: bool | BaseException) -> None:
        self._is_busy = False
        if not future.done():
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._go_on()

    def _run(self, nice: int) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        while (job := self._work.get()) is not None:
            future, check = job
            answer: bool | BaseException
            try:
                answer = check()
            except Exception as error:
                answer = error
            with contextlib.suppress(RuntimeError):  # The loop may have ended meanwhile.
                future.get_loop().call_soon_threadsafe(self._finished, future, answer)

    def stop(self) -> None:
        self._work.put(None)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            # bcrypt aborts the process when it comes back and the interpreter is gone; cli.main does not let it come to that.
            atexit.register(self._thread.join)
