# SPDX-License-Identifier: Apache-2.0
"""Packages of Debian's archive, of this machine's own release or of another.

Another release is asked with package lists of its own in the cache folder, at the mirror that this machine uses and signed by the
archive's keys: nothing is added to the machine's configuration, and nothing of it can be installed by accident.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import HostError
from .host import APT_GET, CACHE, locked, output_of, run

SUITES: Final = ("bookworm", "trixie", "trixie-backports", "bookworm-backports", "bullseye")
"""Where to look for what this machine's release does not have, in this order."""
WITH_SECURITY: Final = ("bookworm", "trixie", "bullseye")
"""Those whose newest kernels are in an archive of their own."""
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TARGETS: Final = ("apt-get", "indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)", "Created-By: Packages")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package."""

    name: str
    version: str


def mirror() -> str:
    """The address of Debian's archive that this machine's own apt uses. HostError where it uses none."""
    if found := _address("Debian", "debian"):
        return found
    raise HostError("this machine's apt names no mirror of Debian's archive: sudo apt-get update, or use --image")


def security_mirror() -> str:
    """The address of Debian's security archive: the one of this machine's own apt, else that which belongs to mirror()."""
    return _address("Debian-Security", "debian-security") or mirror().rstrip("/") + "-security"


def _address(label: str, ending: str) -> str | None:
    rows = [line.split("\t") for line in output_of(_TARGETS).splitlines()]
    known = [row[2] for row in rows if row[:2] == ["Debian", label]]
    # Before the first apt-get update apt knows no origins, only addresses.
    likely = [row[2] for row in rows if len(row) == 3 and row[2].rstrip("/").endswith(f"/{ending}")]
    return next(iter([*known, *likely]), None)


def newer(version: str, other: str) -> int:
    """Debian's order of versions, for sorting: 1, 0 or -1."""
    if version == other:
        return 0
    greater = subprocess.run(["dpkg", "--compare-versions", version, "gt", other], check=False)
    return 1 if greater.returncode == 0 else -1


by_version: Final = functools.cmp_to_key(newer)
"""A key for sorting versions, oldest first."""


class Lists:
    """Package lists as apt reads them: this machine's own, or of one suite."""

    def __init__(self, suite: str | None = None) -> None:
        self.suite = suite
        self._folder = CACHE / "apt" / suite if suite else None

    def newest(self, pattern: re.Pattern[str]) -> Package | None:
        """The newest package whose whole name fits; the lists are fetched where it is in none. None: this suite has no such package."""
        if self._folder is not None and not self._is_configured(self._folder):
            self.update()
        found = self._candidates(pattern)
        if not found and self._may_update():
            self.update()
            found = self._candidates(pattern)
        return found[-1] if found else None

    def update(self) -> None:
        """Fetch the lists. HostError where the mirror has no such suite or cannot be reached."""
        with locked("apt"):
            if self._folder is None:
                run([*APT_GET, *self._options(), "update"])
                return
            for text in self._source_lists():
                self._write_configuration(self._folder, text)
                try:
                    run([*APT_GET, *self._options(), "update"])
                    return
                except HostError as error:
                    failure = error
            raise failure

    def download(self, package: Package, folder: Path) -> Path:
        """The package's file in a folder. Lists that are older than the archive's are fetched anew."""
        command = [*APT_GET, *self._options(), "download", f"{package.name}={package.version}"]
        try:
            run(command, cwd=folder)
        except HostError:
            if not self._may_update():
                raise
            self.update()
            run(command, cwd=folder)
        files = list(folder.glob(f"{package.name}_*.deb"))
        if not files:
            raise HostError(f"{' '.join(command)} left no package")
        return files[0]

    def _may_update(self) -> bool:
        return self._folder is not None or os.geteuid() == 0

    def _options(self) -> list[str]:
        # apt's own user could not write below the cache folder of root
        options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        if self._folder is None:
            return options
        settings = {
            "Dir::Etc::SourceList": self._folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::Etc::Preferences": "-",
            "Dir::Etc::PreferencesParts": "-",
            "Dir::State": self._folder / "state",
            "Dir::State::Lists": self._folder / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": self._folder / "cache",
        }
        return options + [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def _source_lists(self) -> list[str]:
        """Texts of sources.list, best first: a mirror may lack the security archive of a suite."""
        plain = f"deb [signed-by={KEYRING}] {mirror()} {self.suite} main\n"
        if self.suite not in WITH_SECURITY:
            return [plain]
        return [f"{plain}deb [signed-by={KEYRING}] {security_mirror()} {self.suite}-security main\n", f"{plain}# no security archive\n"]

    def _is_configured(self, folder: Path) -> bool:
        file = folder / "sources.list"
        # Each text for a suite that has a security archive speaks of it. No command is run: the lists serve without a mirror, too.
        return file.is_file() and (self.suite not in WITH_SECURITY or "security" in file.read_text())

    def _write_configuration(self, folder: Path, text: str) -> None:
        for name in ("state", "lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text(text)

    def _candidates(self, pattern: re.Pattern[str]) -> list[Package]:
        """Packages on offer, oldest first."""
        names = [name for name in output_of(["apt-cache", *self._options(), "pkgnames", "linux-"]).split() if pattern.fullmatch(name)]
        if not names:
            return []
        policy = output_of(["apt-cache", *self._options(), "policy", *names])
        found = re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (\S+)", policy, re.MULTILINE)
        packages = [Package(name, version) for name, version in found if version != "(none)"]
        return sorted(packages, key=lambda package: by_version(package.version))


def find(pattern: re.Pattern[str]) -> tuple[Lists, Package] | None:
    """The newest package of that name of this machine's release, else of the first suite that has one. None: no suite has."""
    for lists in (Lists(), *map(Lists, SUITES)):
        try:
            package = lists.newest(pattern)
        except HostError:
            # A mirror keeps old suites for a while only, and the next one may have it.
            continue
        if package is not None:
            return lists, package
    return None
