# SPDX-License-Identifier: Apache-2.0
"""A module that Cython compiles, as the Python that it is written in."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path
from types import ModuleType

CAN_COMPILE = shutil.which("cc") is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()


def as_python(compiled: ModuleType) -> ModuleType:
    """The same text, not compiled. ``compiled``: the module as it is imported."""
    assert compiled.__file__ is not None
    package, _, name = compiled.__name__.rpartition(".")
    path = Path(compiled.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{package}.plain_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
