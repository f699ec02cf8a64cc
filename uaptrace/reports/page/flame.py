# SPDX-License-Identifier: Apache-2.0
"""Splits by stack as a flame graph: boxes in percent of the width, so that the page scales them without any script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar, cast

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


Frame = TypeVar("Frame", Node, Difference)


Path = tuple[tuple[str, ...], Cause | None, int]
"""Names of frames from the outermost inwards, what caused the splits at their end, and how many."""


def tree(snapshot: Snapshot) -> Node:
    """Splits by cause, then by stack, outermost frame first, then by process and size of mapping. Offsets are left out."""
    return _tree((_path(row, f"{row.comm or 'process'} ({row.tgid})"), row.cause, row.count) for row in snapshot.split_rows)


def _tree(paths: Iterable[Path]) -> Node:
    root = Node("all splits")
    for names, cause, count in paths:
        node = root
        node.count += count
        for name in names:
            node = node.children.setdefault(name, Node(name, cause))
            node.count += count
    return root


def difference(before: Snapshot, after: Snapshot) -> Difference:
    """The same of two recordings. Processes are told apart by name only: their numbers are others in each."""
    root = Difference("all splits")
    rows = [(row, row.count, 0) for row in before.split_rows] + [(row, 0, row.count) for row in after.split_rows]
    for row, nr_before, nr_after in rows:
        node = root
        node.before += nr_before
        node.after += nr_after
        for name in _path(row, row.comm or "process"):
            node = node.children.setdefault(name, Difference(name))
            node.before += nr_before
            node.after += nr_after
    _widen(root)
    return root


def _path(row: SplitRow, process: str) -> tuple[str, ...]:
    frames = [frame.split("+0x", 1)[0] for frame in reversed(row.stack)] or [NO_STACK]
    return (row.cause.value, *frames, f"{process} · {words.LEVEL_WORDS[row.level]}")


def _widen(node: Difference) -> int:
    node.width = sum(map(_widen, node.children.values())) if node.children else max(node.before, node.after)
    return node.width


class Box(NamedTuple):
    """A frame as it is drawn: ``left`` and ``width`` in percent. ``style``: more CSS, after a semicolon."""

    name: str
    depth: int
    left: float
    width: float
    title: str
    class_: str
    style: str


class Graph(NamedTuple):
    """``boxes``: each before those below it; none where nothing was split. ``depth``: number of rows."""

    label: str
    boxes: list[Box]
    depth: int


def flame_graph(snapshot: Snapshot) -> Graph:
    """Splits of one recording by stack."""
    return _splits_graph(tree(snapshot))


def graph_of(paths: Iterable[Path]) -> Graph:
    """Splits of any number of recordings by stack."""
    return _splits_graph(_tree(paths))


def _splits_graph(root: Node) -> Graph:
    def look(node: Node) -> _Look:
        title = f"{node.name}: {words.plural(node.count, 'split')}, {words.percent(node.count / root.count)}"
        return _Look(title, f"c-{node.cause.value}" if node.cause else "")

    return _graph(root, "Splits by stack", lambda node: node.count, look)


def difference_graph(before: Snapshot, after: Snapshot) -> Graph:
    """What differs between two recordings, by stack."""

    def look(node: Difference) -> _Look:
        change = node.after - node.before
        title = f"{node.name}: {words.plural(node.before, 'split')} in A, {words.number(node.after)} in B ({change:+,})"
        kind = "more" if change > 0 else "fewer" if change else "same"
        return _Look(title, kind, f";--share:{round(100 * abs(change) / max(node.before, node.after))}%")

    return _graph(difference(before, after), "Difference of splits by stack", lambda node: node.width, look)


class _Look(NamedTuple):
    """How a frame is shown, besides its name and its place."""

    title: str
    class_: str
    style: str = ""


def _graph(root: Frame, label: str, width_of: Callable[[Frame], int], look_of: Callable[[Frame], _Look]) -> Graph:
    total = width_of(root)
    boxes: list[Box] = []
    if not total:
        return Graph(label, boxes, 0)

    def draw(node: Frame, left: float, depth: int) -> None:
        """A frame and those below it."""
        width = 100 * width_of(node) / total
        if width < MIN_PERCENT:
            return
        boxes.append(Box(node.name, depth, left, width, *look_of(node)))
        at = left
        for child in sorted(cast("Iterable[Frame]", node.children.values()), key=lambda c: (-width_of(c), c.name)):
            draw(child, at, depth + 1)
            at += 100 * width_of(child) / total

    draw(root, 0.0, 0)
    return Graph(label, boxes, max(box.depth for box in boxes) + 1)
