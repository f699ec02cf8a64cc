# SPDX-License-Identifier: Apache-2.0
"""uaptrace in a container: with what the DaemonSet gives it, and nothing else, it traces the host; with less it says what is missing.

The container is made of the namespaces, capabilities and mounts of packaging/container/daemonset.yaml, over the files of a Debian tree.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vm.conftest import GUEST_LIMIT_S
from uaptrace.kernel.container import CAPABILITIES

TOP = Path(__file__).parents[2]
KERNEL = "debian-6.12"
NODE = "node-7"

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def pod() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TOP / "packaging/container/daemonset.yaml").read_text())["spec"]["template"]["spec"]
    return found


def mounts() -> list[str]:
    """Paths of the host that the container has at the same place."""
    spec = pod()
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    for mount in spec["containers"][0]["volumeMounts"]:
        assert paths[mount["name"]] == mount["mountPath"]
        assert mount["readOnly"]
    return list(paths.values())


def capabilities() -> list[str]:
    given = pod()["containers"][0]["securityContext"]["capabilities"]
    assert given["drop"] == ["ALL"]
    return [name.lower() for name in given["add"]]


def test_the_manifest_gives_what_check_asks_for_and_no_more() -> None:
    assert {f"CAP_{name.upper()}" for name in capabilities()} == set(CAPABILITIES)
    assert pod()["hostPID"]
    assert not {"hostNetwork", "hostIPC"} & pod().keys()
    (variable,) = pod()["containers"][0]["env"]
    assert variable == {"name": "UAPTRACE_HOST_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}


@pytest.fixture(scope="module")
def said() -> list[dict[str, Any]]:
    """What check, verify and top said in the pod, and check in a container that has less."""
    made = subprocess.run([str(TOP / "kernel/tree"), "13"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    script = [str(TOP / "tests/vm/container.sh"), "host", " ".join(mounts()), ",".join(capabilities()), NODE]
    command = [str(TOP / "kernel/boot"), "--kernel", KERNEL, "--root", made.stdout.splitlines()[-1], "--timeout", GUEST_LIMIT_S]
    done = subprocess.run([*command, "--", *script], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    found, text, decoder = [], done.stdout, json.JSONDecoder()
    while text.strip():
        document, end = decoder.raw_decode(text.lstrip())
        found.append(document)
        text = text.lstrip()[end:]
    return found


def finding(check: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in check["findings"] if each["name"] == name)
    return found


def test_check_in_the_pod_is_content(said: list[dict[str, Any]]) -> None:
    check = said[0]
    assert finding(check, "container")["detail"] == "in a container: it sees what it needs of the host"
    assert {hook["state"] for hook in check["hooks"]} == {"loads", "not needed"}
    assert check["status"] == "ready", [each for each in check["findings"] if not each["ok"]]
    assert finding(check, "page tables")["detail"] == "read by a BPF program (/proc/kcore: masked by a container runtime)"


def test_no_page_differs_as_the_pod_sees_it(said: list[dict[str, Any]]) -> None:
    verdict = said[1]
    assert verdict["differing_pages"] == 0
    assert verdict["compared_pages"] >= verdict["expected_pages"] > 100_000
    assert verdict["doubts"] == []


def test_work_of_the_host_has_its_names(said: list[dict[str, Any]]) -> None:
    snapshot = said[2]
    assert snapshot["host"]["hostname"] == NODE
    assert snapshot["exact"]
    assert "/other.slice" in {row["cgroup"] for row in snapshot["processes"]}


def test_check_in_a_container_that_has_less_names_each_thing_and_what_mends_it(said: list[dict[str, Any]]) -> None:
    found = finding(said[3], "container")
    assert not found["ok"]
    for what, mend in (
        ("CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_PERFMON missing", "capabilities.add"),
        ("its process ids are not the host's", "hostPID"),
        ("it sees its own cgroups only", "mount the host's /sys/fs/cgroup"),
        ("its host name is not the host's", "UAPTRACE_HOST_NAME"),
    ):
        assert what in found["detail"]
        assert mend in found["mend"]
