# SPDX-License-Identifier: Apache-2.0
"""What h11 lets pass and this server refuses: above all requests whose end two readers may see in different places (RFC 9112)."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

import h11

Problem = tuple[HTTPStatus, str]
"""The answer, and why."""

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_BARE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")
_FOLDED_LINE: Final = re.compile(rb"\n[ \t]")


def problem_of_head(received: bytes, max_bytes: int) -> Problem | None:
    """What is wrong with the lines of the request that begins here, as far as it has come; None: nothing yet."""
    end = _END_OF_HEAD.search(received)
    head = received if end is None else received[: end.end()]
    if len(head) > max_bytes:
        # h11 has a limit for a head that is not complete; this one may have come at once.
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"request line and headers have more than {max_bytes} bytes"
    if _BARE_LINE_FEED.search(head):
        return HTTPStatus.BAD_REQUEST, "a line does not end with CR LF"
    if _FOLDED_LINE.search(head):
        return HTTPStatus.BAD_REQUEST, "header lines may not be folded"
    return None


def problem_of_headers(request: h11.Request, max_body_bytes: int) -> Problem | None:
    """What is wrong with the version, or with what the headers say about the body; None: nothing."""
    if not request.http_version.startswith(b"1."):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1 are supported"
    headers = dict(request.headers)  # h11 has refused a second, different Content-Length or Transfer-Encoding.
    if has_chunks(request):
        if b"content-length" in headers:
            return HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other"
        if request.http_version < b"1.1":
            return HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding"
    if int(headers.get(b"content-length", 0)) > max_body_bytes:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request body is too large"
    if any(name == b"expect" and value.strip().lower() != b"100-continue" for name, value in request.headers):
        return HTTPStatus.EXPECTATION_FAILED, "the only supported expectation is 100-continue"
    return None


def has_chunks(request: h11.Request) -> bool:
    """Whether the body's end is in the body itself. No further request is read after one: others may have seen another end."""
    return any(name == b"transfer-encoding" for name, _ in request.headers)
