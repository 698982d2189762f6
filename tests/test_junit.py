"""JUnit: findings become a JUnit report, and a file that can't be written is refused beforehand."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bakehouse import junit
from bakehouse.errors import InputError
from bakehouse.junit import Case, Suite

CASES = (
    Case("SSH", 0.25, "good", "admin@127.4.5.6"),
    Case("GET /login", 0.5, "failure", "503 <starting> \x1b[0m"),
    Case("GET /health", 0, "skipped", "no answer"),
)
SUITE = Suite("i-1", "jenkins.i-1", CASES)
REPORT = """\
<?xml version='1.0' encoding='utf-8'?>
<testsuites name="x">
  <testsuite name="i-1" tests="3" failures="1" skipped="1" time="0.750">
    <testcase classname="jenkins.i-1" name="SSH" time="0.250">
      <system-out>admin@127.4.5.6</system-out>
    </testcase>
    <testcase classname="jenkins.i-1" name="GET /login" time="0.500">
      <failure message="503 &lt;starting&gt; [0m" />
    </testcase>
    <testcase classname="jenkins.i-1" name="GET /health" time="0.000">
      <skipped message="no answer" />
    </testcase>
  </testsuite>
</testsuites>
"""


def test_as_junit() -> None:
    """A report counts each suite's cases and holds what was told of each, and is XML whatever that is."""
    [suite] = ET.fromstring(junit.as_junit("bakehouse probe", [SUITE]))  # noqa: S314, our own

    expected = {"name": "i-1", "tests": "3", "failures": "1", "skipped": "1", "time": "0.750"}
    assert expected == suite.attrib
    assert {"classname": "jenkins.i-1", "name": "SSH", "time": "0.250"} == suite[0].attrib
    assert [
        ("system-out", {}, "admin@127.4.5.6"),
        ("failure", {"message": "503 <starting> [0m"}, None),
        ("skipped", {"message": "no answer"}, None),
    ] == [(told.tag, told.attrib, told.text) for case in suite for told in case]


def test_write(tmp_path: Path) -> None:
    """The look whether a report can be written leaves no file and changes none; the report then takes its place."""
    new, old = tmp_path / "new.xml", tmp_path / "old.xml"
    old.write_text("before")

    for file in (new, old):
        junit.insist_writable(str(file))
    assert (False, "before") == (new.exists(), old.read_text())

    junit.write(str(old), "x", [SUITE])
    assert REPORT == old.read_text()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/x.xml", "No such file"),
        (".", "Is a directory"),
        ("/sys/x.xml", "Permission denied|Read-only file system"),
    ],
    ids=["no folder", "a folder", "no permission"],
)
def test_refused(tmp_path: Path, path: str, reason: str) -> None:
    """A file that can't be written is refused by its name with the reason, before the work as after it."""
    where = tmp_path / path
    with pytest.raises(InputError, match=rf"^--junit {where} can't be written: ({reason})"):
        junit.insist_writable(str(where))
    with pytest.raises(InputError, match=rf"^--junit {where} can't be written: ({reason})"):
        junit.write(str(where), "x", [])
