# SPDX-License-Identifier: Apache-2.0
"""Who runs what where several processes share the tests (``pytest -n 2``): one takes a whole file, or one row of the matrix of kernels.

Guests are begun first: they take longest, and what is short fills the end.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

BY_ROW = "tests/vm/test_matrix.py"
"""In it, the parameter of a test is the guest that it reads."""


class ByBoot(LoadScopeScheduling):  # type: ignore[misc]
    """What shares a guest, or another fixture that takes long, is never in two processes."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, name = nodeid.partition("::")
        return name.partition("[")[2] if file == BY_ROW else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return ByBoot(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("vm") is None)
