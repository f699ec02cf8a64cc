# SPDX-License-Identifier: Apache-2.0
"""Inside a guest whose first process is systemd: what a user does with the package, and what came of it, as JSON in the file given.

At its first boot it is enabled, killed, upgraded; at the second, for which the file is there already, it is looked at and purged.
Needs nothing but Python: uaptrace is the package's.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 300
URL = "http://127.0.0.1:9970"
PROMETHEUS = "http://127.0.0.1:9090"
NEXT = "/root/next.deb"
DEFAULTS = Path("/etc/default/uaptrace")
OWN_LINE = "# changed on this host\n"
KEPT = Path("/root/kept")
"""What is looked at where a test fails: the purge takes the recordings away."""
FIGURES = re.compile(r"uaptrace_(state_exact|exact|hook_attached|direct_map_[a-z_]*splits_total)\b")


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def show(unit: str, name: str) -> str:
    return str(run("systemctl", "show", "-p", name, "--value", unit)["stdout"]).strip()


def get(path: str, url: str = URL) -> str:
    try:
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())
    except OSError as error:
        return f"no answer: {error}"


def until(condition: Callable[[], object]) -> bool:
    """Wait for it. Whether it came within the patience that there is."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def until_active(unit: str) -> bool:
    return until(lambda: run("systemctl", "is-active", unit)["stdout"].strip() == "active")


def privileges(unit: str) -> dict[str, str]:
    status = Path(f"/proc/{show(unit, 'MainPID')}/status").read_text()
    return dict(re.findall(r"^(Uid|CapEff|CapBnd|NoNewPrivs):\s*(\S+)", status, re.MULTILINE))


def figures() -> list[str]:
    return [line for line in get("/metrics").splitlines() if FIGURES.match(line)]


def journal() -> str:
    return str(run("journalctl", "-u", "uaptrace", "-u", "uaptrace-record", "--no-pager")["stdout"])


def until_scraping() -> bool:
    """Start Prometheus, whose settings name uaptrace's endpoint, and wait for its first scrape, which nobody answers."""
    run("systemctl", "start", "prometheus")
    return until(lambda: samples("up"))


def samples(metric: str) -> list[tuple[float, float]]:
    """What Prometheus has of a metric of uaptrace's: seconds since 1970, and values."""
    query = urllib.parse.urlencode({"query": f'{metric}{{job="uaptrace"}}[1h]'})
    try:
        found = json.loads(get(f"/api/v1/query?{query}", PROMETHEUS))["data"]["result"]
    except (ValueError, KeyError):
        return []
    return [(float(time_s), float(value)) for series in found for time_s, value in series["values"]]


def until_scraped_exact() -> list[tuple[float, float]]:
    """The samples up to the first one that says that the state is exact."""
    until(lambda: any(value == 1 for _, value in samples("uaptrace_state_exact")))
    return samples("uaptrace_state_exact")


def first_boot() -> dict[str, Any]:
    compiler = importlib.util.find_spec("bcc")
    seen: dict[str, Any] = {
        "compiler": compiler and compiler.origin,
        "check": run("uaptrace", "check"),
        "man": len(list(Path("/usr/share/man/man1").glob("uaptrace*.gz"))),
    }
    seen["scraping"] = until_scraping()
    seen["enable"] = run("systemctl", "enable", "--now", "uaptrace")
    seen["enabled_s"] = time.time()
    seen["scraped"] = until_scraped_exact()
    seen["scrapes"] = samples("up")
    run("systemctl", "stop", "prometheus")
    seen["status_text"] = show("uaptrace", "StatusText")
    seen["user"] = run("id", "-u", "uaptrace")["stdout"].strip()
    seen["privileges"] = privileges("uaptrace")
    seen["metrics"] = figures()
    seen["ready"] = get("/readyz")
    run("systemctl", "kill", "-s", "KILL", "uaptrace")
    until(lambda: show("uaptrace", "NRestarts") != "0")
    seen["active_again"] = until_active("uaptrace")
    seen["ready_again"] = get("/readyz")
    seen["top"] = run("uaptrace", "top", "--once", "--connect", "127.0.0.1:9970")
    seen["record"] = [run("systemctl", "start", "uaptrace-record"), run("systemctl", "stop", "uaptrace-record")]
    seen["recording"] = run("uaptrace", "recording", "info", "/var/lib/uaptrace/host.uaptrace")
    run("systemctl", "start", "uaptrace-record")
    seen["previous"] = [path.name for path in Path("/var/lib/uaptrace/previous").glob("*")]
    with DEFAULTS.open("a") as defaults:
        defaults.write(OWN_LINE)
    before = show("uaptrace", "MainPID")
    # Each file written through to the machine's disk would take ten minutes here.
    seen["upgrade"] = run("dpkg", "--force-unsafe-io", "--force-confold", "--install", NEXT)
    seen["upgraded_to"] = run("dpkg-query", "-W", "-f", "${Version}", "uaptrace")["stdout"]
    seen["upgraded_active"] = until_active("uaptrace") and show("uaptrace", "MainPID") != before
    seen["upgraded_ready"] = get("/readyz")
    seen["kept_defaults"] = DEFAULTS.read_text().endswith(OWN_LINE)
    shutil.copytree("/var/lib/uaptrace", KEPT)
    seen["enable_record"] = run("systemctl", "enable", "uaptrace-record")
    seen["first_journal"] = journal()
    return seen


def second_boot() -> dict[str, Any]:
    seen: dict[str, Any] = {
        "boot_active": [until_active(unit) for unit in ("uaptrace", "uaptrace-record")],
        "boot_ready": get("/readyz"),
        "boot_metrics": figures(),
        "boot_restarts": show("uaptrace", "NRestarts"),
        "boot_previous": [path.name for path in Path("/var/lib/uaptrace/previous").glob("*")],
        "vmstat": [line for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("direct_map_level")],
        "boot_times": run("systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "uaptrace", "systemd-modules-load", "basic.target")[
            "stdout"
        ],
    }
    seen["security"] = {
        unit: run("systemd-analyze", "security", "--no-pager", f"{unit}.service")["stdout"].strip().splitlines()[-1:]
        for unit in ("uaptrace", "uaptrace-record")
    }
    seen["verify_units"] = run("systemd-analyze", "verify", "uaptrace.service", "uaptrace-record.service")
    seen["purge"] = run("dpkg", "--purge", "uaptrace")
    places = ("/etc", "/usr", "/lib", "/var/cache", "/var/lib/uaptrace", "/run/uaptrace")
    # Formatted pages are man-db's: it makes them when it likes, and expires them by its own timer.
    found = run("find", *places, "-xdev", "-path", "/var/cache/man", "-prune", "-o", "-iname", "*uaptrace*", "-print")["stdout"].split()
    # The archive's own list of installed files remembers nothing after a purge.
    seen["left_files"] = found
    seen["left_user"] = run("id", "uaptrace")["status"] == 0
    seen["left_processes"] = run("pgrep", "-f", "/usr/bin/uaptrace")["stdout"]
    seen["journal"] = journal()
    return seen


def main() -> None:
    answer = Path(sys.argv[1])
    before = json.loads(answer.read_text()) if answer.exists() else None
    answer.write_text(json.dumps(first_boot() if before is None else before | second_boot()))


if __name__ == "__main__":
    main()
