# SPDX-License-Identifier: Apache-2.0
"""YAML in which every scalar keeps its text: ``1234`` can be a user's name, ``1`` a header's value.

Programs in Go, whose files these are, read a scalar as the kind of value that is wanted in its place; PyYAML decides by its look.
"""

from __future__ import annotations

from typing import Any, Final

from uaptrace.abi.errors import UaptraceError

_TAG: Final = "tag:yaml.org,2002:"
_NOT_TEXT: Final = ("bool", "int", "float", "timestamp")


class Scalar(str):
    """A scalar that is not quoted and looks like a value: as a string it is what the file has. ``value``: bool, int or float."""

    __slots__ = ("value",)
    value: bool | int | float | None

    def __new__(cls, text: str, value: bool | int | float | None) -> Scalar:
        scalar = super().__new__(cls, text)
        scalar.value = value
        return scalar


class NotYamlError(UaptraceError):
    """The text is not YAML, or says a key twice. The message does not repeat it: it may hold secrets."""


def parse_yaml(text: str) -> object:
    """The document. A key that is given twice is refused, as by the exporters. Raises NotYamlError."""
    import yaml

    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise NotYamlError(_problem(error)) from None


def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    continue
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"key {key_node.value!r} is given twice", key_node.start_mark)
                seen.add(key_node.value)
                if key_node.tag == _TAG + "null":
                    key_node.tag = _TAG + "str"
            return dict(super().construct_mapping(node, deep=deep))

    def scalar(kind: str) -> Any:
        make = getattr(Loader, f"construct_yaml_{kind}")

        def construct(loader: Any, node: Any) -> Scalar:
            try:
                value = make(loader, node)
            except (ValueError, OverflowError):
                value = None  # A date that no calendar has, or a number with no digits: a text like any other.
            return Scalar(node.value, value if isinstance(value, bool | int | float) else None)

        return construct

    for kind in _NOT_TEXT:
        Loader.add_constructor(_TAG + kind, scalar(kind))
    return Loader


def _problem(error: Exception) -> str:
    """Where and what, without the text of the line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or not problem:
        return "not YAML: " + one_line(error)
    return f"line {mark.line + 1}: {problem}"


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
