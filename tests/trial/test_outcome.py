# SPDX-License-Identifier: Apache-2.0
"""What two real kernels left becomes one table and one status, in every form that is promised."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.trial.runs import LABELS, ended, outcome, plan
from uaptrace.testhost import kernel_sources
from uaptrace.trial.answer_texts import COLUMNS, to_json, to_markdown, to_text
from uaptrace.trial.ci import to_junit, to_ktap
from uaptrace.trial.conditions import parse_condition
from uaptrace.trial.outcome import Ended, judge
from uaptrace.trial.status import WORST_FIRST, TrialStatus

PARSER = ("kunit_parser.py", "kunit_printer.py")


def document(run: Ended) -> Any:
    assert run.result is not None
    return run.result


def broken() -> list[Ended]:
    """The second kernel's first run, with a page that broke an invariant."""
    runs = ended()
    rows = {row["number"]: row for row in document(runs[1])["audit"]["invariants"]}
    rows[8]["violated"] = 5
    return runs


def crashed() -> list[Ended]:
    runs = ended()
    runs[2] = Ended(1, None, "patched: the guest crashed before the command ended", TrialStatus.KERNEL_FAILED)
    return runs


def test_a_good_trial_is_good_and_its_figures_are_those_of_the_runs() -> None:
    made = outcome()
    assert made.status == TrialStatus.OK
    assert made.is_whole
    assert [kernel.label for kernel in made.kernels] == list(LABELS)
    assert not made.kernels[0].rows
    rows = {row.figure.name: row for row in made.kernels[1].rows}
    values = [document(run)["figures"]["splits.2m"] for run in ended()]
    assert (rows["splits.2m"].baseline.low, rows["splits.2m"].baseline.high) == (min(values[::3]), max(values[::3]))
    assert (rows["splits.2m"].candidate.low, rows["splits.2m"].candidate.high) == (min(values[1:3]), max(values[1:3]))
    assert rows["cache.refills"].baseline.median is None


def test_the_kernel_s_own_counters_agree_with_the_table() -> None:
    """splits of a run = what vmstat counted since tracing began, less what uaptrace split itself."""
    for run in ended():
        splits = document(run)["snapshot"]["splits"]
        assert document(run)["figures"]["splits.2m"] == splits["2m"] - splits["by_cause"]["self"]["2m"]
        assert splits["unexplained"] == {"2m": 0, "1g": 0}


def test_the_worst_finding_is_the_status() -> None:
    runs = broken()
    assert outcome(runs).status == TrialStatus.INVARIANT_BROKEN
    assert "invariant 8 (" in to_text(outcome(runs))
    differing = ended()
    document(differing[3])["verify"][0]["differing_pages"] = 2
    assert outcome(differing).status == TrialStatus.PAGES_DIFFER
    doubtful = ended()
    document(doubtful[0])["doubts"] = ["the state is inexact: 3 events were lost"]
    assert outcome(doubtful).status == TrialStatus.CANNOT_TRACE
    made = outcome(crashed(), [parse_condition("events.lost >= 0")])
    assert made.status == TrialStatus.KERNEL_FAILED, "of several the worst"
    assert made.kernels[1].nr_runs == 1
    assert made.kernels[1].rows, "the other runs stay"
    assert set(WORST_FIRST) == set(TrialStatus) - {TrialStatus.OK}


def test_conditions_are_held_against_each_candidate() -> None:
    made = outcome(conditions=[parse_condition("events.lost > 0"), parse_condition("cache.refills > 0")])
    assert made.status == TrialStatus.CONDITION_FAILED
    problems = [check for check in made.kernels[1].checks if check.problem]
    assert [check.title for check in problems] == ["not: cache.refills > 0"]


def test_a_trial_that_was_interrupted_says_so() -> None:
    made = outcome(ended()[:2])
    assert not made.is_whole
    assert "--resume" in to_text(made)
    assert "?" in to_text(made), "one run of each: not known"
    nothing = judge(plan(), [], [])
    assert "no run gave figures" in to_text(nothing)


@pytest.mark.parametrize("runs", [ended, broken, crashed])
def test_the_mail_fits_and_markdown_has_the_same_rows(runs: Any) -> None:
    made = outcome(runs(), [parse_condition("splits.2m > baseline * 1.1")])
    text = to_text(made)
    assert max(map(len, text.splitlines())) <= COLUMNS
    rows = [line for line in to_markdown(made).splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) == len(made.kernels[1].rows)
    for row in made.kernels[1].rows:
        assert row.figure.text in text


def test_long_names_do_not_break_the_table() -> None:
    long = tuple(dataclasses.replace(kernel, label="x" * 200) for kernel in plan().kernels)
    made = judge(dataclasses.replace(plan(), kernels=long), ended(), [])
    assert max(map(len, to_text(made).splitlines())) <= COLUMNS


def test_kernels_that_differ_by_an_argument_have_different_heads() -> None:
    labels = ("patched+unmapped_alloc_fault=0x1", "patched+unmapped_alloc_fault=0x2")
    kernels = tuple(dataclasses.replace(kernel, label=label) for kernel, label in zip(plan().kernels, labels, strict=True))
    text = to_text(judge(dataclasses.replace(plan(), kernels=kernels), ended(), []))
    assert ".._fault=0x1" in text
    assert ".._fault=0x2" in text


def test_json_has_every_figure_of_every_row() -> None:
    said = json.loads(json.dumps(to_json(outcome()), allow_nan=False))
    assert said["status"] == 0
    figures = said["kernels"][1]["figures"]
    assert figures["splits.2m"]["difference"] == figures["splits.2m"]["candidate"]["median"] - figures["splits.2m"]["baseline"]["median"]
    assert set(figures) == {row.figure.name for row in outcome().kernels[1].rows}


def test_junit_counts_and_names_what_failed() -> None:
    top = ElementTree.fromstring(to_junit(outcome(broken())))
    good, bad = top.findall("testsuite")
    assert (good.get("failures"), bad.get("failures")) == ("0", "1")
    (failure,) = bad.iter("failure")
    assert "invariant 8" in (failure.get("message") or "")
    for suite in (good, bad):
        assert int(suite.get("tests") or 0) == len(suite.findall("testcase"))


@pytest.fixture(scope="module")
def junit_schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The schema of Jenkins (junit-10.xsd), out of the source of the pytest that is installed, which checks its own reports by it."""
    import xmlschema

    folder = tmp_path_factory.mktemp("pytest")
    wanted = f"pytest=={importlib.metadata.version('pytest')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary=:all:"]
    subprocess.run([*pip, f"--dest={folder}", wanted], check=True)
    (source,) = folder.glob("pytest-*.tar.gz")
    with tarfile.open(source) as tar:
        (member,) = [member for member in tar if Path(member.name).name == "junit-10.xsd"]
        stream = tar.extractfile(member)
        assert stream is not None
        return xmlschema.XMLSchema(stream.read().decode())


@pytest.mark.slow
@pytest.mark.parametrize("runs", [ended, broken, crashed])
def test_junit_is_what_its_schema_says(runs: Any, junit_schema: Any) -> None:
    document = to_junit(outcome(runs(), [parse_condition("splits.2m > baseline * 1.1")]))
    junit_schema.validate(document)
    assert not junit_schema.is_valid(document.replace("testcase", "case")), "the schema tells wrong ones"


@pytest.fixture(scope="module")
def kunit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel's own parser of KTAP, out of the source that the test kernel is built from."""
    folder = tmp_path_factory.mktemp("kunit")
    with tarfile.open(kernel_sources.source(kernel_sources.default_base()).tarball) as tar:
        for member in tar:
            name = Path(member.name)
            if name.parent.name == "kunit" and name.name in PARSER:
                stream = tar.extractfile(member)
                assert stream is not None
                (folder / name.name).write_bytes(stream.read())
                if all((folder / part).exists() for part in PARSER):
                    break
    return folder


@pytest.mark.slow
def test_the_kernel_s_own_parser_reads_the_ktap(kunit: Path) -> None:
    code = (
        "import json, sys, kunit_parser as k\n"
        "test = k.parse_run_tests(k.extract_tap_lines(iter(sys.stdin.read().splitlines(True))))\n"
        "print('@' + json.dumps({'errors': test.counts.errors, 'passed': test.counts.passed, 'failed': test.counts.failed,"
        " 'names': [sub.name for sub in test.subtests], 'status': test.status.name}))\n"
    )
    for made in (outcome(), outcome(broken())):
        done = subprocess.run([sys.executable, "-c", code], cwd=kunit, input=to_ktap(made), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.rpartition("@")[2])
        checks = [check for kernel in made.kernels for check in kernel.checks]
        failed = sum(bool(check.problem) for check in checks)
        assert (said["errors"], said["passed"], said["failed"]) == (0, len(checks) - failed, failed), done.stdout
        assert said["names"] == list(LABELS)
