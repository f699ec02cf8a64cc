# SPDX-License-Identifier: Apache-2.0
"""Puts bench/results.json into docs/performance.md, between the marks that are there for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.rows import Row, table

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
PER_PAGE = "alloc.added_instructions."
PROBES = "page_fault.added_instructions_percent"


def publish(machine: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Rewrite the blocks of the document."""
    text = DOCUMENT.read_text()
    others = [row for row in rows if not row.name.startswith((PER_PAGE, PROBES + "."))]
    facts = (
        f"{machine['cpu']}, {machine['nr_cpus']} processors, Linux {machine['kernel']}, Python {machine['python']}, {machine['time']}; "
        f"load average at the end {machine['load_average']:.0f}."
    )
    text = _replace(text, "run", f"{facts}\n\n```\n{table(others)}\n```")
    text = _replace(text, "probes", _probes(rows))
    DOCUMENT.write_text(text)


def _replace(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{DOCUMENT.name} has no marks for {name}")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def _probes(rows: Sequence[Row]) -> str:
    """Instructions by mechanism, a column for each kernel."""
    kernels = {"patched": "", "Debian 6.1": ".debian-6_1", "Debian 6.12": ".debian-6_12"}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if not row.name.startswith(PER_PAGE):
            continue
        name = row.name.removeprefix(PER_PAGE)
        kernel = next((kernel for kernel, suffix in kernels.items() if suffix and name.endswith(suffix)), "patched")
        found.setdefault(name.removesuffix(kernels[kernel]), {})[kernel] = row
    lines = ["| Added for each page | " + " | ".join(kernels) + " |", "|---|" + "---:|" * len(kernels)]
    for name, by_kernel in found.items():
        cells = []
        for kernel in kernels:
            one = by_kernel.get(kernel)
            base = re.search(r"nothing attached: (\d+)", one.compared_with) if one else None
            if one is None or one.value is None or base is None:
                cells.append("")
            else:
                cells.append(f"{one.value:.0f} of {base[1]} ({100 * one.value / int(base[1]):.2f}%)")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
