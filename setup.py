# SPDX-License-Identifier: Apache-2.0
"""The one part that setup.cfg cannot say: the modules whose loops are compiled where there is a C compiler.

Without one the installation goes on, and they run as Python, more slowly and with the same results.
"""

from __future__ import annotations

from setuptools import Extension, setup

try:
    from Cython.Build import cythonize
except ImportError:  # installed with --no-build-isolation and without Cython
    extensions = []
else:
    extensions = cythonize(
        [
            Extension("uaptrace.model.loops", ["uaptrace/model/loops.py"]),
            Extension("uaptrace.policies.engine", ["uaptrace/policies/engine.py"]),
            Extension("uaptrace.sources.headers", ["uaptrace/sources/headers.py"]),
        ],
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "annotation_typing": False,
        },
    )

for extension in extensions:
    extension.optional = True  # cythonize() would drop it

setup(ext_modules=extensions)
