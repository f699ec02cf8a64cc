# SPDX-License-Identifier: Apache-2.0
"""Passwords, one at a time, and the rate limit of a web configuration."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

_CACHE_SIZE: Final = 128
_MAX_PASSWORD_BYTES: Final = 72
"""bcrypt looks at no more; the implementations that users make hashes with cut there too."""
_NOBODYS_HASH: Final = "$2b${cost:02}$abcdefghijklmnopqrstuuBFh8Gu6CIV9Qn.1GJMtDbW6qUTtEOqq"


class PasswordCache:
    """Answers of bcrypt that are known already: it takes 60 ms or more on purpose, which a scrape should not pay each time.

    Only keyed hashes of credentials are kept, under a key that lives as long as the process. Wrong ones are kept apart,
    so that guessing cannot push out the right ones.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._answers: dict[bool, OrderedDict[bytes, None]] = {True: OrderedDict(), False: OrderedDict()}

    def lookup(self, user: str, password: bytes, users: Mapping[str, str]) -> bool | None:
        """What was found for the same credentials and the same hash before; None: not known."""
        entry = self._entry(user, password, users)
        for answer, entries in self._answers.items():
            if entry in entries:
                entries.move_to_end(entry)
                return answer
        return None

    def remember(self, user: str, password: bytes, users: Mapping[str, str], answer: bool) -> None:
        """Keep what was found."""
        entries = self._answers[answer]
        entries[self._entry(user, password, users)] = None
        while len(entries) > _CACHE_SIZE:
            entries.popitem(last=False)

    def _entry(self, user: str, password: bytes, users: Mapping[str, str]) -> bytes:
        parts = (user.encode(), users.get(user, "").encode(), password)
        return hmac.digest(self._key, b"".join(len(part).to_bytes(8, "little") + part for part in parts), hashlib.sha256().name)


def cost_of(stored: str) -> int:
    """The cost in a bcrypt hash: a comparison does 2^cost rounds."""
    return int(stored.split("$")[2])


def matches(password: bytes, stored: str) -> bool:
    """Whether the password is the one of the hash. Takes long: not to be called where others wait. Holds no interpreter lock."""
    import bcrypt

    return bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], stored.encode())


def compare_in_vain(done_cost: int | None, cost: int) -> bool:
    """Take the time that a comparison of ``cost`` takes, less that of ``done_cost``, which the caller had already. False."""
    # 2^cost - 2^done = 2^done + 2^(done+1) + ... + 2^(cost-1)
    for part in [cost] if done_cost is None else range(done_cost, cost):
        matches(b"", _NOBODYS_HASH.format(cost=part))
    return False


def credentials(authorization: str) -> tuple[str, bytes] | None:
    """User and password out of an Authorization header of the scheme Basic; None where it is not one."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, ValueError):
        return None


class TokenBucket:
    """At most ``burst`` requests at once, and one more for each ``interval_s`` seconds."""

    def __init__(self, interval_s: float, burst: int, now_s: float) -> None:
        self._interval_s = interval_s
        self._burst = burst
        self._tokens = float(burst)
        self._last_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether a request at this time is allowed."""
        if self._interval_s <= 0:
            return True
        self._tokens = min(float(self._burst), self._tokens + (now_s - self._last_s) / self._interval_s)
        self._last_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
