# SPDX-License-Identifier: Apache-2.0
"""Splits by stack as a flame graph: boxes in percent of the width, so that the page scales them without any script."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Final

from uaptrace.model.snapshot import Cause, Snapshot, SplitRow
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


@dataclass(slots=True)
class Difference:
    """One frame of two recordings. ``width``: the larger of both counts where a stack ends, and the sum of these above it."""

    name: str
    before: int = 0
    after: int = 0
    width: int = 0
    children: dict[str, Difference] = field(default_factory=dict)


def tree(snapshot: Snapshot) -> Node:
    """Splits by cause, then by stack, outermost frame first, then by process and size of mapping. Offsets are left out."""
    root = Node("all splits")
    for row in snapshot.split_rows:
        node = root
        node.count += row.count
        for name in _path(row, f"{row.comm or 'process'} ({row.tgid})"):
            node = node.children.setdefault(name, Node(name, row.cause))
            node.count += row.count
    return root


def difference(before: Snapshot, after: Snapshot) -> Difference:
    """The same of two recordings. Processes are told apart by name only: their numbers are others in each."""
    root = Difference("all splits")
    for snapshot, is_after in ((before, False), (after, True)):
        for row in snapshot.split_rows:
            node = root
            for name in (None, *_path(row, row.comm or "process")):
                node = node if name is None else node.children.setdefault(name, Difference(name))
                if is_after:
                    node.after += row.count
                else:
                    node.before += row.count
    _widen(root)
    return root


def _path(row: SplitRow, process: str) -> tuple[str, ...]:
    frames = [frame.split("+0x", 1)[0] for frame in reversed(row.stack)] or [NO_STACK]
    return (row.cause.value, *frames, f"{process} · {words.LEVEL_WORDS[row.level]}")


def _widen(node: Difference) -> int:
    node.width = sum(map(_widen, node.children.values())) if node.children else max(node.before, node.after)
    return node.width


def flame_html(snapshot: Snapshot) -> str:
    """The graph as HTML; empty where nothing was split."""
    root = tree(snapshot)
    if not root.count:
        return ""
    boxes: list[str] = []
    depth = _draw(root, root.count, 0.0, 0, boxes)
    height = f"height:calc({depth + 1} * var(--flame-row))"
    return f'<div class="flame" style="{height}" role="img" aria-label="Splits by stack">{"".join(boxes)}</div>'


def difference_html(before: Snapshot, after: Snapshot) -> str:
    """The graph of a difference as HTML; empty where nothing was split in either."""
    root = difference(before, after)
    if not root.width:
        return ""
    boxes: list[str] = []
    depth = _draw_difference(root, root.width, 0.0, 0, boxes)
    height = f"height:calc({depth + 1} * var(--flame-row))"
    return f'<div class="flame" style="{height}" role="img" aria-label="Difference of splits by stack">{"".join(boxes)}</div>'


def _draw_difference(node: Difference, total: int, left: float, depth: int, out: list[str]) -> int:
    if 100 * node.width / total < MIN_PERCENT:
        return depth
    change = node.after - node.before
    title = f"{node.name}: {words.plural(node.before, 'split')} in A, {words.number(node.after)} in B ({change:+,})"
    share = round(100 * abs(change) / max(node.before, node.after))
    kind = "more" if change > 0 else "fewer" if change else "same"
    out.append(_box(node.name, title, f"f {kind}", left, 100 * node.width / total, depth, f";--share:{share}%"))
    deepest, at = depth, left
    for child in sorted(node.children.values(), key=lambda c: (-c.width, c.name)):
        deepest = max(deepest, _draw_difference(child, total, at, depth + 1, out))
        at += 100 * child.width / total
    return deepest


def _box(name: str, title: str, classes: str, left: float, width: float, depth: int, style: str = "") -> str:
    return (
        f'<span class="{classes}" data-d="{depth}" data-l="{left:.4f}" data-w="{width:.4f}" title="{escape(title)}" '
        f'style="left:{left:.4f}%;width:{width:.4f}%;top:calc({depth} * var(--flame-row)){style}">{escape(name)}</span>'
    )


def _draw(node: Node, total: int, left: float, depth: int, out: list[str]) -> int:
    width = 100 * node.count / total
    if width < MIN_PERCENT:
        return depth
    share = words.percent(node.count / total)
    title = f"{node.name}: {words.plural(node.count, 'split')}, {share}"
    cause = f" c-{node.cause.value}" if node.cause else ""
    out.append(_box(node.name, title, f"f{cause}", left, width, depth))
    deepest = depth
    at = left
    for child in sorted(node.children.values(), key=lambda c: (-c.count, c.name)):
        deepest = max(deepest, _draw(child, total, at, depth + 1, out))
        at += 100 * child.count / total
    return deepest
