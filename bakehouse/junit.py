"""JUnit: writes findings as a JUnit report, which CI systems read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

from bakehouse.errors import InputError, printable

Outcome = Literal["good", "failure", "skipped"]


@dataclass(frozen=True)
class Case:
    """Hold one case: its name, its seconds, its outcome, and what was seen or the reason of the outcome."""

    name: str
    seconds: float
    outcome: Outcome
    told: str = ""


@dataclass(frozen=True)
class Suite:
    """Hold a suite of cases: its name, the class name under which a CI system lists the cases, and the cases."""

    name: str
    place: str
    cases: tuple[Case, ...]


def insist_writable(path: str) -> None:
    """Raise InputError if no report can be written to a file; it stays unchanged. Call this before long work."""
    file = Path(path)
    try:
        new = not file.exists()
        file.open("a").close()
        if new:
            file.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def write(path: str, title: str, suites: Sequence[Suite]) -> None:
    """Write suites into a file as a JUnit report; raises InputError when the file can't be written."""
    try:
        Path(path).write_text(as_junit(title, suites))
    except OSError as error:
        raise _refused(path, error) from error


def as_junit(title: str, suites: Sequence[Suite]) -> str:
    """Return suites as the XML text of a JUnit report."""
    report = ET.Element("testsuites", name=title)
    for suite in suites:
        about = {
            "name": printable(suite.name),
            "tests": str(len(suite.cases)),
            "failures": str(sum(case.outcome == "failure" for case in suite.cases)),
            "skipped": str(sum(case.outcome == "skipped" for case in suite.cases)),
            "time": f"{sum(case.seconds for case in suite.cases):.3f}",
        }
        element = ET.SubElement(report, "testsuite", about)
        for case in suite.cases:
            _add(element, suite.place, case)
    ET.indent(report)
    return ET.tostring(report, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: ET.Element, place: str, case: Case) -> None:
    about = {"classname": printable(place), "name": printable(case.name), "time": f"{case.seconds:.3f}"}
    element = ET.SubElement(suite, "testcase", about)
    told = printable(case.told)  # XML can't hold control characters
    if case.outcome == "good":
        ET.SubElement(element, "system-out").text = told
    else:
        ET.SubElement(element, case.outcome, message=told)


def _refused(path: str, error: OSError) -> InputError:
    return InputError(
        f"--junit {path} can't be written: {error.strerror}",
        "name a file in a folder that exists and that you may write to",
    )
