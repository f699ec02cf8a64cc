# SPDX-License-Identifier: Apache-2.0
"""Names from outside stay on their line and move nothing."""

from __future__ import annotations

import sys

import pytest

from uaptrace.process.plain import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kworker/0:1", "kworker/0:1"),
        ("", ""),
        ("naïve µs – 日本", "naïve µs – 日本"),
        ("new\nline", "new?line"),
        ("a\r\tb\0c\x7f", "a??b?c?"),
        ("\x1b[31mred", "?[31mred"),
        ("\x9b31m", "?31m"),
        ("\u2028\u2029\u0085", "???"),
        ("\u202egpj.exe\u2066\u200b\ufeff", "?gpj.exe???"),
        ("x\udcff\udc80.rec", "x\\xff\\x80.rec"),
        ("\ud800", "?"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_every_character_is_printable_and_can_be_encoded_afterwards() -> None:
    for code in range(sys.maxunicode + 1):
        said = plain(chr(code))
        assert said.isprintable(), hex(code)
        assert len(said.splitlines()) == 1, hex(code)
        said.encode()
