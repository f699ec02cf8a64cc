# SPDX-License-Identifier: Apache-2.0
"""The one part that setup.cfg cannot say: the modules whose loops are compiled where there is a C compiler.

Without one the installation goes on, and they run as Python, more slowly and with the same results.

``UAPTRACE_BOUNDSCHECK=1 python setup.py build_ext --build-lib DIRECTORY`` compiles them so that an index outside of its array is an
exception: for fuzzing (tests/fuzz).
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

from setuptools import Extension, setup

CHECKED = os.environ.get("UAPTRACE_BOUNDSCHECK") == "1"
BUILD = "build/checked-source" if CHECKED else "build"
ENGINE_PARTS = ("engine_state", "page_allocator", "mappings", "caches", "engine")
"""Of uaptrace.policies, lowest first."""


def engine_source() -> str:
    """The parts of the engine as one module, without their imports of each other: a C compiler inlines across them. Its path."""
    lines = ["from __future__ import annotations\n"]
    for part in ENGINE_PARTS:
        text = Path(f"uaptrace/policies/{part}.py").read_text()
        whole = text.splitlines(keepends=True)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and node.module in ("__future__", *(f"uaptrace.policies.{name}" for name in ENGINE_PARTS)):
                whole[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        lines += whole
    made = Path(BUILD, "engine", "uaptrace", "policies", "engine.py")
    made.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((made, "".join(lines)), (made.with_suffix(".pxd"), Path("uaptrace/policies/engine.pxd").read_text())):
        # An untouched file is not compiled again.
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
    return str(made)


try:
    from Cython.Build import cythonize
except ImportError:  # installed with --no-build-isolation and without Cython
    extensions = []
else:
    extensions = cythonize(
        [
            Extension(name, [source], extra_compile_args=["-g0"])  # what a debugger needs names the folder of the build
            for name, source in (
                ("uaptrace.model.loops", "uaptrace/model/loops.py"),
                ("uaptrace.policies.engine", engine_source()),
                ("uaptrace.ebpf.headers", "uaptrace/ebpf/headers.py"),
            )
        ],
        build_dir=BUILD,
        compiler_directives={
            "language_level": 3,
            "boundscheck": CHECKED,
            "wraparound": False,
            "initializedcheck": CHECKED,
            "cdivision": True,
            "annotation_typing": False,
        },
    )

extensions.append(Extension("uaptrace.kernel.cpuid", ["uaptrace/kernel/cpuid.c"], extra_compile_args=["-g0"]))

for extension in extensions:
    extension.optional = True  # cythonize() would drop it

setup(ext_modules=extensions)
