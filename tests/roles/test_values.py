"""The roles refuse a number where text is meant, before anything is changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bakehouse import system
from bakehouse.settings import ROOT


def texts(role: str) -> list[tuple[str, Any]]:
    """Return the variables of a role that hold text or lists of text, each with a value that YAML took for a number."""
    spec = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"].items()
    return [
        (name, 2.54) for name, option in options if option["type"] in ("str", "path") and "choices" not in option
    ] + [(name, ["fine", 2.54]) for name, option in options if option.get("elements") in ("str", "path")]


@pytest.mark.parametrize("role", ["java", "jenkins", "nginx"])
def test_a_number_is_no_text(tmp_path: Path, role: str) -> None:
    """The role's first look refuses a number in each variable, says what to write, and lets the defaults pass.

    Each variable is a number on a host of its own. The hosts are this one, so the role is cut off behind that look.
    """
    shutil.copytree(ROOT / "roles" / role, tmp_path / "roles" / role)
    tasks = [
        task for file in ("preflight.yml", "main.yml") for task in _tasks(tmp_path / "roles" / role / "tasks" / file)
    ]
    [look] = [task for task in tasks if task["name"].endswith("What is text is written as text")]
    (tmp_path / "roles" / role / "tasks/main.yml").write_text(json.dumps([look]))
    hosts = {f"with_{name}": {name: value, "ansible_connection": "local"} for name, value in texts(role)}
    inventory = {"all": {"hosts": {**hosts, "with_defaults": {"ansible_connection": "local"}}}}
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": [role]}]))
    ours = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path),
        "ANSIBLE_ROLES_PATH": str(tmp_path / "roles"),
        "ANSIBLE_FORKS": "20",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    }
    line = ["ansible-playbook", "-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml")]

    done = system.call(line, system.environment(**ours), capture_output=True, text=True, check=False)

    told = " ".join(done.stdout.split())
    assert 2 == done.returncode
    for name, _ in texts(role):
        reason = f"{name}: YAML reads a value such as 2.540 as the number 2.54; nothing was changed. hint: "
        assert f'{reason}put the value into quotes, as in {name}: \\"2.540\\"' in told, (name, done.stdout)
    assert re.search(r"with_defaults : ok=[12] changed=0 unreachable=0 failed=0 ", told), done.stdout


def _tasks(file: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(file.read_text()) if file.exists() else []
