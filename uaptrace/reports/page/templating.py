# SPDX-License-Identifier: Apache-2.0
"""Templates of the page (templates/*.html). What they are given is escaped, unless it is Markup that another of them made."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("uaptrace.reports.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: Any) -> Markup:
    """The template ``name``.html with these values. A name that it asks for and is not given raises jinja2.UndefinedError."""
    return Markup(_environment().get_template(f"{name}.html").render(values))
