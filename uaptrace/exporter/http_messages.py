# SPDX-License-Identifier: Apache-2.0
"""A request as the endpoint sees it, and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers`` by name in lower case; of a repeated one, all values with commas between."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    body: bytes
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @classmethod
    def text(cls, status: HTTPStatus, text: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
        """An answer of one line for people."""
        return cls(status, (text + "\n").encode(), [("Content-Type", "text/plain; charset=utf-8"), *headers])


def read_request(event: h11.Request) -> Request:
    """The request in an event of h11."""
    headers: dict[str, str] = {}
    for name_bytes, value in event.headers:
        name = name_bytes.decode("ascii")
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    try:
        target = urlsplit(event.target.decode("ascii"))
        query = parse_qs(target.query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        # Such a path is nothing that is here.
        return Request(event.method.decode("ascii"), "", {}, headers)
    return Request(event.method.decode("ascii"), target.path, query, headers)
