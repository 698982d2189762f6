"""The errors: what a person reads and the exit code they get."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bakehouse import errors
from bakehouse.errors import BakehouseError, CloudError, InputError

ROOT = Path(__file__).parent.parent

TASKS = """\
from invoke import task
from bakehouse.errors import InputError

@task
def fail(c):
    raise InputError("image ami-1 is not known", "./inv images lists them")
"""


@pytest.mark.parametrize(
    ("hint", "message"), [("", "error: no such thing"), ("look", "error: no such thing\nhint: look")]
)
def test_the_message_is_a_line_and_a_hint(hint: str, message: str) -> None:
    """An error is one line, and a second one that helps."""
    assert message == InputError("no such thing", hint).message


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The docstring draws every error with its exit code."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BakehouseError)]
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines() if line.lstrip()[:1] in ("*", "+", "x")]
    codes = {name: code for _, name, code, *_ in drawn[1:]}

    assert {kind.__name__ for kind in kinds} == {"BakehouseError", *codes}
    for kind in kinds:
        assert codes.get(kind.__name__, "(1)") == f"({kind.code})"


def test_cloud_errors_carry_awss_code() -> None:
    """A refusal of the API says which one it was."""
    assert "InvalidAMIID.NotFound" == CloudError("no", aws_code="InvalidAMIID.NotFound").aws_code


@pytest.mark.parametrize("debug", [False, True])
def test_invoke_prints_it_and_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    """A task that raises ends with the code and the message on stderr; the traceback is for those who ask."""
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if debug:
        monkeypatch.setenv("BAKEHOUSE_DEBUG", "1")

    done = subprocess.run(
        [Path(sys.executable).with_name("invoke"), "fail"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.endswith("error: image ami-1 is not known\nhint: ./inv images lists them\n")
    assert debug == ("Traceback" in done.stderr)
