# SPDX-License-Identifier: Apache-2.0
"""What the audit finds, in the words that it is shown in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from uaptrace.abi.events import Kind

from .codes import KindCode
from .columns import Columns
from .names import Names, number_of
from .snapshot import Violation
from .unmapped_cache import FREE, HANDED_OUT


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation as it is kept; names are looked up when it is shown."""

    number: int
    time_ns: int
    pfn: int
    nr_pages: int
    expected: str
    seen: str
    process: int
    stack: int
    """Keys of model.names, which stay the same when the number of a process or a stack is used again."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    time_ns: int
    nr_pages: int
    process: int


def waiting_request(columns: Columns, at: int) -> WaitingRequest:
    """The request of that record."""
    time_ns, nr_pages = (int(columns.column(name)[at]) for name in ("time_ns", "nr_pages"))
    return WaitingRequest(time_ns, nr_pages, columns.process(at))


def never_entered(request: WaitingRequest, time_ns: int) -> Finding:
    return Finding(1, time_ns, 0, request.nr_pages, "unmapped_pages_alloc() is entered", "the request never entered it", request.process, 0)


def not_from_cache(columns: Columns, at: int) -> Finding:
    """A page that secret memory was given and that is in the direct map: whoever asked for it with the flag did not get it of the cache."""
    return finding_of(columns, at, 1, "a page of the unmapped cache", "a page that is in the direct map")


EXPECTED: Final = {
    KindCode.REFILL: "a chunk with no page that is in the cache",
    KindCode.ALLOC: "a block that is free in the cache",
    KindCode.FREE: "a block that is handed out",
    KindCode.RELEASE: "a block that is free in the cache",
}


def state_seen(kind: Kind, state: int) -> str:
    was = "free in the cache" if state & FREE else "handed out" if state & HANDED_OUT else "not in the cache"
    verb = {KindCode.REFILL: "refilled", KindCode.ALLOC: "handed out", KindCode.FREE: "freed", KindCode.RELEASE: "released"}[kind]
    return f"{verb} while it was {was}"


def finding_of(columns: Columns, at: int, number: int, expected: str, seen: str) -> Finding:
    time_ns, pfn, nr_pages = (int(columns.column(name)[at]) for name in ("time_ns", "pfn", "nr_pages"))
    return Finding(number, time_ns, pfn, nr_pages, expected, seen, columns.process(at), columns.stack(at))


def present_pages(columns: Columns, at: int) -> tuple[int, int]:
    return int(columns.column("nr_present")[at]), int(columns.column("nr_pages")[at])


def mapped_block(columns: Columns, at: int) -> Finding:
    nr, of = present_pages(columns, at)
    return finding_of(columns, at, 2, "no page in the direct map", f"{nr} of {of} pages in it")


def half_refilled(columns: Columns, at: int) -> Finding:
    nr, of = present_pages(columns, at)
    seen = f"{nr} of {of} pages still in it" if nr else "the flush leaves out a part of the chunk"
    return finding_of(columns, at, 3, "all pages out of the direct map and flushed", seen)


def half_restored(columns: Columns, at: int) -> Finding:
    nr, of = present_pages(columns, at)
    return finding_of(columns, at, 8, "every page in the direct map", f"{of - nr} of {of} pages absent")


def unclean_block(columns: Columns, at: int) -> Finding:
    seen = f"{int(columns.column('aux')[at])} bytes of its last owner"
    return finding_of(columns, at, 9, "only zero bytes in a page that was handed out before", seen)


def finding_at(finding: Finding, pfn: int, nr_pages: int) -> Finding:
    return Finding(finding.number, finding.time_ns, pfn, nr_pages, finding.expected, finding.seen, finding.process, finding.stack)


def shown_violation(finding: Finding, names: Names) -> Violation:
    return Violation(
        number=finding.number,
        time_ns=finding.time_ns,
        pfn=finding.pfn,
        nr_pages=finding.nr_pages,
        expected=finding.expected,
        seen=finding.seen,
        tgid=number_of(finding.process),
        comm=names.comm(finding.process),
        stack=names.stack(finding.stack),
    )
