# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel sources by series: of this machine where its package is installed, else fetched into the cache folder once."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import archive
from .errors import HostError
from .host import CACHE, locked, note, output_of, run

BASES: Final = ("6.1", "6.12", "7.3")
"""The series that kernel/patches has patches for; a machine builds the first that its release offers."""
_INSTALLED: Final = Path("/usr/src")


@dataclass(frozen=True, slots=True)
class Source:
    """One version of the source of one series."""

    version: str
    tarball: Path


def default_base() -> str:
    """The first of the series whose source this machine's release has. Asks apt for its lists where it has none and may."""
    for base in BASES:
        if _tarball(base).exists():
            return base
    own = archive.Lists()
    for base in BASES:
        if own.newest(_pattern(base)):
            return base
    return BASES[0]


def source(base: str) -> Source:
    """The source of a series, fetched where it is not there yet. HostError where no suite of the archive has it."""
    tarball = _tarball(base)
    version = output_of(["dpkg-query", "-W", "-f", "${Version}", _package(base)]) if tarball.exists() else ""
    if version:
        return Source(version, tarball)
    if kept := _kept(base):
        return kept
    with locked(f"source-{base}"):
        return _kept(base) or _fetch(base)


def _package(base: str) -> str:
    return f"linux-source-{base}"


def _pattern(base: str) -> re.Pattern[str]:
    return re.compile(re.escape(_package(base)))


def _tarball(base: str) -> Path:
    return _INSTALLED / f"{_package(base)}.tar.xz"


def _folder() -> Path:
    return CACHE / "sources"


def _kept(base: str) -> Source | None:
    found = [(path.name.removeprefix(f"{_package(base)}_").removesuffix(".tar.xz"), path) for path in _folder().glob(f"{_package(base)}_*")]
    found.sort(key=lambda kept: archive.by_version(kept[0]))
    return Source(*found[-1]) if found else None


def _fetch(base: str) -> Source:
    found = archive.find(_pattern(base))
    if found is None:
        raise HostError(f"no package {_package(base)} on offer: sudo apt-get update, or use another --base")
    lists, package = found
    note("build", f"fetching {package.name} {package.version} {f'from {lists.suite}' if lists.suite else ''}".rstrip())
    _folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=_folder()) as work:
        file = lists.download(package, Path(work))
        run(["dpkg-deb", "-x", str(file), f"{work}/tree"])
        tarball = Path(work, "tree") / _tarball(base).relative_to("/")
        if not tarball.exists():
            raise HostError(f"{package.name} {package.version} has no {tarball.name}")
        final = _folder() / f"{package.name}_{package.version}.tar.xz"
        os.replace(tarball, final)
    return Source(package.version, final)
