# SPDX-License-Identifier: Apache-2.0
"""A recording without kernel addresses, for other people: with them, whoever reads it could compute where the kernel was loaded (KASLR).

An address becomes a small number, the same wherever it stands, and keeps its name. So does the number of a stack, which is a hash of its
addresses. Page frame numbers are physical and stay, as do names of processes and cgroups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uaptrace.abi.events import Kind
from uaptrace.abi.wire import RECORD, Batch
from uaptrace.model.updates import Records, Start, Symbols, Update
from uaptrace.recording.reader import Chain, open_parts
from uaptrace.recording.waiting_rows import STACK_BYTES
from uaptrace.recording.writer import RecordingWriter

_FRAMES_OFFSET: Final = 8
"""Of a STACK record's four addresses (bpf/events.h)."""
_ADDRESS: Final = re.compile(r"(?:0x)?[fF]{3}[0-9a-fA-F]{13}\b")
"""A kernel address in text, such as a reason that the kernel gave."""
_UNNAMED: Final = "[unnamed {}]"
"""What stands for an address for which the recording has no name, with its number."""


def share(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the recording ``source``, with the parts that follow it, to ``target`` without addresses. Returns the number of records.

    One that was not ended on purpose, or is cut off, gives one that says the same. RecordingError, RecordingStoppedError and UsageError
    as the reader and the writer raise them.
    """
    chain = Chain(open_parts(source))
    try:
        with RecordingWriter(Path(target), overwrite=overwrite, sync=False) as writer:
            without = _Without()
            for batch in chain.batches():
                for update in batch.updates:
                    writer.write(without.addresses(update))
                if progress is not None:
                    progress(chain.position, chain.size_bytes)
            # Last: a name that came after this one would be another name, of another stack.
            writer.write(without.labels())
            complete = all(file.tail is not None and file.tail.complete for file in chain.files)
            writer.close(complete=complete)
            return writer.nr_records
    finally:
        chain.close()


class _Numbers(dict[int, int]):
    """Small numbers in the order in which keys are first asked for; 0, which says that there is none, stays 0."""

    def __init__(self) -> None:
        super().__init__({0: 0})

    def __missing__(self, key: int) -> int:
        self[key] = number = len(self)
        return number

    def map(self, values: NDArray[Any]) -> NDArray[Any]:
        """The numbers of all ``values``, in their type and shape."""
        found, where = np.unique(values, return_inverse=True)
        return np.array([self[value] for value in found.tolist()], values.dtype)[where].reshape(values.shape)


class _Without:
    def __init__(self) -> None:
        self._addresses = _Numbers()
        self._stacks = _Numbers()
        self._named: set[int] = {0}

    def addresses(self, update: Update) -> Update:
        """What to write in place of ``update``."""
        match update:
            case Records():
                return Records(self._records(update.batch))
            case Symbols():
                return Symbols(MappingProxyType({self._name(address): name for address, name in update.names.items()}))
            case Start():
                return replace(update, hooks=tuple(replace(h, reason=_ADDRESS.sub("[address]", h.reason)) for h in update.hooks))
            case _:
                return update

    def labels(self) -> Symbols:
        """Names for the addresses that got none."""
        unnamed = sorted(set(self._addresses.values()) - self._named)
        return Symbols(MappingProxyType({number: _UNNAMED.format(number) for number in unnamed}))

    def _name(self, address: int) -> int:
        number = self._addresses[address]
        self._named.add(number)
        return number

    def _records(self, batch: Batch) -> Batch:
        told = np.empty(len(batch), RECORD)
        for name in RECORD.names or ():
            told[name] = batch[name]
        # A process's name lies over other columns, never over this one.
        told["stack_id"] = self._stacks.map(told["stack_id"])
        stacks = np.flatnonzero(told["kind"] == Kind.STACK)
        if len(stacks):
            raw = told.view(np.uint8).reshape(len(told), RECORD.itemsize)[:, _FRAMES_OFFSET : _FRAMES_OFFSET + STACK_BYTES]
            frames = np.ascontiguousarray(raw[stacks]).view("<u8")
            raw[stacks] = self._addresses.map(frames).view(np.uint8)
        return told
