# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are the same on every machine and with every version of numpy: SplitMix64 by position.

numpy does not promise that its generators' methods give the same numbers in later versions; a what-if answer must.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MASK: Final = (1 << 64) - 1


def random_words(seed: int, stream: str, count: int) -> NDArray[np.uint64]:
    """``count`` words of the stream that ``seed`` and the name ``stream`` pick; shape (count,), uint64."""
    state = seed & _MASK
    for byte in stream.encode():
        state = int(_mix(np.array([state ^ byte], np.uint64))[0])
    with np.errstate(over="ignore"):
        return _mix(np.uint64(state) + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def uniform(seed: int, stream: str, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), 53 bits each; shape (count,)."""
    return np.ldexp((random_words(seed, stream, count) >> np.uint64(11)).astype(np.float64), -53)


def permutation(seed: int, stream: str, count: int) -> NDArray[np.int64]:
    """The numbers 0 to count - 1 in random order."""
    return np.argsort(random_words(seed, stream, count), kind="stable")


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
