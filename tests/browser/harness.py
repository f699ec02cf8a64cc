# SPDX-License-Identifier: Apache-2.0
"""Installs, builds and runs the page of this directory. What npm installs is kept in the user's cache folder, so that
only the first run needs the network; the page is built again when its source changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.dashboards.prometheus import Prometheus, find

HERE = Path(__file__).parent
PACKAGE_FILES = ("package.json", "package-lock.json")
PAGE_FILES = ("index.html", "vite.config.mjs", "render.mjs", "schema.mjs")
NPM_CI = ("npm", "ci", "--legacy-peer-deps", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error")


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uaptrace"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two test runs at once install and build one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed in {directory}:\n{(done.stdout + done.stderr)[:4000]}")
    return done.stdout


def installed() -> Path:
    """Directory with ``node_modules`` as package-lock.json says."""
    directory = _cache_root() / f"browser-{_digest([HERE / name for name in PACKAGE_FILES])}"
    with _locked(directory.with_suffix(".lock")):
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for name in PACKAGE_FILES:
                shutil.copy(HERE / name, directory)
            _run(NPM_CI, directory)
            (directory / "complete").touch()
    return directory


def built() -> Path:
    """Directory with the built page and the programs that use it."""
    sources = [*(HERE / name for name in PAGE_FILES), *(HERE / "src").iterdir()]
    modules = installed()
    # Below node_modules, so that Node and Vite find the packages as they would in a checkout.
    directory = modules / f"page-{_digest(sources)}"
    with _locked(directory.with_suffix(".lock")):
        if not (directory / "dist/index.html").exists():
            for old in modules.glob("page-*/"):
                shutil.rmtree(old)
            (directory / "src").mkdir(parents=True)
            for source in sources:
                shutil.copy(source, directory / source.relative_to(HERE))
            _run(["node", str(modules / "node_modules/vite/bin/vite.js"), "build", "--logLevel", "error"], directory)
    return directory


def grafana_says(what: str) -> Any:
    """``schema`` or ``units``, as Grafana's packages have them."""
    return json.loads(_run(["node", "schema.mjs", what], built()))


@dataclass(frozen=True)
class Job:
    """One dashboard to render."""

    name: str
    dashboard: Mapping[str, Any]
    picture: Path | None = None


def with_hosts(dashboard: Mapping[str, Any], instances: Sequence[str]) -> dict[str, Any]:
    """The dashboard as after choosing hosts in it."""
    changed: dict[str, Any] = json.loads(json.dumps(dashboard))
    for variable in changed["templating"]["list"]:
        if variable["name"] == "instance":
            variable["current"] = {"text": list(instances), "value": list(instances)}
    return changed


def render(
    jobs: Sequence[Job], prometheus: Prometheus, begin_s: float, end_s: float, scrape_interval_s: int, width: int = 1600
) -> dict[str, dict[str, Any]]:
    """Render dashboards for the time given; what became of them, by name (see render.mjs and src/report.ts)."""
    page = built()
    with tempfile.TemporaryDirectory(prefix="uaptrace-browser-") as temporary:
        directory = Path(temporary)
        dashboards = []
        for job in jobs:
            file = directory / f"{job.name}.json"
            file.write_text(json.dumps(job.dashboard))
            dashboards.append({"name": job.name, "file": str(file), "picture": job.picture and str(job.picture)})
        order = {
            "prometheus": prometheus.url,
            "chromium": find("chromium"),
            "scrape": f"{scrape_interval_s}s",
            "from": datetime.fromtimestamp(begin_s, UTC).isoformat(),
            "to": datetime.fromtimestamp(end_s, UTC).isoformat(),
            "width": width,
            "dashboards": dashboards,
        }
        (directory / "job.json").write_text(json.dumps(order))
        reports = json.loads(_run(["node", "render.mjs", str(directory / "job.json")], page))
    return {report["name"]: report for report in reports}
