# SPDX-License-Identifier: Apache-2.0
"""A program that the kernel's verifier refuses: every command says so, with the verifier's reason, and by its exit status."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import GUEST_LIMIT_S
from tests.vm.refused import copies

TOP = Path(__file__).parents[2]
REASON = re.compile(r"R\d invalid mem access 'scalar'")

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, Any]]:
    folder = TOP / "build/vm/refused"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "result.json"
    out.unlink(missing_ok=True)
    made = folder / "copies"
    shutil.rmtree(made, ignore_errors=True)
    copies(made)
    command = [str(TOP / "kernel/boot"), "--kernel", "debian-6.12", "--timeout", GUEST_LIMIT_S]
    command += ["--", sys.executable, "-m", "tests.vm.refused", str(out), str(made)]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, (folder / "log").read_text(errors="replace")[-4000:]
    result: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return result


def hooks(answer: dict[str, Any]) -> dict[str, Any]:
    return {hook["name"]: hook for hook in json.loads(answer["stdout"])["hooks"]}


def test_without_it_all_is_well(said: dict[str, dict[str, Any]]) -> None:
    whole = said["whole"]
    assert whole["check"]["status"] == 0, whole["check"]
    assert whole["check"]["stdout"].splitlines()[0].endswith(": ready")
    states = {hook["state"] for hook in hooks(whole["check_json"]).values()}
    assert states == {"loads", "not needed"}
    assert whole["verify_json"]["status"] == 0, whole["verify_json"]
    document = json.loads(whole["verify_json"]["stdout"])
    assert document["compared_pages"] >= document["expected_pages"] > 100_000
    assert document["doubts"] == []


def test_a_hook_is_added_by_a_line_and_a_row(said: dict[str, dict[str, Any]]) -> None:
    check = hooks(said["added"]["check_json"])["vfree"]
    assert (check["state"], check["symbol"]) == ("loads", "vfree"), check
    assert 'uaptrace_hook_attached{hook="vfree"} 1.0' in said["added"]["serve"]["metrics"]["body"]
    assert said["added"]["serve"]["readyz"]["status"] == 200


def test_a_kernel_that_does_not_compile_programs_is_traced_all_the_same(said: dict[str, dict[str, Any]]) -> None:
    """net.core.bpf_jit_enable=0: no calls of kernel functions, no fentry."""
    answers = said["without_jit"]
    assert answers["verify_json"]["status"] == 0, answers["verify_json"]
    document = json.loads(answers["verify_json"]["stdout"])
    assert document["differing_pages"] == 0
    assert document["doubts"] == []
    assert {hook["state"] for hook in hooks(answers["check_json"]).values()} == {"loads", "not needed"}


def test_check_has_the_whole_of_what_the_verifier_said_where_it_is_asked_for(said: dict[str, dict[str, Any]]) -> None:
    check = said["refused"]["check_verbose"]
    assert check["status"] == 1
    logs = json.loads(check["stdout"])["logs"]
    assert set(logs) == {"flush_all"}
    for log in logs["flush_all"]:
        assert REASON.search(log)
        assert len(log.splitlines()) > 20
    assert "logs" not in json.loads(said["refused"]["check_json"]["stdout"])


def test_check_has_tried_it_and_has_the_reason(said: dict[str, dict[str, Any]]) -> None:
    check = said["refused"]["check"]
    assert check["status"] == 1
    assert "degraded" in check["stdout"].splitlines()[0]
    (line,) = (line for line in check["stdout"].splitlines() if "REFUSED" in line)
    assert "flush_tlb_all()" in line
    assert REASON.search(line)
    answer = said["refused"]["check_json"]
    assert answer["status"] == 1
    assert json.loads(answer["stdout"])["status"] == "degraded"
    assert {name for name, hook in hooks(answer).items() if hook["state"] == "refused"} == {"flush_all"}
    assert REASON.fullmatch(hooks(answer)["flush_all"]["reason"])
    assert hooks(answer)["cpa"]["state"] == "loads", "one that is refused takes nothing else down"


def test_top_says_inexact_and_why(said: dict[str, dict[str, Any]]) -> None:
    text = said["refused"]["top"]
    assert text["status"] == 0, text["stderr"]
    assert "INEXACT" in text["stdout"]
    assert re.search(r"refused flush_all: " + REASON.pattern, text["stdout"])
    answer = said["refused"]["top_json"]
    hook = hooks(answer)["flush_all"]
    assert hook["state"] == "refused"
    assert hook["mechanism"] is None
    assert REASON.fullmatch(hook["reason"])
    assert not json.loads(answer["stdout"])["exact"]


def test_verify_proves_nothing(said: dict[str, dict[str, Any]]) -> None:
    for name in ("verify", "verify_json"):
        answer = said["refused"][name]
        assert answer["status"] == 1, answer
        assert len(answer["stderr"].splitlines()) == 1
        assert re.search(r"the hook flush_all is refused: " + REASON.pattern, answer["stderr"])
    document = json.loads(said["refused"]["verify_json"]["stdout"])
    assert document["differing_pages"] == 0
    assert len(document["doubts"]) == 2


def test_the_endpoint_says_so(said: dict[str, dict[str, Any]]) -> None:
    served = said["refused"]["serve"]
    assert served["readyz"]["status"] == 503
    assert "flush_all" in served["readyz"]["body"]
    metrics = served["metrics"]["body"]
    assert re.search(r'^uaptrace_hook_fault\{hook="flush_all",state="refused",why="' + REASON.pattern + r'"\} 1\.0$', metrics, re.M)
    assert 'uaptrace_hook_attached{hook="flush_all"} 0.0' in metrics
    assert "uaptrace_state_exact 0.0" in metrics
    assert served["status"]["status"] == 0
