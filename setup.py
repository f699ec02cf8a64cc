# SPDX-License-Identifier: Apache-2.0
"""The one part that setup.cfg cannot say: the modules whose loops are compiled where there is a C compiler.

Without one the installation goes on, and they run as Python, more slowly and with the same results.

``UAPTRACE_BOUNDSCHECK=1 python setup.py build_ext --build-lib DIRECTORY`` compiles them so that an index outside of its array is an
exception: for fuzzing (tests/fuzz).
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

CHECKED = os.environ.get("UAPTRACE_BOUNDSCHECK") == "1"

try:
    from Cython.Build import cythonize
except ImportError:  # installed with --no-build-isolation and without Cython
    extensions = []
else:
    extensions = cythonize(
        [
            Extension("uaptrace.model.loops", ["uaptrace/model/loops.py"]),
            Extension("uaptrace.policies.engine", ["uaptrace/policies/engine.py"]),
            Extension("uaptrace.ebpf.headers", ["uaptrace/ebpf/headers.py"]),
        ],
        build_dir="build/checked-source" if CHECKED else "build",
        compiler_directives={
            "language_level": 3,
            "boundscheck": CHECKED,
            "wraparound": False,
            "initializedcheck": CHECKED,
            "cdivision": True,
            "annotation_typing": False,
        },
    )

for extension in extensions:
    extension.optional = True  # cythonize() would drop it

setup(ext_modules=extensions)
