"""Inventories: our machines as Ansible itself sees them through the inventory folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from samples import MACHINE

from bakehouse.machines import Machine, inventories
from bakehouse.settings import ROOT, Settings

OTHER = Machine(**{**MACHINE.__dict__, "id": "i-00000000000000001", "recipe": "nginx", "address": "127.7.7.7"})


def ansible(folder: Path, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-inventory in a checkout, as one does in an activated venv."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["ansible-inventory", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "BAKEHOUSE_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_inventory(settings: Settings) -> None:
    """There is a group for each recipe, and each machine is entered with our key and known by its ID."""
    read = inventories.inventory(settings, [MACHINE, OTHER])

    told = read["_meta"]["hostvars"][MACHINE.id]
    assert ([MACHINE.id], [OTHER.id]) == (read["jenkins"]["hosts"], read["nginx"]["hosts"])
    assert ({"__ansible_unsafe": "127.4.5.6"}, {"__ansible_unsafe": "admin"}) == (
        told["ansible_host"],
        told["ansible_user"],
    )
    assert ("ssh", True) == (told["ansible_connection"], told["ansible_host_key_checking"])
    assert f"HostKeyAlias={MACHINE.id}" in told["ansible_ssh_args"].split()


def test_ansible_takes_it(tmp_path: Path, settings: Settings) -> None:
    """Ansible reads the folder with our answer in it, applies the group_vars, and has nothing to warn of."""
    answer = json.dumps(inventories.inventory(settings, [MACHINE]))
    _checkout(tmp_path, f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")

    outcome = ansible(tmp_path, settings.state, "--list")

    told = json.loads(outcome.stdout)
    assert "" == outcome.stderr
    assert [MACHINE.id] == told["jenkins"]["hosts"]
    assert 8080 == told["_meta"]["hostvars"][MACHINE.id]["jenkins_port"]


def test_no_machine_and_no_word_while_the_local_ec2_is_down(tmp_path: Path) -> None:
    """The real script, through Ansible: an empty inventory, no complaint, and nothing is started."""
    state = tmp_path / "state"

    outcome = ansible(ROOT, state, "-i", "inventory", "--list")

    assert {"_meta", "all"} == set(json.loads(outcome.stdout))
    assert "" == outcome.stderr
    assert not (state / "local" / "server.json").exists()


def test_an_account_that_is_not_there() -> None:
    """The script says in a line which account it doesn't know, and fails."""
    outcome = subprocess.run(
        [sys.executable, "inventory/machines.py", "--list"],
        cwd=ROOT,
        env={**os.environ, "BAKEHOUSE_ACCOUNT": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (1, "") == (outcome.returncode, outcome.stdout)
    assert outcome.stderr.startswith("error: there is no account nowhere\nhint: ")


def _checkout(folder: Path, script: str) -> None:
    """Make a checkout of its Ansible parts alone, with another script in the inventory."""
    (folder / "ansible.cfg").write_text((ROOT / "ansible.cfg").read_text())
    (folder / "inventory").mkdir()
    for name in ("group_vars", "aws_ec2.yml"):
        (folder / "inventory" / name).symlink_to(ROOT / "inventory" / name)
    (folder / "inventory" / "machines.py").write_text(script)
    (folder / "inventory" / "machines.py").chmod(0o755)
