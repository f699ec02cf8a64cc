# SPDX-License-Identifier: Apache-2.0
"""An order is right on every processor, also on an emulated one."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "uaptrace"


def test_no_order_is_made_by_the_way_that_emulated_processors_get_wrong() -> None:
    """Under QEMU TCG ``np.argsort()`` of NumPy 2.2 and 2.4 (AVX2) gave a wrong order for 48 of 200 arrays of 300 numbers; with
    ``kind="stable"`` for none. A cache whose free blocks came in such an order was never taken for one moment."""
    calls = [
        (path.name, node.lineno, ast.unparse(node))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("argsort", "argpartition")
    ]
    assert calls
    assert [call for call in calls if "kind='stable'" not in call[2]] == []
