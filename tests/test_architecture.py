"""The house: its wings are the ones that the plan names, its contract refuses what breaks it, a word is one thing."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bakehouse.settings import ROOT

WINGS = ("accounts", "baking", "images", "local", "machines", "proving", "recipes", "records", "runs", "tasks")
MEANS = ("console", "documents", "errors", "junit", "settings", "system", "tools")


def test_the_wings() -> None:
    """The package has its ten wings and seven means, and nothing beside them."""
    found = {path.name for path in (ROOT / "bakehouse").iterdir() if path.name != "__pycache__"}

    assert {*WINGS, *(f"{name}.py" for name in MEANS), "__init__.py"} == found


def test_tasks_py_is_the_namespace_alone() -> None:
    """tasks.py holds no task: what a task does is inside of the contract."""
    functions = [node for node in ast.parse((ROOT / "tasks.py").read_text()).body if isinstance(node, ast.FunctionDef)]

    assert [] == functions


def test_no_two_records_share_a_name() -> None:
    """A class name means one thing in the whole package."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "bakehouse").rglob("*.py")]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))

    assert {} == {name: number for name, number in names.items() if number > 1 and not name.startswith("_")}


BREAKS = {
    "recipes know accounts": ("recipes/inputs.py", "from bakehouse import accounts", "The house"),
    "images know machines": ("images/outputs.py", "from bakehouse import machines", "The house"),
    "records know recipes": ("records/store.py", "from bakehouse import recipes", "The house"),
    "a face knows its own room": ("images/__init__.py", "from bakehouse.images import channels", "A wing's face"),
    "a utils": ("images/utils.py", "", "images"),
}


@pytest.mark.parametrize(("file", "line", "contract"), BREAKS.values(), ids=BREAKS)
def test_the_contract_refuses(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """An import that goes up or sideways, a face that imports its room and a room on no floor fail the build."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "bakehouse", tmp_path / "bakehouse", ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "bakehouse" / file
    broken.write_text((broken.read_text() if broken.exists() else '"""Break."""\n') + f"\n{line}  # noqa\n")

    told = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == told.returncode, told.stdout + told.stderr
    assert contract in "".join(line for line in told.stdout.splitlines(keepends=True) if "KEPT" not in line)
