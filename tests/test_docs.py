"""The docs hold what the tasks are: each has its sentence and its flags' help, and README names each."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from invoke.tasks import Task

import tasks
from bakehouse.settings import ROOT
from bakehouse.tasks import SHORT

TASKS = sorted(tasks.ns.task_names)


def task(name: str) -> Task[Any]:
    """Return the task of this name."""
    found: Task[Any] = tasks.ns[name]
    return copy.deepcopy(found)  # Invoke uses up a task's help when it reads the arguments


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_does(name: str) -> None:
    """Each task has a docstring of one sentence that fits a line of the list."""
    [line] = (task(name).__doc__ or "").strip().splitlines()

    assert line.endswith(".")
    assert 70 >= len(line)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_explains_its_flags(name: str) -> None:
    """Each flag has its help, and only the most used have a short form: it would have to stay for ever."""
    arguments = task(name).get_arguments()

    assert [] == [argument.name for argument in arguments if not argument.help]
    short = {argument.names[0]: argument.nicknames for argument in arguments if argument.nicknames}
    assert {name: (letter,) for name, letter in SHORT.items() if name in short} == short


@pytest.mark.parametrize("name", TASKS)
def test_readme_names_the_task(name: str) -> None:
    """README shows how each task is called, by its whole name."""
    assert name in re.findall(r"\./inv ([a-z.-]*[a-z])", (ROOT / "README.md").read_text())


def test_every_public_name_has_a_docstring() -> None:
    """What is public in the package, the tasks and the tests says in a sentence what it is."""
    assert [] == [f"{path}: {name}" for path, name in _silent()]


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    """The list of tasks needs none of the libraries that take long to import, only Invoke."""
    line = [sys.executable, "-X", "importtime", "-m", "invoke", "--list"]
    told = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    heavy = {"ansible", "ansible_runner", "boto3", "botocore", "docker", "hcl2", "molecule", "moto", "requests", "rich"}

    assert {"invoke"} == (heavy | {"invoke"}) & set(re.findall(r"\| +(\w+)$", told, re.MULTILINE))


def _silent() -> Iterator[tuple[str, str]]:
    for path in (
        ROOT / "tasks.py",
        *ROOT.glob("bakehouse/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("inventory/*.py"),
    ):
        tree = ast.parse(path.read_text())
        if path.stat().st_size and not ast.get_docstring(tree):
            yield str(path.relative_to(ROOT)), "the module"
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith(("_", "do_", "visit_")):
                continue  # private, or a name that another library has chosen
            if not ast.get_docstring(node) and not _is_local(tree, node):
                yield str(path.relative_to(ROOT)), node.name


def _is_local(tree: ast.Module, wanted: ast.AST) -> bool:
    """Tell whether a definition is inside of a function, or of something private."""
    return any(
        wanted in ast.walk(node) and wanted is not node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.ClassDef) and node.name.startswith("_"))
    )
