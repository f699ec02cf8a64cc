# SPDX-License-Identifier: Apache-2.0
"""Imports go down only, and only one module knows bcc: the layers of docs/ARCHITECTURE.md, held."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "uaptrace"
ARROWS: dict[str, set[str]] = {
    "abi": set(),
    "process": {"abi"},
    "testhost": set(),
    "model": {"abi"},
    "kernel": {"abi", "model"},
    "ebpf": {"abi"},
    "loader": {"abi", "process", "model", "kernel", "ebpf"},
    "cost": {"abi", "model", "kernel", "ebpf", "loader"},
    "recording": {"abi", "process", "model"},
    "session": {"abi", "model", "kernel", "ebpf", "loader", "recording"},
    "policies": {"abi", "model"},
    "archive": {"abi", "process", "model", "recording", "session", "policies"},
    "views": {"abi", "process", "model"},
    "exporter": {"abi", "model"},
    "tui": {"abi", "model", "views"},
    "reports": {"abi", "process", "model", "recording", "session", "archive", "policies", "views"},
    "trial": {"abi", "process", "testhost", "model", "loader", "recording", "session", "reports"},
    "commands": {
        "abi",
        "process",
        "model",
        "kernel",
        "loader",
        "cost",
        "recording",
        "session",
        "archive",
        "policies",
        "exporter",
        "tui",
        "reports",
        "trial",
    },
    "cli": {"abi", "process", "commands"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""Each package, and all that it may import: only what stands above it here. docs/ARCHITECTURE.md says what each is for."""


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


def test_the_arrows_make_no_circle() -> None:
    packages = list(ARROWS)
    for number, (package, below) in enumerate(ARROWS.items()):
        assert below <= set(packages[:number]), package


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    package = module.split(".")[0]
    for name in imports_of(module, modules()[module]):
        if name.startswith("uaptrace.") and name != "uaptrace.bpf":
            other = name.split(".")[1]
            assert other == package or other in ARROWS[package], f"{module} imports {name}"


def test_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {package: set() for package in ARROWS}
    for module, path in modules().items():
        package = module.split(".")[0]
        used[package] |= {name.split(".")[1] for name in imports_of(module, path) if name.startswith("uaptrace.")} - {package, "bpf"}
    assert used == ARROWS


def test_bcc_is_imported_in_one_module_only() -> None:
    users = [name for name, path in modules().items() if any(i.split(".")[0] == "bcc" for i in imports_of(name, path))]
    assert users == ["loader.compiler"]


def imported_with(modules: str, *names: str) -> str:
    """Which of the names a fresh Python has imported after it imported the modules, as it prints a list of them."""
    code = f"import sys, {modules}; print([m for m in {names} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("command", ["uaptrace.cli", "uaptrace.commands.serve", "uaptrace.commands.record", "uaptrace.session.loop"])
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


def test_every_package_is_installed() -> None:
    """setup.cfg names them one by one: what is not named there is missing from wheels and from the Debian package."""
    parser = configparser.ConfigParser()
    parser.read(ROOT.parent / "setup.cfg")
    named = set(parser["options"]["packages"].split()) - {"uaptrace.bpf"}
    there = {".".join(("uaptrace", *path.parent.relative_to(ROOT).parts)) for path in ROOT.rglob("__init__.py")}
    assert there == named


def test_the_table_of_packages_in_the_docs_is_the_table_here() -> None:
    text = (ROOT.parent / "docs/ARCHITECTURE.md").read_text()
    section = text.partition("\n## Packages\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    assert sorted(named) == sorted(name for name in ARROWS if not name.startswith("__"))
