# SPDX-License-Identifier: Apache-2.0
"""What is run in one process, one after the other, where several share the tests (``pytest -n 2``): a file, or a row of the matrix.

Guests are begun first: they take longest, and what is short fills the end.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
