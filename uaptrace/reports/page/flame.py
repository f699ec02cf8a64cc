# SPDX-License-Identifier: Apache-2.0
"""Splits by stack as a flame graph: boxes in percent of the width, so that the page scales them without any script."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Final

from uaptrace.model.snapshot import Cause, Snapshot
from uaptrace.views import words

NO_STACK: Final = "(no stack)"
MIN_PERCENT: Final = 0.05
"""Narrower boxes are left out: they are less than a pixel."""


@dataclass(slots=True)
class Node:
    """One frame. ``count``: splits with this frame at this place."""

    name: str
    cause: Cause | None = None
    count: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def tree(snapshot: Snapshot) -> Node:
    """Splits by cause, then by stack, outermost frame first, then by process and size of mapping. Offsets are left out."""
    root = Node("all splits")
    for row in snapshot.split_rows:
        frames = [frame.split("+0x", 1)[0] for frame in reversed(row.stack)] or [NO_STACK]
        leaf = f"{row.comm or 'process'} ({row.tgid}) · {words.LEVEL_WORDS[row.level]}"
        node = root
        node.count += row.count
        for name in (row.cause.value, *frames, leaf):
            node = node.children.setdefault(name, Node(name, row.cause))
            node.count += row.count
    return root


def flame_html(snapshot: Snapshot) -> str:
    """The graph as HTML; empty where nothing was split."""
    root = tree(snapshot)
    if not root.count:
        return ""
    boxes: list[str] = []
    depth = _draw(root, root.count, 0.0, 0, boxes)
    height = f"height:calc({depth + 1} * var(--flame-row))"
    return f'<div class="flame" style="{height}" role="img" aria-label="Splits by stack">{"".join(boxes)}</div>'


def _draw(node: Node, total: int, left: float, depth: int, out: list[str]) -> int:
    width = 100 * node.count / total
    if width < MIN_PERCENT:
        return depth
    share = words.percent(node.count / total)
    title = f"{node.name}: {words.plural(node.count, 'split')}, {share}"
    cause = f" c-{node.cause.value}" if node.cause else ""
    out.append(
        f'<span class="f{cause}" data-d="{depth}" data-l="{left:.4f}" data-w="{width:.4f}" title="{escape(title)}" '
        f'style="left:{left:.4f}%;width:{width:.4f}%;top:calc({depth} * var(--flame-row))">{escape(node.name)}</span>'
    )
    deepest = depth
    at = left
    for child in sorted(node.children.values(), key=lambda c: (-c.count, c.name)):
        deepest = max(deepest, _draw(child, total, at, depth + 1, out))
        at += 100 * child.count / total
    return deepest
