# SPDX-License-Identifier: Apache-2.0
"""Imports go down only, and only one module knows bcc: the layers of docs/ARCHITECTURE.md, held."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "uaptrace"
LAYERS = (
    ("__init__",),
    ("units", "errors", "events", "plain", "streams", "places", "files", "outputs", "limits", "testhost"),
    ("wire",),
    ("model",),
    ("policies",),
    ("sources.kernel_memory", "sources.bpf_call", "sources.bpf_memory", "sources.bpf_programs", "sources.procfs", "sources.privileges"),
    ("loader",),
    ("recording",),
    ("sources",),
    ("heartbeat",),
    ("session",),
    ("verification",),
    ("views",),
    ("exporter", "tui", "reports"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Lowest first. The longest name that fits a module is its layer."""
VIEWS = ("exporter", "tui", "reports")


def layer_of(module: str) -> tuple[int, str]:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for number, names in enumerate(LAYERS):
            if prefix in names:
                return number, prefix
    raise AssertionError(f"{module} is in no layer")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__") or "__init__"] = path
    return found


def imports_of(module: str, path: Path) -> set[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ["uaptrace", *package[: len(package) - node.level + 1]] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    mine, my_name = layer_of(module)
    for name in imports_of(module, modules()[module]):
        if not name.startswith("uaptrace.") or name == "uaptrace.bpf":
            continue
        other, other_name = layer_of(name.removeprefix("uaptrace."))
        assert other <= mine, f"{module} imports {name}, which is above it"
        if my_name in VIEWS and other_name in VIEWS:
            assert other_name == my_name, f"{module} imports {name}: views do not know each other"


def test_bcc_is_imported_in_one_module_only() -> None:
    users = [name for name, path in modules().items() if any(i.split(".")[0] == "bcc" for i in imports_of(name, path))]
    assert users == ["loader.bcc_programs"]


def imported_with(modules: str, *names: str) -> str:
    """Which of the names a fresh Python has imported after it imported the modules, as it prints a list of them."""
    code = f"import sys, {modules}; print([m for m in {names} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("command", ["uaptrace.cli", "uaptrace.commands.serve", "uaptrace.commands.record", "uaptrace.session"])
def test_the_daemon_stays_small(command: str) -> None:
    """What brings tens of megabytes is imported only where it is used."""
    assert imported_with(command, "bcc", "pyarrow", "textual", "PIL", "matplotlib", "numba") == "[]"


@pytest.mark.parametrize("module", ["commands.serve", "commands.record", "commands.top", "commands.audit", "loader.child"])
def test_the_loader_starts_before_anything_large_is_imported(module: str) -> None:
    """What the daemon needs is imported while the loader works; the loader needs neither arrays nor, for kept programs, a compiler."""
    assert imported_with(f"uaptrace.cli, uaptrace.{module}", "numpy", "bcc", "asyncio") == "[]"


def test_every_file_says_its_licence() -> None:
    top = ROOT.parent
    tracked = subprocess.run(["git", "ls-files"], cwd=top, capture_output=True, text=True, check=True).stdout.splitlines()
    without = []
    for name in tracked:
        path = top / name
        if path.suffix in (".py", ".c", ".h", ".sh", ".mjs", ".ts", ".tsx") or name.endswith((".bpf.c", "Makefile", ".ci/run")):
            if path.stat().st_size and "SPDX-License-Identifier" not in path.read_text(errors="replace")[:600]:
                without.append(name)
            elif name.startswith("bpf/") and path.suffix in (".c", ".h"):
                assert "GPL-2.0" in path.read_text()[:200], name
    assert without == []
