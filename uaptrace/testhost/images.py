# SPDX-License-Identifier: Apache-2.0
"""Kernels in Debian packages, unpacked into the cache folder once: by name those that Debian has, by path any. Nothing is installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from . import archive
from .errors import HostError
from .host import CACHE, locked, need, note, output_of, run

DEBIAN_NAME: Final = re.compile(r"debian-(\d+\.\d+)")
"""A name that ``kernel/boot --kernel`` takes: debian-6.12."""
_IMAGES: Final = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
"""Where packages have the image: the second in those of Linux 7.2 and later."""
_PARTS: Final = re.compile(r"\b(linux-(?:binary|modules)-\S+-amd64)\b")
"""What an image's package depends on for its files, from Linux 6.19 on."""


def package_pattern(series: str) -> re.Pattern[str]:
    """Names of the packages with a kernel of that series, such as 6.12: not the real-time one, nor the one for clouds."""
    return re.compile(rf"linux-image-{re.escape(series)}(\.\d[^-]*)?(-\d+)?-amd64")


def image_in(tree: Path) -> Path | None:
    """The image in an unpacked package."""
    return next((image for pattern in _IMAGES for image in sorted(tree.glob(pattern))), None)


def release_of(image: Path) -> str:
    """What ``uname -r`` says in that kernel, from where its package has the image."""
    return image.parent.name if image.name == "vmlinuz" else image.name.removeprefix("vmlinuz-")


def modules_of(image: Path) -> Path | None:
    """The folder with the modules of an image, beside it or above; None where there is none."""
    for folder in image.parents:
        releases = [path.parent for path in (folder / "lib/modules").glob("*/modules.dep")]
        mine = [path for path in releases if path.name == release_of(image)]
        if mine or len(releases) == 1:
            return (mine or releases)[0]
    return None


def debian_image(kernel: str) -> Path:
    """The image of ``debian-X.Y``, with its modules in the same tree. HostError where no suite has it."""
    match = DEBIAN_NAME.fullmatch(kernel)
    if match is None:
        raise HostError(f"no such kernel: {kernel}")
    pattern = package_pattern(match[1])
    if kept := _kept(pattern):
        return kept
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise HostError(f"{kernel} needs apt-get and dpkg-deb: use --image")
    with locked(kernel):
        return _kept(pattern) or _fetch(kernel, pattern)


def packaged_image(package: Path) -> Path:
    """The image in a .deb, such as ``make bindeb-pkg`` leaves, with its modules in the same tree. HostError where it has none."""
    dpkg_deb = need("dpkg-deb", "dpkg")
    try:
        with package.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise HostError(f"cannot read the package {package}: {error.strerror}") from None
    kernels = CACHE / "kernels"
    final = kernels / f"package-{digest}"
    with locked(final.name):
        if final.exists() and (kept := image_in(final)):
            return kept
        kernels.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".package-", dir=kernels) as work:
            tree = Path(work, "tree")
            run([dpkg_deb, "-x", str(package), str(tree)], name=str(package))
            why = f"{package} has no kernel image (packages of Linux 6.19 and later have it in linux-binary-*)"
            return _keep(tree, final, why, needs_modules=False)


def _keep(tree: Path, final: Path, without_image: str, *, needs_modules: bool) -> Path:
    """Make an unpacked tree the one that is kept. The image in it; HostError, with those words, where there is none."""
    image = image_in(tree)
    if image is None:
        raise HostError(without_image)
    # With the one link a distribution has everything that looks for lib/modules finds it.
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    if needs_modules or any((tree / "lib/modules").glob("*")):
        run([need("depmod", "kmod"), "-a", "-b", str(tree), release_of(image)])
    shutil.rmtree(final, ignore_errors=True)
    tree.rename(final)
    return final / image.relative_to(tree)


def _kept(pattern: re.Pattern[str]) -> Path | None:
    found = []
    for tree in (CACHE / "kernels").glob("linux-image-*_*"):
        name, _, version = tree.name.partition("_")
        image = image_in(tree)
        if pattern.fullmatch(name) and image is not None:
            found.append((version, image))
    found.sort(key=lambda kept: archive.by_version(kept[0]))
    return found[-1][1] if found else None


def _fetch(kernel: str, pattern: re.Pattern[str]) -> Path:
    found = archive.find(pattern)
    if found is None:
        raise HostError(f"no package on offer for {kernel}: sudo apt-get update, or use --image")
    lists, package = found
    note("boot", f"fetching {package.name} {package.version} {f'from {lists.suite}' if lists.suite else ''}".rstrip())
    kernels = CACHE / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=kernels) as work:
        tree = Path(work, "tree")
        _unpack(lists, package, Path(work), tree)
        final = kernels / f"{package.name}_{package.version}"
        return _keep(tree, final, f"{package.name} {package.version} has no kernel image: use --image", needs_modules=True)


def _unpack(lists: archive.Lists, package: archive.Package, work: Path, tree: Path) -> None:
    """The package's files, and those of the packages that it is split into."""
    seen: set[str] = set()
    waiting = [package]
    while waiting:
        part = waiting.pop()
        seen.add(part.name)
        file = lists.download(part, work)
        run(["dpkg-deb", "-x", str(file), str(tree)])
        depends = output_of(["dpkg-deb", "-f", str(file), "Depends"])
        for name in sorted(set(_PARTS.findall(depends)) - seen - {other.name for other in waiting}):
            waiting.append(archive.Package(name, package.version))
        file.unlink()
