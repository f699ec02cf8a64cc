# SPDX-License-Identifier: Apache-2.0
"""Write the dashboards to ``grafana/dashboards/``, or with ``--check`` say which of them are stale (exit status 1).

Needs nothing but Python: ``python -m grafana.generate``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana.generator import direct_map, fleet, itself, splits, unmapped_cache
from grafana.generator.panels import Json

DIRECTORY = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, Json]:
    """All dashboards by file name."""
    made = [module.make() for module in (fleet, direct_map, splits, unmapped_cache, itself)]
    return {f"{dashboard['uid']}.json": dashboard for dashboard in made}


def as_text(dashboard: Json) -> str:
    """The text of a file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def stale_files() -> list[str]:
    """Names of files that are missing, differ from what would be written, or belong to no dashboard."""
    wanted = {name: as_text(dashboard) for name, dashboard in dashboards().items()}
    found = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="write the Grafana dashboards")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file is stale")
    if parser.parse_args().check:
        for name in stale_files():
            print(f"{DIRECTORY / name} is stale: run python -m grafana.generate", file=sys.stderr)
        return 1 if stale_files() else 0
    DIRECTORY.mkdir(exist_ok=True)
    for name, dashboard in dashboards().items():
        (DIRECTORY / name).write_text(as_text(dashboard))
    return 0


if __name__ == "__main__":
    sys.exit(main())
