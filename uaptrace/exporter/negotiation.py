# SPDX-License-Identifier: Apache-2.0
"""What a client accepts, by its Accept and Accept-Encoding headers (RFC 9110, sections 12.4 and 12.5)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_GZIP_LEVEL: Final = 3
"""Level 9 takes five times as long for a seventh fewer bytes here."""
_WORTH_PACKING_BYTES: Final = 512
_QUALITY: Final = re.compile(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", re.ASCII)
_ESCAPINGS: Final = ("underscores", "allow-utf-8", "dots", "values")
_NO_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Format:
    """A format of /metrics that prometheus-client writes. The first is for clients that do not care or ask for nothing here."""

    media_type: str
    version: str


_FORMATS: Final = (
    _Format("text/plain", "0.0.4"),
    _Format("application/openmetrics-text", "1.0.0"),
    _Format("text/plain", "1.0.0"),
)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """One item of the list that a client sends: a name (a range of media types, an encoding), its parameters, and its weight."""

    name: str
    parameters: Mapping[str, str]
    quality: float
    place: int

    def suits(self, offered: _Format) -> int:
        """How closely it names the format; 0: it does not."""
        if self.name == offered.media_type:
            version = self.parameters.get("version")
            return 3 if version is None else 4 * (version == offered.version)
        if self.name == offered.media_type.partition("/")[0] + "/*":
            return 2
        return int(self.name == "*/*")


def negotiated(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """The format for an Accept header: a function that renders it, and its content type.

    The one with the greatest weight; of equal ones, the one that the client names first. A version that is not written here is
    not promised to anybody. A client that accepts nothing of what there is gets the format that everyone reads.
    """
    accepted = _items(accept)
    best: tuple[float, int] | None = None
    chosen, parameters = _FORMATS[0], _NO_PARAMETERS
    for offered in _FORMATS:
        item = max(accepted, key=lambda item: (item.suits(offered), -item.place), default=None)
        if item is None or not item.suits(offered) or not item.quality:
            continue
        rank = item.quality, -item.place
        if best is None or rank > best:
            best, chosen, parameters = rank, offered, item.parameters
    return _encoder(chosen, parameters)


def _encoder(chosen: _Format, parameters: Mapping[str, str]) -> tuple[Callable[[Collector], bytes], str]:
    escaping = parameters.get("escaping", "")
    asked = f"{chosen.media_type}; version={chosen.version}; escaping={escaping if escaping in _ESCAPINGS else _ESCAPINGS[0]}"
    encoder, content_type = choose_encoder(asked)
    if "version" not in parameters:
        # Such a client is older than the schemes of escaping.
        content_type = content_type.partition("; escaping=")[0]
    if isinstance(encoder, partial) and encoder.keywords.get("escaping") != "allow-utf-8":
        # All names here are plain ones, so nothing needs escaping and the answer is the same byte by byte; but
        # prometheus-client looks at them letter by letter for the other schemes, which doubles the time of a scrape.
        encoder = partial(encoder, escaping="allow-utf-8")
    return encoder, content_type


def compressed(body: bytes, accept_encoding: str) -> tuple[bytes, Sequence[tuple[str, str]]]:
    """The body as gzip where the client takes it and it is worth it, and the header that says so."""
    if len(body) < _WORTH_PACKING_BYTES or not accepts_gzip(accept_encoding):
        return body, []
    return gzip.compress(body, _GZIP_LEVEL, mtime=0), [("Content-Encoding", "gzip")]


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip, and does not want the plain text more."""
    weights = {"gzip" if item.name == "x-gzip" else item.name: item.quality for item in _items(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0 and weights.get("gzip", 1.0) >= weights.get("identity", 0.0)


def _items(header: str) -> list[_Accepted]:
    items = []
    for place, text in enumerate(header.split(",")):
        name, *rest = (part.strip() for part in text.split(";"))
        parameters = dict(_parameters(rest))
        items.append(_Accepted(name.lower(), parameters, _quality(parameters.pop("q", "1")), place))
    return items


def _parameters(parts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for part in parts:
        name, _, value = part.partition("=")
        yield name.strip().lower(), value.strip().strip('"')


def _quality(text: str) -> float:
    """0 to 1; what is no number is not accepted at all."""
    return min(float(text), 1.0) if _QUALITY.fullmatch(text) else 0.0
