"""The house: its wings are the ones that the plan names, its contract refuses what breaks it, a word is one thing."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bakehouse.settings import ROOT

WINGS = ("accounts", "baking", "images", "local", "machines", "proving", "recipes", "records", "runs", "tasks")
MEANS = (
    *("console", "documents", "endings", "errors", "junit", "packers", "patience", "releases", "settings", "sites"),
    *("system", "tools"),
)


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module, by its path in the package."""
    files = sorted((ROOT / "bakehouse").rglob("*.py"))
    return {str(file.relative_to(ROOT / "bakehouse")): ast.parse(file.read_text()) for file in files}


def test_the_wings() -> None:
    """The package has its ten wings and ten means, and nothing beside them."""
    found = {path.name for path in (ROOT / "bakehouse").iterdir() if path.name != "__pycache__"}

    assert {*WINGS, *(f"{name}.py" for name in MEANS), "__init__.py"} == found


def test_tasks_py_is_the_namespace_alone() -> None:
    """tasks.py holds no task: what a task does is inside of the contract."""
    functions = [node for node in ast.parse((ROOT / "tasks.py").read_text()).body if isinstance(node, ast.FunctionDef)]

    assert [] == functions


def test_no_two_records_share_a_name() -> None:
    """A class name means one thing in the whole package."""
    nodes = [node for tree in modules().values() for node in ast.walk(tree)]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))

    assert {} == {name: number for name, number in names.items() if number > 1 and not name.startswith("_")}


def test_time_limits_come_from_one_room() -> None:
    """No module but patience.py, and those of the local EC2, says in a number how long something is waited for."""
    found = []
    for name, tree in modules().items():
        for node in ast.walk(tree) if name != "patience.py" and not name.startswith("local/") else ():
            if isinstance(node, ast.keyword) and node.arg in ("seconds", "timeout", "limit"):
                found += [f"{name}: {node.arg}"] * (isinstance(node.value, ast.Constant) and bool(node.value.value))
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("_SECONDS"):
                found.append(f"{name}: {ast.unparse(node)}")

    assert ["proving/attempts.py: _CLOCK_SECONDS = 1"] == found  # how exact EC2's clock is


STARTS = {
    "subprocess": ("run", "Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput"),
    "os": (
        "system",
        "popen",
        "fork",
        "forkpty",
        *(name for name in dir(os) if name.startswith(("exec", "spawn", "posix_s"))),
    ),
    "asyncio": ("create_subprocess_exec", "create_subprocess_shell"),
    "pty": ("spawn",),
}
# They run on a machine, and in containers.
ELSEWHERE = ("baking/lockouts.py", "records/inspector.py", "local/fitting.py", "local/gate.py")


def test_programs_are_started_in_one_room() -> None:
    """No module but system.py starts a program or passes on our environment, so that each gets one that was chosen."""
    found = []
    for name, tree in modules().items():
        if name != "system.py" and name not in ELSEWHERE:
            found += [f"{name}: {what}" for what in _started(tree)]

    assert ["proving/driver.py: os.environ"] == found  # what Molecule gives its playbooks; it is only read


def _started(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in STARTS:
            yield from (f"{node.module}.{one.name}" for one in node.names if one.name in STARTS[node.module])
        if isinstance(node, ast.Call):
            module, _, name = ast.unparse(node.func).rpartition(".")
            if name in STARTS.get(module, ()):
                yield f"{module}.{name}"
        if isinstance(node, ast.Call | ast.Dict | ast.BinOp | ast.Assign | ast.Return):
            whole = [one for one in ast.iter_child_nodes(node) if ast.unparse(one).strip("*") == "os.environ"]
            yield from ("os.environ" for _ in whole)


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
