# SPDX-License-Identifier: Apache-2.0
"""The answer of a trial for test machines: KTAP (Documentation/dev-tools/ktap.rst of the kernel) and JUnit's XML. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from uaptrace.process.plain import plain
from uaptrace.trial.outcome import Outcome


def to_ktap(outcome: Outcome) -> str:
    """A test for each kernel, and a subtest for each of its checks."""
    lines = ["KTAP version 1", f"1..{len(outcome.kernels)}"]
    for number, kernel in enumerate(outcome.kernels, 1):
        lines += ["  KTAP version 1", f"  1..{len(kernel.checks)}"]
        for place, check in enumerate(kernel.checks, 1):
            if check.problem:
                lines.append(f"  # {_word(check.problem)}")
            lines.append(f"  {'not ok' if check.problem else 'ok'} {place} {_word(check.title)}")
        passed = not any(check.problem for check in kernel.checks)
        lines.append(f"{'ok' if passed else 'not ok'} {number} {_word(kernel.label)}")
    return "\n".join(lines) + "\n"


def _word(text: str) -> str:
    # "#" begins a directive.
    return plain(text).replace("#", "number ")


def to_junit(outcome: Outcome) -> str:
    """A suite for each kernel, and a case for each of its checks."""
    top = ElementTree.Element("testsuites", name="uaptrace trial")
    for kernel in outcome.kernels:
        failures = sum(bool(check.problem) for check in kernel.checks)
        suite = ElementTree.SubElement(
            top, "testsuite", name=plain(kernel.label), tests=str(len(kernel.checks)), failures=str(failures), errors="0", skipped="0"
        )
        for check in kernel.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=plain(kernel.label), name=plain(check.title))
            if check.problem:
                ElementTree.SubElement(case, "failure", message=plain(check.problem), type=check.status.name)
    ElementTree.indent(top)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(top, encoding="unicode")}\n'
